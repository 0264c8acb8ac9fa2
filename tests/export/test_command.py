import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
import torch
from safetensors.torch import load_file

import imprint
from imprint.cli import main
from imprint.export import command, writers
from imprint.export.command import export_command
from imprint.export.section import ExportSection
from imprint.export.targets import QUANTIZED, REFUSED, TARGETS, Target
from imprint.files.atomic import write_json
from imprint.loading.bundle import unpack_cached
from imprint.loading.load import load_model
from imprint.loading.source import ModelSource, resolve_source
from imprint.messages import Bilingual, UserError
from imprint.models.checkpoint import load_pickle, read_tensors
from imprint.models.families import read_config
from imprint.quant.formats import find_format, stored_format
from imprint.quant.names import FormatName
from imprint.runs import RunFolder
from imprint.tune.method import Method
from tests.tinyrun import talking_run, tiny_recipe, tiny_run

PROMPT = "类型#上衣*颜色#白色"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunFolder]:
    """A run of each method on a base that answers the tiny rows."""
    prefix = talking_run(tmp_path_factory.mktemp("prefix"))
    recipe, base = prefix.path.parent / "recipe.yaml", prefix.path.parent / "talk" / "model"
    lora = tiny_run(recipe, "lora", f"model.path={base}", "tune={method: lora, rank: 4}", "optimizer.learning_rate=0.02")
    full = tiny_run(recipe, "full", f"model.path={base}", "tune={method: full}", "optimizer.learning_rate=0.003")
    return {"prefix": prefix, "lora": lora, "full": full}


def answer(model: imprint.model.Model) -> list[int]:
    (found,) = model.generate([model.prompt(PROMPT)], max_new_tokens=20)
    return found


def tuned(run: RunFolder, bits: FormatName | None = None) -> list[int]:
    return answer(load_model(resolve_source(run.path), quantize=bits))


def base_of(run: RunFolder) -> str:
    found = resolve_source(run.path).run
    assert found is not None
    return found.model.path


