import json
from pathlib import Path
from typing import Any

import pytest
import torch

from imprint.engine.deepspeed_config import deepspeed_settings, ineffective_fields
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
    assert ineffective_fields(file) == []
    assert "auto" not in json.dumps(config)


def test_ineffective_fields_are_named(tmp_path: Path) -> None:
    file = written(tmp_path, {**ORIGINAL, "gradient_clipping": 3.0, "optimizer": {"type": "AdamW", "params": {"lr": 1}}, "scheduler": {}})
    assert settings(str(file))["gradient_clipping"] == 0.5
    assert "gradient_clipping (optimizer.clip)" in ineffective_fields(file)[0]
    assert "scheduler (optimizer.schedule)" in ineffective_fields(file)[0]
    assert "optimizer (optimizer.learning_rate" in ineffective_fields(file)[0]
    assert "optimizer" not in settings(str(file))
    assert "optimizer" not in settings(str(written(tmp_path, {**ORIGINAL, "optimizer": {"type": "auto", "params": "auto"}})))
    file = written(tmp_path, {**ORIGINAL, "fp16": {"enabled": True}, "bf16": {"enabled": False}})
    assert ineffective_fields(file) == [f"{file}: decided by the recipe instead / 由配方决定: fp16 (model.dtype), bf16 (model.dtype)"]


def test_offload_moves_the_optimizer_into_main_memory(tmp_path: Path) -> None:
    assert settings("zero2", offload=True)["zero_optimization"]["offload_optimizer"]["device"] == "cpu"
    own = {"zero_optimization": {"stage": 3, "offload_optimizer": {"device": "nvme", "nvme_path": "/fast"}}}
    assert settings(str(written(tmp_path, own)), offload=True)["zero_optimization"]["offload_optimizer"]["device"] == "nvme"


def test_fields_without_an_effect_are_named(tmp_path: Path) -> None:
    more = {"steps_per_print": 2000, "wall_clock_breakdown": False, "activation_checkpointing": {"partition_activations": True}}
    bf16 = {"enabled": "auto", "check_grad_overflow": True, "immediate_grad_update": True}
    file = written(tmp_path, {**ORIGINAL, **more, "bf16": bf16, "checkpoint": {"use_node_local_storage": True}, "_comment": "ours"})

    assert ineffective_fields(file) == [
        f"{file}: decided by the recipe instead / 由配方决定: activation_checkpointing (train.checkpointing)",
        f"{file}: without effect here / 此处不起作用: steps_per_print, checkpoint, bf16.immediate_grad_update",
    ]


@pytest.mark.parametrize(
    "more",
    [
        {"aio": "auto", "timers": {}, "communication_data_type": "auto", "checkpoint": {}},
        {"optimizer": None, "scheduler": None, "fp16": None, "bf16": None},
        {
            "elasticity": {"enabled": False},
            "compression_training": {},
            "curriculum_learning": {"enabled": False, "curriculum_type": "seqlen"},
        },
        {"gradient_allreduce_op": "mean", "sequence_parallel_size": 1, "prescale_gradients": False, "gradient_predivide_factor": 1},
        {"communication_data_type": "fp32", "tensorboard": {"enabled": False}, "//": "a comment"},
    ],
)
def test_what_is_off_or_done_anyway_is_accepted_without_a_word(more: dict[str, object], tmp_path: Path) -> None:
    file = written(tmp_path, {**ORIGINAL, **more})

    assert settings(str(file))["zero_optimization"]["stage"] == 2
    assert ineffective_fields(file) == []


@pytest.mark.parametrize("none", [None, {"device": "none"}, {}])
def test_offload_is_not_lost_where_a_file_has_an_empty_section(none: object, tmp_path: Path) -> None:
    own = {"zero_optimization": {"stage": 2, "offload_optimizer": none}}

    assert settings(str(written(tmp_path, own)), offload=True)["zero_optimization"]["offload_optimizer"]["device"] == "cpu"


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
            r'"amp" is not supported: all is computed in one type\. Take it out, and set model\.dtype',
        ),
        ({**ORIGINAL, "amp": {"enabled": "auto", "opt_level": "auto"}}, '"amp" is not supported'),
        ({**ORIGINAL, "gradient_accumulation_step": 8}, r'no field of a DeepSpeed file.* Did you mean "gradient_accumulation_steps"'),
        ({**ORIGINAL, "stage3_max_live_parameters": 1}, '"stage3_max_live_parameters" is no field of a DeepSpeed file'),
        ({**ORIGINAL, "gradient_allreduce_op": "sum"}, '"gradient_allreduce_op" is "sum", which changes what is computed'),
        ({**ORIGINAL, "sequence_parallel_size": 2}, '"sequence_parallel_size" is 2, which changes what is computed'),
        ({**ORIGINAL, "tensor_parallel": {"autotp_size": 2}}, '"tensor_parallel" is .* which changes what is computed'),
        ({**ORIGINAL, "progressive_layer_drop": {"enabled": True}}, '"progressive_layer_drop" is .* which changes what is computed'),
        ({**ORIGINAL, "data_types": {"param_dtype": "fp16"}}, '"data_types" is .* which changes what is computed'),
        ({**ORIGINAL, "torch_autocast": {"enabled": True}}, '"torch_autocast" is not supported'),
        ({**ORIGINAL, "aio": 5}, '"aio" must be an object, got 5'),
        ({**ORIGINAL, "comms_logger": True}, '"comms_logger" must be an object, got true'),
        ({**ORIGINAL, "communication_data_type": 5}, '"communication_data_type" must be a type such as "fp32", got 5'),
        ({**ORIGINAL, "prescale_gradients": "yes"}, '"prescale_gradients" must be true or false, got "yes"'),
        ({**ORIGINAL, "gradient_predivide_factor": "2"}, '"gradient_predivide_factor" must be a number above 0, got "2"'),
        ({**ORIGINAL, "gradient_predivide_factor": 0}, '"gradient_predivide_factor" must be a number above 0, got 0'),
        ({**ORIGINAL, "fp16": True}, '"fp16" must be an object, got .True.'),
        ({**ORIGINAL, "optimizer": {"type": "Lamb"}}, 'the optimizer "Lamb" is not supported; it is AdamW here'),
    ],
)
def test_an_unusable_file_is_a_user_error(content: object, sentence: str, tmp_path: Path) -> None:
    file = tmp_path / "deepspeed.json" if content is None else written(tmp_path, content)
    with pytest.raises(UserError, match=sentence):
        settings(str(file))
