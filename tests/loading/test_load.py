import shutil
from pathlib import Path

import pytest
import torch

import imprint
from imprint.export.command import export_command
from imprint.loading.base import EMBEDDED
from imprint.loading.load import load_base, load_model, load_with, open_template, open_tokenizer, with_tokenizer_of
from imprint.loading.section import OpenSection
from imprint.loading.source import resolve_source
from imprint.messages import UserError
from imprint.models.families import read_config
from imprint.quant.row_int import RowInt
from imprint.runs import RunFolder
from imprint.tokenizers import VOCABULARY_FILE
from tests.tinyrun import tiny_recipe, tiny_run

LORA = ("tune={method: lora, rank: 2}", "train.steps=3", "optimizer.learning_rate=0.05")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunFolder]:
    """A run of each method on the same base."""
    recipe = tiny_recipe(tmp_path_factory.mktemp("trained"))
    return {
        "prefix": tiny_run(recipe, "prefix", "train.steps=2"),
        "lora": tiny_run(recipe, "lora", *LORA),
        "full": tiny_run(recipe, "full", "tune={method: full}", "train.steps=2"),
    }


@pytest.fixture
def base(runs: dict[str, RunFolder]) -> Path:
    return runs["prefix"].path.parent / "base"


def identity(path: str | Path, adapter: Path | None = None) -> str:
    return imprint.load(path, adapter=adapter, device="cpu").identity


