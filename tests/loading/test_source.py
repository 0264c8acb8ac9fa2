import shutil
from pathlib import Path

import pytest

from imprint.cli import main
from imprint.export.command import export_command
from imprint.loading.base import EMBEDDED, base_folder
from imprint.loading.load import load
from imprint.loading.source import adapter_path, resolve_source
from imprint.messages import Bilingual, UserError
from imprint.runs import RunFolder
from tests.hubserver import COMMIT, Repository, hub_server, model_files
from tests.tinyrun import tiny_recipe, tiny_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return tiny_run(tiny_recipe(tmp_path_factory.mktemp("trained")), "run", "train.steps=2")


@pytest.fixture(scope="module")
def full(run: RunFolder) -> RunFolder:
    return tiny_run(run.path.parent / "recipe.yaml", "full", "tune={method: full}", "train.steps=1")


@pytest.fixture
def bundle(run: RunFolder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return export_command(run.path, "bundle", tmp_path / "handed.tar", overrides=["questions=1"])


def test_a_model_folder_has_no_recipe(run: RunFolder) -> None:
    base = resolve_source(run.path.parent / "base")
    assert (base.kind, base.run, base.method) == ("model", None, None)
    assert base.folder == base.path == base.base_folder == base.network_folder
    assert base.output_folder == Path("evaluations/base")
    assert resolve_source(EMBEDDED).folder == base_folder(EMBEDDED)
    with pytest.raises(UserError, match="base: is a model folder, and nothing was tuned there"):
        base.require_run(Bilingual("nothing was tuned there.", ""))


def test_a_run_has_a_recipe_and_a_method(run: RunFolder, full: RunFolder) -> None:
    prefix, tuned = resolve_source(run.path), resolve_source(str(full.path))
    assert (prefix.kind, prefix.method, tuned.method) == ("run", "prefix", "full")
    assert prefix.base_folder == prefix.network_folder == tuned.base_folder == run.path.parent / "base"
    assert tuned.network_folder == full.model
    assert prefix.output_folder == run.path
    assert prefix.require_run(Bilingual("it has one", "")) is prefix.run


def test_a_bundle_is_a_read_only_run(run: RunFolder, bundle: Path) -> None:
    source = resolve_source(bundle)
    assert (source.kind, source.method, source.path) == ("bundle", "prefix", bundle)
    assert source.bundle is not None
    assert source.bundle.name == "run"
    assert source.run == resolve_source(run.path).run
    assert source.output_folder == Path("evaluations/handed")
    resolve_source(run.path).refuse_bundle()
    with pytest.raises(UserError, match=r"handed\.tar: is a bundle, and this command writes into a run folder\. Unpack it"):
        source.refuse_bundle()


def test_a_missing_base_is_named_and_may_have_another_path(run: RunFolder, tmp_path: Path) -> None:
    assert resolve_source(run.path, tmp_path).base_folder == tmp_path
    with pytest.raises(UserError, match=r"its base, .*gone, does not exist\. Put it back, or give its new path: base_path=FOLDER"):
        _ = resolve_source(run.path, tmp_path / "gone").base_folder


def test_a_given_template_replaces_the_recipes(run: RunFolder) -> None:
    source = resolve_source(run.path)
    assert source.with_template(None) is source
    changed = source.with_template("plain").run
    assert changed is not None
    assert changed.model.template == "plain"


def test_any_other_path_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no such folder\. Give a run folder"):
        resolve_source(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"has neither config\.yaml nor config\.json\. Give a run folder"):
        resolve_source(tmp_path)
    (tmp_path / "rows.jsonl").touch()
    with pytest.raises(UserError, match=r"rows\.jsonl: is a file\. Give a run folder"):
        resolve_source(tmp_path / "rows.jsonl")


def test_the_runs_in_a_folder_that_is_none_are_named(run: RunFolder, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    shutil.copy(run.config, tmp_path / "run" / "config.yaml")
    sentence = rf"has neither config\.yaml nor config\.json\. Did you mean {tmp_path / 'run'}\? Give a run folder"
    with pytest.raises(UserError, match=sentence):
        resolve_source(tmp_path)
    for number in range(4):
        (tmp_path / f"base-{number}").mkdir()
        (tmp_path / f"base-{number}" / "config.json").touch()
    with pytest.raises(UserError, match=r"base-2, \.\.\.\? Give a run folder"):
        resolve_source(tmp_path)


def test_a_misspelt_run_is_named(run: RunFolder, tmp_path: Path) -> None:
    (tmp_path / "identity").mkdir()
    shutil.copy(run.config, tmp_path / "identity" / "config.yaml")
    with pytest.raises(UserError, match=rf"there is no such folder\. Did you mean {tmp_path / 'identity'}\? Give a run folder"):
        resolve_source(tmp_path / "identiy")


def test_a_run_without_a_result_has_no_method(run: RunFolder, tmp_path: Path) -> None:
    shutil.copy(run.config, tmp_path / "config.yaml")
    source = resolve_source(tmp_path)
    assert source.method is None
    with pytest.raises(UserError, match=r"has no adapter yet\. Let `imprint train` run to its first evaluation"):
        source.require_result()


def test_a_run_or_a_bundle_given_as_an_adapter_is_its_adapter(run: RunFolder, full: RunFolder, bundle: Path) -> None:
    assert adapter_path(run.path) == run.adapter
    assert adapter_path(bundle) == resolve_source(bundle).run_folder.adapter
    assert adapter_path(run.adapter) == run.adapter
    assert adapter_path("prefix.bin") == Path("prefix.bin")
    with pytest.raises(UserError, match="full is a run that tuned all parameters and has no adapter"):
        adapter_path(full.path)


def test_every_way_to_open_a_model_takes_a_name_of_the_hub(
    run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    rows, base = str(run.path.parent / "rows.jsonl"), run.path.parent / "base"
    with hub_server(tmp_path / "cache") as hub:
        hub.repositories["owner/tiny"] = Repository(model_files(base), {"main": COMMIT, "v1": COMMIT})
        source = resolve_source("owner/tiny")
        assert (source.kind, source.folder.name, source.output_folder) == ("model", COMMIT, Path("evaluations/tiny"))
        answers = [load(name).chat("你好", temperature=0)[0] for name in ("owner/tiny", "owner/tiny@v1", str(base))]
        assert len(set(answers)) == 1
        for command in (
            ["evaluate", "owner/tiny", "--data", rows, "--limit", "1"],
            ["perplexity", "owner/tiny", "--data", rows],
            ["data", "check", rows, "--model", "owner/tiny"],
            ["evaluate", str(run.path), "--data", rows, "--limit", "1", "base_path=owner/tiny@v1"],
            ["quantize", "owner/tiny", "small", "--bits", "8"],
        ):
            assert main(command) == 0, capsys.readouterr().err
        capsys.readouterr()
        assert main(["chat", "./owner/tiny"]) == 2
        assert "owner/tiny: there is no such folder. Give a run folder" in capsys.readouterr().err
        assert main(["compare", "owner/tiny"]) == 2  # a run only
        assert "there is no such folder" in capsys.readouterr().err
        with pytest.raises(UserError, match="there is no such folder"):
            load(Path("owner/tiny"))


def test_a_strangers_run_may_name_a_base_that_no_disk_can_have(run: RunFolder, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run.path, copy)
    recipe = (copy / "config.yaml").read_text(encoding="utf-8")
    (copy / "config.yaml").write_text(recipe.replace(f"path: {run.path.parent / 'base'}", f"path: {'x' * 5000}"), encoding="utf-8")
    with pytest.raises(UserError, match=r"xxx: the name is too long for the disk\. Choose a shorter one\.\n"):
        _ = resolve_source(copy).base_folder


def test_a_run_whose_base_is_itself_says_so(run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(run.path, tmp_path / "run")
    config = tmp_path / "run" / "config.yaml"
    config.write_text(config.read_text(encoding="utf-8").replace(f"path: {run.path.parent / 'base'}", "path: ."), encoding="utf-8")
    monkeypatch.chdir(tmp_path / "run")
    with pytest.raises(UserError, match=r"^\.: the bases of its bases lead back to it, or are more than 100\. Give the model folder"):
        _ = resolve_source(".").base_folder
