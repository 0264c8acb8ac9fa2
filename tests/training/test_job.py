import json
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from imprint.cli import main
from imprint.loading.load import load_model
from imprint.loading.source import resolve_source
from imprint.messages import Bilingual, UserError
from imprint.quant.fp8 import Fp8
from imprint.training import job
from imprint.training.job import TrainJob, describe_rows, products_notice, refuse_sharded_base
from tests.cases import small_network
from tests.tinyrun import losses, tiny_run


def test_a_text_start_with_a_projection_is_told_with_the_recipes_other_problems(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", str(recipe), "tune.projection=true", "train.steps=0"]) == 2
    said = capsys.readouterr().err
    assert "train.steps" in said
    assert '"text" cannot start a prefix with a projection' in said


def test_full_tuning_in_float16_is_refused(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    knobs = ["tune={method: full}", "model.dtype=float16", f"output={recipe.parent / 'half'}"]
    assert main(["train", str(recipe), *knobs]) == 2
    assert 'model.dtype: full tuning is not possible in "float16"' in capsys.readouterr().err


def test_rows_without_any_target_are_refused(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = recipe.parent / "empty-answers.jsonl"
    rows.write_text(json.dumps({"content": "类型#裙", "summary": ""}) + "\n", encoding="utf-8")
    code = main(["train", str(recipe), f"data.train={rows}", f"output={recipe.parent / 'empty'}", "data.dev_share=0"])
    said = capsys.readouterr().err
    assert code == 2
    assert said.startswith("error: ")


def test_a_run_is_continued_by_its_name(recipe: Path) -> None:
    first = tiny_run(recipe, "first")
    second = tiny_run(recipe, "second", f"tune.adapter={first.path}", "train.steps=1")
    third = tiny_run(recipe, "third", f"tune.adapter={first.adapter}", "train.steps=1")
    assert losses(second) == losses(third)
    assert losses(second, "eval_loss")[0] == min(loss for loss in losses(first, "eval_loss") if loss is not None)


def test_a_frozen_base_is_not_sharded_and_the_message_names_the_method() -> None:
    with pytest.raises(UserError, match=r"needs tune\.method=full; this is lora") as refused:
        refuse_sharded_base("lora")
    assert "zero2" in str(refused.value)


def test_rows_are_described_by_their_first_five_locations() -> None:
    job = SimpleNamespace(split=SimpleNamespace(location=lambda row: Bilingual(f"rows.jsonl:{row}", f"第 {row} 条")))
    assert describe_rows(cast(TrainJob, job), [4, 2]) == Bilingual("rows.jsonl:4, rows.jsonl:2", "第 4 条、第 2 条")
    more = describe_rows(cast(TrainJob, job), range(7))
    assert more.english.endswith("rows.jsonl:4 and 2 more")
    assert more.chinese.endswith("第 4 条 等 7 行")


def test_a_run_on_fp8_weights_says_why_they_are_dequantized_and_keeps_the_format(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tiny_run(recipe, "fp8", "model.quantize=fp8", "train.steps=2")
    assert (
        "FP8 weights are dequantized for every product, which takes more time than 16 bits: there is no NVIDIA GPU"
        in capsys.readouterr().out
    )
    assert load_model(resolve_source(run.path)).network.weight_format == Fp8()

    again = tiny_run(recipe, "fp8", "model.quantize=fp8", "train.steps=3")
    plain = tiny_run(recipe, "plain", "train.steps=3")
    assert losses(again) == pytest.approx(losses(plain), rel=0.02)
    assert losses(again) != losses(plain)


def test_no_reason_is_given_where_weights_are_multiplied_or_not_fp8(monkeypatch: pytest.MonkeyPatch) -> None:
    network = small_network()
    assert products_notice(network) is None
    network.weight_format = Fp8()
    monkeypatch.setattr(job, "fp8_fallback_reason", lambda _device, _dtype: None)
    assert products_notice(network) is None
    network.use_kernels("plain")
    assert "model.kernels is plain" in str(products_notice(network))
