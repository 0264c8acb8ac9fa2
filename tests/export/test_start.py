import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import imprint
from imprint.bundle import unpacked
from imprint.cli import main
from imprint.errors import UserError
from imprint.export import start, writers
from imprint.export.start import export_command
from imprint.export.ways import METHODS, REFUSED, TARGETS, WRITTEN
from imprint.models.checkpoint import load_pickle, read_tensors
from imprint.runs import RunFolder
from imprint.trained import open_model, read_run
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


def tuned(run: RunFolder, bits: int | None = None) -> list[int]:
    return answer(open_model(run.path, read_run(run.path), quantize=bits))


def base_of(run: RunFolder) -> str:
    found = read_run(run.path)
    assert found is not None
    return found.model.path


class TestWhatIsWritten:
    def test_a_prefix_as_the_originals_file(self, runs: dict[str, RunFolder], tmp_path: Path) -> None:
        run = runs["prefix"]

        out = export_command(run.path, "official", tmp_path / "out")

        assert list(load_pickle(out / "pytorch_model.bin")) == ["transformer.prefix_encoder.embedding.weight"]
        assert json.loads((out / "config.json").read_text())["pre_seq_len"] == 4
        assert answer(imprint.load(base_of(run), adapter=out, device="cpu")) == tuned(run)

    def test_a_lora_as_peft_writes_it(self, runs: dict[str, RunFolder], tmp_path: Path) -> None:
        run = runs["lora"]

        out = export_command(run.path, "peft", tmp_path / "out")

        assert json.loads((out / "adapter_config.json").read_text())["r"] == 4
        assert not (out / "adapter.json").exists()
        assert answer(imprint.load(base_of(run), adapter=out, device="cpu")) == tuned(run)

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

    @pytest.mark.parametrize("bits", [8, 4])
    @pytest.mark.parametrize("method", METHODS)
    def test_in_few_bits(self, runs: dict[str, RunFolder], tmp_path: Path, method: str, bits: int) -> None:
        run = runs[method]

        out = export_command(run.path, "int8" if bits == 8 else "int4", tmp_path / "out")

        assert json.loads((out / "config.json").read_text())["quantization_bit"] == bits
        model = imprint.load(out, adapter=out / "adapter" if method == "prefix" else None, device="cpu")
        assert method == "lora" or answer(model) == tuned(run, bits)
        assert sorted(entry.name for entry in out.iterdir() if entry.is_dir()) == (["adapter"] if method == "prefix" else [])

    def test_what_was_proven_is_on_record(self, runs: dict[str, RunFolder], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        out = export_command(runs["full"].path, "merged", tmp_path / "out", overrides=["questions=3"])

        record = json.loads((out / "export.json").read_text())
        assert (record["method"], record["target"], record["questions_answered_as_before"]) == ("full", "merged", 3)
        assert "3 questions are answered as before, token for token" in capsys.readouterr().out


class TestBundles:
    @pytest.mark.parametrize("method", METHODS)
    def test_chat_takes_one_as_it_is(
        self, runs: dict[str, RunFolder], tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

        bundle = export_command(runs[method].path, "bundle", tmp_path / "handed-on.tar")

        home = unpacked(bundle)
        assert answer(open_model(home, read_run(home))) == tuned(runs[method])
        assert (home / "config.yaml").is_file()

    def test_a_base_that_is_elsewhere_is_told_where(
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
        said = capsys.readouterr().err
        assert "say where it is now: base_path=FOLDER" in said


class TestRefusals:
    @pytest.mark.parametrize(("method", "target"), REFUSED)
    def test_what_cannot_be_is_said_with_its_reason(self, runs: dict[str, RunFolder], tmp_path: Path, method: str, target: str) -> None:
        with pytest.raises(UserError) as caught:
            export_command(runs[method].path, target, tmp_path / "out")  # type: ignore[arg-type]

        assert REFUSED[method, target][0] in str(caught.value)  # type: ignore[index]
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
        def large(path: Path, *rest: object, **knobs: object) -> imprint.model.Model:
            model = open_model(path, *rest, **knobs)  # type: ignore[arg-type]
            next(iter(model.network.parameters())).data[0, 0] = 1e6
            return model

        monkeypatch.setattr(writers, "open_model", large)
        with pytest.raises(UserError, match=r"holds numbers that torch\.float16 cannot hold .* Set dtype=bfloat16"):
            export_command(runs["full"].path, "merged", tmp_path / "out")

    def test_a_folder_that_is_no_export_is_not_replaced(self, runs: dict[str, RunFolder], tmp_path: Path) -> None:
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "thesis.txt").write_text("x")

        with pytest.raises(UserError, match="is there already and is no export"):
            export_command(runs["full"].path, "merged", tmp_path / "mine")

        first = export_command(runs["full"].path, "merged", tmp_path / "out")
        assert export_command(runs["full"].path, "merged", tmp_path / "out") == first

    def test_a_model_folder_and_a_run_without_a_result(self, runs: dict[str, RunFolder], tmp_path: Path) -> None:
        with pytest.raises(UserError, match="is a model folder, and there is nothing tuned to export"):
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


def test_every_method_and_target_has_a_way_or_a_reason() -> None:
    assert WRITTEN.keys() | REFUSED.keys() == {(method, target) for method in METHODS for target in TARGETS}
    assert not WRITTEN.keys() & REFUSED.keys()
    assert {key for key in WRITTEN if key[1] != "bundle"} == start.WRITERS.keys()
    assert start.RECORD == "export.json"


def test_the_command_line_knows_every_target(capsys: pytest.CaptureFixture[str], runs: dict[str, RunFolder], tmp_path: Path) -> None:
    assert main(["export", str(runs["full"].path), str(tmp_path / "out"), "--to", "merged"]) == 0
    with pytest.raises(SystemExit):
        main(["export", "x", "--to", "nowhere"])

    assert all(target in capsys.readouterr().err for target in TARGETS[:1])
