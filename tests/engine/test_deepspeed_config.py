import json
from pathlib import Path
from typing import Any

import pytest
import torch

from imprint.engine.deepspeed_config import deepspeed_settings, overridden_fields
from imprint.engine.section import EngineSection, OptimizerSection
from imprint.messages import UserError

ORIGINAL = {  # in the form of ChatGLM-6B's ptuning/deepspeed.json
    "train_micro_batch_size_per_gpu": "auto",
    "zero_allow_untested_optimizer": True,
    "fp16": {
        "enabled": "auto",
        "loss_scale": 0,
        "initial_scale_power": 16,
        "loss_scale_window": 1000,
        "hysteresis": 2,
        "min_loss_scale": 1,
    },
    "zero_optimization": {
        "stage": 2,
        "allgather_partitions": True,
        "allgather_bucket_size": 5e8,
        "overlap_comm": False,
        "reduce_scatter": True,
        "reduce_bucket_size": "auto",
        "contiguous_gradients": True,
    },
}


def settings(deepspeed: str, dtype: torch.dtype = torch.bfloat16, *, offload: bool = False) -> dict[str, Any]:
    section = EngineSection(deepspeed=deepspeed, offload=offload)
    return deepspeed_settings(section, OptimizerSection(clip=0.5), dtype, processes=4)


def written(folder: Path, content: object) -> Path:
    file = folder / "deepspeed.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return file


@pytest.mark.parametrize(("name", "stage"), [("zero1", 1), ("zero2", 2), ("zero3", 3)])
def test_a_stage_needs_no_file(name: str, stage: int) -> None:
    config = settings(name)
    assert config["zero_optimization"] == {"stage": stage}
    assert (config["bf16"]["enabled"], config["fp16"]["enabled"], config["gradient_clipping"]) == (True, False, 0.5)
    assert (config["train_batch_size"], config["train_micro_batch_size_per_gpu"], config["gradient_accumulation_steps"]) == (4, 1, 1)


def test_the_originals_file_is_read_and_completed(tmp_path: Path) -> None:
    file = written(tmp_path, ORIGINAL)
    config = settings(str(file), torch.float16)
    assert config["zero_optimization"]["stage"] == 2
    assert config["zero_optimization"]["overlap_comm"] is False
    assert "reduce_bucket_size" not in config["zero_optimization"]
    assert config["fp16"] == {**ORIGINAL["fp16"], "enabled": True}  # type: ignore[dict-item]
    assert overridden_fields(file) == []
    assert "auto" not in json.dumps(config)


def test_overridden_fields_are_named(tmp_path: Path) -> None:
    file = written(tmp_path, {**ORIGINAL, "gradient_clipping": 3.0, "optimizer": {"type": "AdamW", "params": {"lr": 1}}, "scheduler": {}})
    assert settings(str(file))["gradient_clipping"] == 0.5
    assert "gradient_clipping (optimizer.clip)" in overridden_fields(file)[0]
    assert "scheduler (optimizer.schedule)" in overridden_fields(file)[0]
    assert "optimizer (optimizer.learning_rate" in overridden_fields(file)[0]
    assert "optimizer" not in settings(str(file))
    file = written(tmp_path, {**ORIGINAL, "fp16": {"enabled": True}, "bf16": {"enabled": False}})
    assert overridden_fields(file) == [f"{file}: decided by the recipe instead / 由配方决定: fp16 (model.dtype), bf16 (model.dtype)"]


def test_offload_moves_the_optimizer_into_main_memory(tmp_path: Path) -> None:
    assert settings("zero2", offload=True)["zero_optimization"]["offload_optimizer"]["device"] == "cpu"
    own = {"zero_optimization": {"stage": 3, "offload_optimizer": {"device": "nvme", "nvme_path": "/fast"}}}
    assert settings(str(written(tmp_path, own)), offload=True)["zero_optimization"]["offload_optimizer"]["device"] == "nvme"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, r"there is no such file\. Allowed are zero1, zero2, zero3"),
        ("{", "cannot be read as JSON"),
        ([1], "must hold one JSON object"),
        ({"zero_optimization": {"stage": 0}}, 'must have a "stage" of 1, 2 or 3; got 0'),
        ({"zero_optimization": {}}, 'a "stage" of 1, 2 or 3; it has none'),
        ({"zero_optimization": {"stage": "auto"}}, 'a "stage" of 1, 2 or 3; got "auto", and nothing here chooses one. Write a number'),
        ({"zero_optimization": {"stage": True}}, 'a "stage" of 1, 2 or 3; got true'),
        ({"zero_optimization": {"stage": [2]}}, r'a "stage" of 1, 2 or 3; got \[2\]'),
        ({"bf16": {"enabled": "auto"}}, 'a "stage" of 1, 2 or 3; it has none'),
        (
            {**ORIGINAL, "amp": {"enabled": True}},
            r'"amp" is not supported, DeepSpeed itself has removed it\. Take it out, and set model\.dtype',
        ),
        ({**ORIGINAL, "amp": {"enabled": "auto", "opt_level": "auto"}}, '"amp" is not supported'),
        ({**ORIGINAL, "fp16": True}, '"fp16" must be an object, got .True.'),
        ({**ORIGINAL, "optimizer": {"type": "Lamb"}}, 'the optimizer "Lamb" is not supported; it is AdamW here'),
    ],
)
def test_an_unusable_file_is_a_user_error(content: object, sentence: str, tmp_path: Path) -> None:
    file = tmp_path / "deepspeed.json" if content is None else written(tmp_path, content)
    with pytest.raises(UserError, match=sentence):
        settings(str(file))