class TestWhatIsWritten:
    def test_a_prefix_as_the_originals_file(self, runs: dict[str, RunFolder], tmp_path: Path) -> None:
        run = runs["prefix"]

        out = export_command(run.path, "official", tmp_path / "out")

        assert list(load_pickle(out / "pytorch_model.bin")) == ["transformer.prefix_encoder.embedding.weight"]
        assert json.loads((out / "config.json").read_text())["pre_seq_len"] == 8
        assert answer(imprint.load(base_of(run), adapter=out, device="cpu")) == tuned(run)

    def test_a_lora_as_peft_writes_it(self, runs: dict[str, RunFolder], tmp_path: Path) -> None:
        run = runs["lora"]

        out = export_command(run.path, "peft", tmp_path / "out")

        assert json.loads((out / "adapter_config.json").read_text())["r"] == 4
        assert not (out / "adapter.json").exists()
        assert answer(imprint.load(base_of(run), adapter=out, device="cpu")) == tuned(run)

    def test_a_prefix_as_peft_writes_it(self, runs: dict[str, RunFolder], tmp_path: Path) -> None:
        run = runs["prefix"]

        out = export_command(run.path, "peft", tmp_path / "out")

        assert json.loads((out / "adapter_config.json").read_text())["num_virtual_tokens"] == 8
        assert not (out / "adapter.json").exists()
        assert answer(imprint.load(base_of(run), adapter=out, device="cpu")) == tuned(run)

    @pytest.mark.parametrize(
        ("method", "target", "knobs", "advised"),
        [
            ("prefix", "official", ["proof_dtype=float32"], []),
            ("lora", "peft", ["proof_dtype=bfloat16"], ["proof_dtype"]),
            ("lora", "merged", [], ["dtype"]),
            ("lora", "merged", ["dtype=float32"], []),
            ("full", "official", ["proof_dtype=bfloat16"], ["dtype", "proof_dtype"]),
        ],
    )
    def test_where_answers_differ_only_knobs_that_would_change_something_are_advised(
        self,
        runs: dict[str, RunFolder],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        method: str,
        target: Target,
        knobs: list[str],
        advised: list[str],
    ) -> None:
        told: list[list[str]] = []
        monkeypatch.setattr(command, "refuse_changed_answers", lambda *answers, rounding: told.append(rounding))
        export_command(runs[method].path, target, tmp_path / "out", overrides=["questions=1", *knobs])
        assert told == [advised]

    @pytest.mark.parametrize("method", ["lora", "full"])
    def test_weights_as_one_model_in_16_bit(self, runs: dict[str, RunFolder], tmp_path: Path, method: str) -> None:
        run = runs[method]

        out = export_command(run.path, "merged", tmp_path / "out")

        written, base = dict(read_tensors(out)), dict(read_tensors(Path(base_of(run))))
        assert written.keys() == base.keys()
        assert {tensor.dtype for tensor in written.values()} == {torch.float16}
        assert answer(imprint.load(out, device="cpu")) == tuned(run)

    def test_a_tuned_model_as_the_originals_folder(self, runs: dict[str, RunFolder], tmp_path: Path) -> None:
        run = runs["full"]

        out = export_command(run.path, "official", tmp_path / "out", overrides=["dtype=float32"])

        assert load_pickle(out / "pytorch_model.bin").keys() == load_file(run.model / "model.safetensors").keys()
        assert answer(imprint.load(out, device="cpu")) == tuned(run)

    @pytest.mark.parametrize("target", QUANTIZED)
    @pytest.mark.parametrize("method", get_args(Method))
    def test_in_few_bits(self, runs: dict[str, RunFolder], tmp_path: Path, method: str, target: Target) -> None:
        run = runs[method]

        out = export_command(run.path, target, tmp_path / "out")

        assert stored_format(json.loads((out / "config.json").read_text())) == find_format(QUANTIZED[target])
        model = imprint.load(out, adapter=out / "adapter" if method == "prefix" else None, device="cpu")
        assert method == "lora" or answer(model) == tuned(run, QUANTIZED[target])
        assert sorted(entry.name for entry in out.iterdir() if entry.is_dir()) == (["adapter"] if method == "prefix" else [])

    def test_what_was_proven_is_on_record(self, runs: dict[str, RunFolder], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        out = export_command(runs["full"].path, "merged", tmp_path / "out", overrides=["questions=3"])

        record = json.loads((out / "export.json").read_text())
        assert (record["method"], record["target"], record["questions_answered_as_before"]) == ("full", "merged", 3)
        assert "3 questions are answered as before, token for token" in capsys.readouterr().out

    @pytest.mark.parametrize("name", [4, "int4-g128"])
    def test_a_lora_on_a_folder_of_integers_as_one_model_of_numbers(
        self, runs: dict[str, RunFolder], tmp_path: Path, name: FormatName
    ) -> None:
        base, recipe = imprint.quantize(base_of(runs["lora"]), tmp_path / "base", name), runs["lora"].path.parent / "recipe.yaml"
        run = tiny_run(recipe, f"on-integers-{name}", f"model.path={base}", "tune={method: lora, rank: 4}", "train.steps=2")

        for target in ("merged", "int8"):
            export_command(run.path, target, tmp_path / target)

        assert not any(field.startswith("quantization") for field in read_config(tmp_path / "merged"))
        assert read_config(tmp_path / "int8")["quantization_bit"] == 8
        assert answer(imprint.load(tmp_path / "merged", device="cpu")) == tuned(run)

    @pytest.mark.parametrize(
        ("computed", "stored", "written"),
        [(None, "bfloat16", torch.bfloat16), ("bf16", "float16", torch.bfloat16), ("float32", "float32", torch.float16)],
    )
    def test_the_type_is_that_of_the_recipe_or_of_the_base(
        self, runs: dict[str, RunFolder], tmp_path: Path, computed: str | None, stored: str, written: torch.dtype
    ) -> None:
        source = resolve_source(runs["lora"].path)
        run = source.require_run(Bilingual("it has one", ""))
        shutil.copytree(base_of(runs["lora"]), tmp_path / "base")
        write_json(tmp_path / "base" / "config.json", {**read_config(tmp_path / "base"), "torch_dtype": stored})
        model = run.model.model_copy(update={"path": str(tmp_path / "base"), "dtype": computed})

        changed = replace(source, run=run.model_copy(update={"model": model}))
        assert command.written_dtype(changed, ExportSection()) == written
        assert command.written_dtype(source, ExportSection(dtype="float32")) == torch.float32

    def test_what_the_files_cannot_say_is_said(self, runs: dict[str, RunFolder]) -> None:
        run = resolve_source(runs["lora"].path).run
        assert run is not None
        run = run.model_copy(
            update={
                "model": run.model.model_copy(update={"template": "chatglm", "quantize": 8}),
                "data": run.data_section.model_copy(update={"source_prefix": "写广告："}),
            }
        )

        (first, second) = command.next_steps("lora", "peft", Path("out"), run)

        assert first.endswith(f"`imprint chat {run.model.path} adapter=out template=chatglm quantize=8`")
        assert second.startswith('"写广告：" is put before every question of this run')


class TestPlaces:
    def test_the_folder_in_which_one_stands_may_be_filled(
        self, runs: dict[str, RunFolder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)

        export_command(runs["full"].path, "merged", Path())

        assert (tmp_path / "export.json").is_file()

    def test_the_base_is_not_written_over_though_it_be_an_export(self, runs: dict[str, RunFolder], tmp_path: Path) -> None:
        base = export_command(runs["full"].path, "merged", tmp_path / "base")

        with pytest.raises(UserError, match="which is read"):
            export_command(runs["lora"].path, "merged", base, overrides=[f"base_path={base}"])

    def test_a_bundle_is_called_so_and_replaces_nothing_else(self, runs: dict[str, RunFolder], tmp_path: Path) -> None:
        (tmp_path / "thesis.tar").write_text("thesis")
        for name, sentence in (("thesis.txt", r"a bundle's name must end in \.tar"), ("thesis.tar", "exists already and is not a bundle")):
            with pytest.raises(UserError, match=sentence):
                export_command(runs["prefix"].path, "bundle", tmp_path / name)
        assert (tmp_path / "thesis.tar").read_text() == "thesis"

        for _again in range(2):
            export_command(runs["prefix"].path, "bundle", tmp_path / "mine.tar")

        assert sorted(entry.name for entry in tmp_path.iterdir()) == ["mine.tar", "thesis.tar"]


class TestBundles:
    @pytest.mark.parametrize("method", get_args(Method))
    def test_chat_takes_one_as_it_is(
        self, runs: dict[str, RunFolder], tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

        bundle = export_command(runs[method].path, "bundle", tmp_path / "handed-on.tar")

        home = unpack_cached(bundle)
        assert answer(load_model(resolve_source(home))) == tuned(runs[method])
        assert (home / "config.yaml").is_file()

    def test_a_base_that_is_elsewhere_is_reported_where(
        self, runs: dict[str, RunFolder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        monkeypatch.setattr("sys.stdin", None)
        bundle = export_command(runs["prefix"].path, "bundle", tmp_path / "handed-on.tar")
        base = Path(base_of(runs["prefix"]))
        base.rename(base.with_name("moved"))
        try:
            assert main(["chat", str(bundle)]) == 2
            assert main(["chat", str(bundle), f"base_path={base.with_name('moved')}"]) == 0
        finally:
            base.with_name("moved").rename(base)
        printed = capsys.readouterr().err
        assert f"bundle 打包文件: run · prefix · base 底座 {base}, licence 许可: not said" in printed
        assert "give its new path: base_path=FOLDER" in printed

    def test_what_a_killed_export_left_is_gone_after_the_next(
        self, runs: dict[str, RunFolder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("sys.stdin", None)
        for name in (".out.tar.part-run", "..out.tar.part-run.part"):
            (tmp_path / name).mkdir()
            (tmp_path / name / "weights").write_text("left")
        (tmp_path / ".out.tar.part").write_text("left")
        export_command(runs["prefix"].path, "bundle", tmp_path / "out.tar")
        assert [entry.name for entry in tmp_path.iterdir()] == ["out.tar"]

    def test_one_that_answers_differently_is_not_written(
        self, runs: dict[str, RunFolder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def another(path: Path, home: Path) -> None:
            shutil.copytree(runs["full"].path, home)

        monkeypatch.setattr(writers, "extract_bundle", another)
        with pytest.raises(UserError, match="questions differently, so nothing was written"):
            export_command(runs["prefix"].path, "bundle", tmp_path / "out.tar")
        assert list(tmp_path.iterdir()) == []


class TestBases:
    def test_one_that_was_moved_is_reported_where_and_a_tuned_model_needs_none(
        self, runs: dict[str, RunFolder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        base = Path(base_of(runs["lora"]))
        moved = base.rename(base.with_name("elsewhere"))
        try:
            with pytest.raises(UserError, match="give its new path: base_path=FOLDER"):
                export_command(runs["lora"].path, "merged", tmp_path / "lora")
            export_command(runs["lora"].path, "merged", tmp_path / "lora", overrides=[f"base_path={moved}"])
            export_command(runs["full"].path, "merged", tmp_path / "full")
        finally:
            moved.rename(base)
        assert answer(imprint.load(tmp_path / "full", device="cpu")) == tuned(runs["full"])

    def test_an_adapter_on_a_run_with_a_lora_leaves_once_that_is_merged(self, runs: dict[str, RunFolder], tmp_path: Path) -> None:
        recipe = runs["lora"].path.parent / "recipe.yaml"
        above = tiny_run(recipe, "above", f"model.path={runs['lora'].path}", "tune={method: lora, rank: 4}", "train.steps=2")

        with pytest.raises(UserError, match="whose LoRA is not merged"):
            export_command(above.path, "peft", tmp_path / "out")
        merged = export_command(runs["lora"].path, "merged", tmp_path / "merged", overrides=["dtype=float32"])
        out = export_command(above.path, "peft", tmp_path / "out", overrides=[f"base_path={merged}"])

        assert answer(imprint.load(merged, adapter=out, device="cpu")) == tuned(above)

    def test_one_in_a_run_is_named_as_other_tools_find_it(self, runs: dict[str, RunFolder], tmp_path: Path) -> None:
        recipe = runs["lora"].path.parent / "recipe.yaml"
        above = tiny_run(recipe, "on-full", f"model.path={runs['full'].path}", "tune={method: lora, rank: 4}", "train.steps=2")

        out = export_command(above.path, "peft", tmp_path / "out")

        assert json.loads((out / "adapter_config.json").read_text())["base_model_name_or_path"] == str(runs["full"].model)


class TestRefusals:
    @pytest.mark.parametrize(("method", "target"), REFUSED)
    def test_what_cannot_be_is_said_with_its_reason(self, runs: dict[str, RunFolder], tmp_path: Path, method: str, target: str) -> None:
        with pytest.raises(UserError) as caught:
            export_command(runs[method].path, target, tmp_path / "out")  # type: ignore[arg-type]

        assert REFUSED[method, target].english in str(caught.value)  # type: ignore[index]
        assert "It can go to: " in str(caught.value)
        assert not (tmp_path / "out").exists()

    def test_an_export_that_answers_differently_is_not_written(
        self, runs: dict[str, RunFolder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def wrong(model: imprint.model.Model, *_rest: object, **_knobs: object) -> None:
            for parameter in model.network.parameters():
                parameter.data.neg_()

        monkeypatch.setattr(writers, "refuse_overflow", wrong)
        with pytest.raises(UserError) as caught:
            export_command(runs["full"].path, "merged", tmp_path / "out")

        assert "questions differently, so nothing was written. First: " in str(caught.value)
        assert not (tmp_path / "out").exists()

    def test_numbers_too_large_for_the_type_are_named(
        self, runs: dict[str, RunFolder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def large(source: ModelSource, **knobs: object) -> imprint.model.Model:
            model = load_model(source, **knobs)  # type: ignore[arg-type]
            next(iter(model.network.parameters())).data[0, 0] = 1e6
            return model

        monkeypatch.setattr(writers, "load_model", large)
        with pytest.raises(UserError, match=r"holds values that torch\.float16 cannot represent .* Set dtype=bfloat16"):
            export_command(runs["full"].path, "merged", tmp_path / "out")

    def test_a_folder_that_is_no_export_is_not_replaced(self, runs: dict[str, RunFolder], tmp_path: Path) -> None:
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "thesis.txt").write_text("x")

        with pytest.raises(UserError, match="is there already and is not an export"):
            export_command(runs["full"].path, "merged", tmp_path / "mine")

        first = export_command(runs["full"].path, "merged", tmp_path / "out")
        assert export_command(runs["full"].path, "merged", tmp_path / "out") == first

    def test_a_model_folder_and_a_run_without_a_result(self, runs: dict[str, RunFolder], tmp_path: Path) -> None:
        with pytest.raises(UserError, match="is a model folder, and there is no tuned model to export"):
            export_command(Path(base_of(runs["full"])), "merged", None)
        with pytest.raises(UserError, match="there is no such folder"):
            export_command(tmp_path / "nowhere", "merged", None)
        recipe = tiny_recipe(tmp_path)
        empty = tiny_run(recipe, "empty", "train.steps=1")
        for entry in empty.adapter.iterdir():
            entry.unlink()
        empty.adapter.rmdir()
        with pytest.raises(UserError, match="has no adapter yet"):
            export_command(empty.path, "merged", None)


def test_an_export_into_a_link_is_written_where_it_leads_however_often(runs: dict[str, RunFolder], tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk" / "export")
    for _time in range(2):
        assert main(["export", str(runs["prefix"].path), str(tmp_path / "out"), "--to", "official", "questions=1"]) == 0
        assert (tmp_path / "out").is_symlink()
        assert (tmp_path / "disk" / "export" / "export.json").is_file()
        assert sorted(entry.name for folder in (tmp_path, tmp_path / "disk") for entry in folder.iterdir()) == ["disk", "export", "out"]


def test_every_method_and_target_has_a_writer_or_a_reason() -> None:
    assert command.WRITERS.keys() | REFUSED.keys() == {(method, target) for method in get_args(Method) for target in TARGETS}
    assert not command.WRITERS.keys() & REFUSED.keys()


def test_the_command_line_knows_every_target(capsys: pytest.CaptureFixture[str], runs: dict[str, RunFolder], tmp_path: Path) -> None:
    assert main(["export", str(runs["full"].path), str(tmp_path / "out"), "--to", "merged"]) == 0
    with pytest.raises(SystemExit):
        main(["export", "x", "--to", "nowhere"])

    printed = capsys.readouterr().err
    assert ", ".join(TARGETS) in printed


@pytest.mark.parametrize(
    ("method", "target"),
    [("prefix", "official"), ("prefix", "peft"), ("prefix", "int8"), ("lora", "peft"), ("lora", "bundle"), ("full", "int4")],
)
def test_a_dtype_that_would_not_be_written_is_refused(
    method: str, target: str, runs: dict[str, RunFolder], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.tar"
    assert main(["export", str(runs[method].path), str(out), "--to", target, "dtype=bfloat16"]) == 2
    assert f"dtype: would be ignored: --to {target} writes the tensors of a {method} run in the type that they are stored in" in (
        capsys.readouterr().err
    )
    assert not out.exists()


@pytest.mark.parametrize("name", ["model", "tokens", "state-000009"])
def test_an_export_does_not_take_a_name_under_which_the_run_looks_for_something_else(
    name: str, runs: dict[str, RunFolder], capsys: pytest.CaptureFixture[str]
) -> None:
    run = runs["lora"].path
    assert main(["export", str(run), str(run / name), "--to", "merged"]) == 2
    assert f"{run / name}: is a name that the run itself uses" in capsys.readouterr().err
    assert not (run / name).exists()
