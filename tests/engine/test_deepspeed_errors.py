import importlib.util
import json
from pathlib import Path

import pytest
import torch

from imprint.engine.deepspeed_config import deepspeed_settings
from imprint.engine.deepspeed_errors import translate_config_errors
from imprint.engine.deepspeed_zero import _import_deepspeed
from imprint.engine.section import EngineSection, OptimizerSection
from imprint.messages import UserError

needs_deepspeed = pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="DeepSpeed is not installed")


def checked(file: Path) -> None:
    """What DeepSpeed does with the settings of a file before it touches a network."""
    _import_deepspeed(torch.device("cpu"))
    from deepspeed.runtime.config import DeepSpeedConfig

    settings = deepspeed_settings(EngineSection(deepspeed=str(file)), OptimizerSection(), torch.float32, 1)
    with translate_config_errors(file):
        DeepSpeedConfig(settings)


def written(folder: Path, content: object) -> Path:
    file = folder / "deepspeed.json"
    file.write_text(json.dumps(content))
    return file


@needs_deepspeed
@pytest.mark.parametrize(
    ("content", "field"),
    [
        ({"zero_optimization": {"stage": 2, "aio": {"block_size": 262144}}}, "zero_optimization.aio"),
        ({"zero_optimization": {"stage": 2, "offload_optimizer": True}}, "zero_optimization.offload_optimizer"),
        ({"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "moon"}}}, "zero_optimization.offload_optimizer.device"),
        ({"zero_optimization": {"stage": 3, "stage3_max_live_parameters": "many"}}, "zero_optimization.stage3_max_live_parameters"),
        ({"zero_optimization": {"stage": 2, "reduce_bucket_size": -1}}, "zero_optimization.reduce_bucket_size"),
        ({"zero_optimization": {"stage": 2}, "fp16": {"enabled": True, "opt_level": "O3"}}, "fp16.opt_level"),
        ({"zero_optimization": {"stage": 2}, "checkpoint": {"tag_validation": "loud"}}, "checkpoint.tag_validation"),
        ({"zero_optimization": {"stage": 2}, "communication_data_type": "fp7"}, "communication_data_type"),
    ],
)
def test_what_deepspeed_refuses_is_told_with_file_and_field(content: dict[str, object], field: str, tmp_path: Path) -> None:
    file = written(tmp_path, content)

    with pytest.raises(UserError) as caught:
        checked(file)

    assert str(caught.value).startswith(f'{file}: "{field}": DeepSpeed does not accept it (')
    assert "Take it out of the file, or correct it; engine.deepspeed=zero2 and zero3 need no file." in str(caught.value)


@needs_deepspeed
@pytest.mark.parametrize(
    "content",
    [
        {"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu", "pin_memory": "auto"}}},
        {"zero_optimization": {"stage": 2}, "amp": {"enabled": False}, "bfloat16": {"enabled": "auto"}},
    ],
)
def test_what_is_auto_is_left_to_deepspeed(content: dict[str, object], tmp_path: Path) -> None:
    file = written(tmp_path, content)

    checked(file)

    assert "auto" not in json.dumps(deepspeed_settings(EngineSection(deepspeed=str(file)), OptimizerSection(), torch.float32, 1))


@pytest.mark.parametrize(
    "error", [ValueError("no"), AssertionError(), KeyError("stage"), RuntimeError("Unable to JIT load the async_io op")]
)
def test_an_error_without_a_field_names_the_file(error: Exception, tmp_path: Path) -> None:
    file = written(tmp_path, {"zero_optimization": {"stage": 2}})

    with pytest.raises(UserError, match="DeepSpeed does not accept it"), translate_config_errors(file):
        raise error


@pytest.mark.parametrize(
    ("error", "file"),
    [(RuntimeError("NCCL error"), "deepspeed.json"), (torch.OutOfMemoryError("CUDA"), "deepspeed.json"), (ValueError("no"), "")],
)
def test_other_errors_stay_what_they_are(error: Exception, file: str, tmp_path: Path) -> None:
    given = written(tmp_path, {"zero_optimization": {"stage": 2}}) if file else None

    with pytest.raises(type(error)), translate_config_errors(given):
        raise error
