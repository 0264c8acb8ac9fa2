from pathlib import Path

import pytest

from imprint.config import read_recipe
from imprint.engine.section import EngineSection, OptimizerSection
from imprint.messages import UserError
from imprint.training.recipe import Recipe
from tests.tinyrun import RECIPE


@pytest.mark.parametrize(
    ("knobs", "sentence"),
    [
        (["engine.offload=true"], "engine.offload=true: moves what DeepSpeed's zero2 or zero3 shards into main memory"),
        (["engine.deepspeed=zero1", "engine.offload=true"], "engine.offload=true: moves what DeepSpeed's"),
        (["engine.deepspeed=zero3", "engine.fsdp=true"], "engine.fsdp=true: does what engine.deepspeed=zero3 does; set one of the two"),
        (["engine.rendezvous=somewhere"], 'engine.rendezvous=somewhere: must be host:port, such as "10.0.0.1:29500"'),
        (["engine.processes=0"], "engine.processes=0"),
    ],
)
def test_an_invalid_combination_is_named_with_its_knob(knobs: list[str], sentence: str, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE.format(folder=tmp_path), encoding="utf-8")
    with pytest.raises(UserError) as caught:
        read_recipe(recipe, knobs, Recipe)
    assert sentence in str(caught.value)


@pytest.mark.parametrize(("value", "stage", "file"), [(None, None, None), ("zero2", 2, None), ("ds/a.json", None, Path("ds/a.json"))])
def test_deepspeed_is_a_stage_or_a_file(value: str | None, stage: int | None, file: Path | None) -> None:
    section = EngineSection(deepspeed=value)
    assert (section.stage, section.file) == (stage, file)


def test_the_learning_rate_depends_on_step_and_steps() -> None:
    section = OptimizerSection(learning_rate=1.0, schedule="linear", warmup_steps=0)
    assert [section.rate(step, 4) for step in (1, 2, 3, 4)] == [1.0, 0.75, 0.5, 0.25]