def test_a_model_without_tokenizer_files_takes_those_of_another_folder(base: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(base, bare)
    (bare / VOCABULARY_FILE).unlink()
    model, fields = imprint.load(bare, device="cpu"), read_config(bare)
    assert not model.has_tokenizer
    assert with_tokenizer_of(bare, model, fields) is None
    assert with_tokenizer_of(tmp_path / "nowhere", model, fields) is None
    complete = with_tokenizer_of(base, model, fields)
    assert complete is not None
    assert complete.prompt("上衣") == imprint.load(base, device="cpu").prompt("上衣")
    assert complete.name == str(bare)


class TestRuns:
    def test_a_prefix_or_a_lora_is_on_its_base_and_can_be_switched_off(self, runs: dict[str, RunFolder], base: Path) -> None:
        ids = [[1, 2, 3]]
        plain = imprint.load(base, device="cpu").logits(ids)[0]
        for method in ("prefix", "lora"):
            model = imprint.load(runs[method].path)
            assert model.adapter is not None
            assert model.identity == identity(base, runs[method].adapter)
            with model.adapter_off():
                assert model.logits(ids)[0].equal(plain)
            assert not model.logits(ids)[0].equal(plain)

    def test_full_tuning_is_the_model_in_the_run(self, runs: dict[str, RunFolder]) -> None:
        assert imprint.load(runs["full"].path).adapter is None
        assert identity(runs["full"].path) == identity(runs["full"].model)

    def test_a_bundle_is_the_run_it_was_made_from(
        self, runs: dict[str, RunFolder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        for method, run in runs.items():
            bundle = export_command(run.path, "bundle", tmp_path / f"{method}.tar", overrides=["questions=1"])
            assert identity(bundle) == identity(run.path)

    def test_arguments_that_are_none_take_the_runs_values(self, runs: dict[str, RunFolder], tmp_path: Path) -> None:
        recipe = runs["prefix"].config.read_text(encoding="utf-8")
        assert "quantize: null" in recipe
        changed = recipe.replace("quantize: null", "quantize: 8").replace("source_prefix: ''", "source_prefix: 颜色")
        (tmp_path / "config.yaml").write_text(changed, encoding="utf-8")
        shutil.copytree(runs["prefix"].adapter, tmp_path / "adapter")
        model = imprint.load(tmp_path)
        assert (model.network.weight_format, model.source_prefix) == (RowInt(8), "颜色")
        requantized = imprint.load(tmp_path, quantize=4, dtype=torch.bfloat16)
        assert (requantized.network.weight_format, requantized.network.dtype) == (RowInt(4), torch.bfloat16)
        with pytest.raises(UserError, match="template: plain does not fit the tokenizer of"):
            imprint.load(tmp_path, template="plain")

    def test_a_run_without_a_result_is_refused(self, runs: dict[str, RunFolder], tmp_path: Path) -> None:
        shutil.copy(runs["prefix"].config, tmp_path / "config.yaml")
        with pytest.raises(UserError, match="has no adapter yet"):
            imprint.load(tmp_path)


class TestAdapters:
    def test_a_run_given_as_an_adapter_is_its_adapter(self, runs: dict[str, RunFolder], base: Path) -> None:
        assert identity(base, runs["lora"].path) == identity(runs["lora"].path)

    def test_an_adapter_is_added_to_the_result_of_a_run(self, runs: dict[str, RunFolder]) -> None:
        recipe = runs["full"].path.parent / "recipe.yaml"
        for method in ("full", "lora"):
            base_run = runs[method].path
            run = tiny_run(recipe, f"on-{method}", f"model.path={base_run}", "train.steps=1")
            assert identity(base_run, run.adapter) == identity(run.path)

    def test_a_run_with_a_prefix_has_its_own(self, runs: dict[str, RunFolder]) -> None:
        with pytest.raises(UserError, match=r"is a run, which has its own\. Give a model folder to use"):
            imprint.load(runs["prefix"].path, adapter=runs["lora"].path)

    def test_the_base_of_a_run_takes_another_adapter(self, runs: dict[str, RunFolder]) -> None:
        source = resolve_source(runs["prefix"].path)
        assert load_model(source, base=True, adapter=runs["lora"].path).identity == identity(runs["lora"].path)


class TestBases:
    def test_the_lora_of_a_run_is_merged_and_a_prefix_cannot_be(self, runs: dict[str, RunFolder]) -> None:
        assert load_base(runs["lora"].path, device="cpu").adapter is None
        assert load_base(runs["full"].path, device="cpu").identity == identity(runs["full"].model)
        with pytest.raises(UserError, match="is a run with a prefix, which is no part of the weights"):
            load_base(runs["prefix"].path, device="cpu")
        with pytest.raises(UserError, match=r"(?s)lora is a run with a LoRA, .* Leave model\.quantize out"):
            load_base(runs["lora"].path, quantize=8, device="cpu")

    def test_the_untouched_base_of_a_run_is_opened_on_request(self, runs: dict[str, RunFolder], base: Path) -> None:
        for run in runs.values():
            assert load_with(resolve_source(run.path), OpenSection(base=True)).identity == identity(base)

    def test_bits_are_8_or_4(self) -> None:
        with pytest.raises(UserError, match="quantize: must be 8, 4, int4-g128, fp8 or None, got 3"):
            imprint.load(EMBEDDED, quantize=3)  # type: ignore[arg-type]


class TestTokenizers:
    def test_a_run_has_the_tokenizer_of_its_base_and_no_weights_are_read(
        self, runs: dict[str, RunFolder], base: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delattr("imprint.loading.load.load_network")
        ids = open_tokenizer(resolve_source(base)).encode("类型")
        assert open_tokenizer(resolve_source(runs["prefix"].path)).encode("类型") == ids
        assert open_tokenizer(resolve_source(EMBEDDED)).encode("类型")
        assert open_template(resolve_source(base), "chatglm").name == "chatglm"

    def test_a_folder_without_a_tokenizer_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text("{}", encoding="utf-8")
        with pytest.raises(UserError, match=r"has no tokenizer \(ice_text\.model\)\. Copy the official file"):
            open_tokenizer(resolve_source(tmp_path))


def test_a_quantized_head_is_that_of_the_run_unless_it_is_asked_for_otherwise(tmp_path: Path) -> None:
    run = tiny_run(tiny_recipe(tmp_path), "head", "train.steps=1", "model.quantize=8", "model.quantize_head=true")

    loaded = [
        imprint.load(run.path, device="cpu"),
        load_with(resolve_source(run.path), OpenSection(quantize_head=False)),
        load_with(resolve_source(run.path), OpenSection(embedding_on_host=True)),
    ]

    assert [model.network.quantized_head is not None for model in loaded] == [True, False, True]
    assert [len(model.network.removed_first_rows) for model in loaded] == [1, 0, 0]


def test_kernels_are_those_that_were_asked_for_else_those_of_the_run(runs: dict[str, RunFolder], tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path)
    plain = tiny_run(recipe, "plain", "train.steps=1", "model.kernels=plain")

    loaded = [
        imprint.load(runs["prefix"].path, device="cpu"),
        imprint.load(runs["prefix"].path, device="cpu", kernels="plain"),
        imprint.load(plain.path, device="cpu"),
        load_with(resolve_source(plain.path), OpenSection(kernels="auto")),
    ]

    assert [model.network.kernels for model in loaded] == ["auto", "plain", "plain", "auto"]
    with pytest.raises(UserError, match='kernels: must be "auto", "plain" or None, got str \'fast\''):
        imprint.load(plain.path, kernels="fast")  # type: ignore[arg-type]
