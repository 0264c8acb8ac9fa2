"""What becomes of each field of a DeepSpeed file: DeepSpeed itself passes over a name that it does not know, and so over a typing error.

Source of the names: `DeepSpeedConfig` of deepspeed.runtime.config, 0.9 to 0.19.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from imprint.config.problems import quote_value
from imprint.messages import Bilingual, UserError, closest, did_you_mean

AUTO = "auto"
RECIPE_FIELDS = {
    "train_batch_size": "train.batch_size",
    "train_micro_batch_size_per_gpu": "train.micro_batch_size",
    "gradient_accumulation_steps": "train.batch_size and train.micro_batch_size",
    "gradient_clipping": "optimizer.clip",
    "scheduler": "optimizer.schedule",
    "activation_checkpointing": "train.checkpointing",
}
"""Fields of a file that the recipe overrides -> the recipe's knobs for them."""
PRECISIONS = ("fp16", "bf16", "bfloat16", "amp", "torch_autocast")
"""Sections about the precision, which is the recipe's `model.dtype`."""
BF16: dict[str, object] = {"check_grad_overflow": True}
"""What the section `bf16` has beside `enabled`."""
SWITCHES = ("prescale_gradients", "disable_allgather", "disable_python_gc", "dump_state", "memory_breakdown")
NUMBERS = ("gradient_predivide_factor",)
SECTIONS = (
    "aio", "comms_logger", "flops_profiler", "tensorboard", "wandb", "csv_monitor", "comet", "timers", "checkpoint", "compile",
)  # fmt: skip
PASSED = {
    *SWITCHES, *NUMBERS, *SECTIONS, "zero_optimization", "communication_data_type", "log_level",
}  # fmt: skip
"""Fields that DeepSpeed gets and applies."""
UNUSED = {
    "steps_per_print", "wall_clock_breakdown", "zero_allow_untested_optimizer", "zero_force_ds_cpu_optimizer", "checkpoint",
    "dataloader_drop_last", "compile", "autotuning", "nebula", "datastates_ckpt", "vocabulary_size",
}  # fmt: skip
"""Fields without an effect here: they print, save or load in ways that training here does not use."""
ONLY_VALUES: Mapping[str, tuple[object, ...]] = {
    "gradient_allreduce_op": ("mean",),
    "sequence_parallel_size": (1,),
    "seq_parallel_communication_data_type": ("fp32",),
    "use_data_before_expert_parallelism": (),
}
"""Fields that are accepted with the value of what training here does, or switched off."""
REFUSED = {
    "gradient_allreduce_op", "tensor_parallel", "expert_parallel", "pipeline", "hybrid_engine", "compression_training", "data_efficiency",
    "data_types", "weight_quantization", "sparse_gradients", "sparse_attention", "quantize_training", "eigenvalue", "elasticity",
    "curriculum_learning", "progressive_layer_drop", "graph_harvesting", "managed_gradient_accumulation",
}  # fmt: skip
"""Fields that change what is computed, and that training here does not support."""
KNOWN = {*RECIPE_FIELDS, *PRECISIONS, *PASSED, *UNUSED, *ONLY_VALUES, *REFUSED, "optimizer"}
COMMENTS = ("_", "//", "#")
"""How names begin under which people put comments into JSON."""


def without_comments(content: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that are set: null, as in Python's None, and comments say nothing."""
    return {name: value for name, value in content.items() if value is not None and not name.startswith(COMMENTS)}


def refuse_unsupported(file: Path, content: Mapping[str, Any]) -> None:
    """Raise UserError for a field that is unknown, that is not supported and not switched off, or that has a value of a wrong type."""
    for name, value in content.items():
        if name not in KNOWN:
            raise _unknown_error(file, name)
        if name in SWITCHES and not (isinstance(value, bool) or value == AUTO):
            raise _value_error(file, name, value, "true or false")
        if name in NUMBERS and value != AUTO and (isinstance(value, bool) or not isinstance(value, int | float) or not value > 0):
            raise _value_error(file, name, value, "a number above 0")
        if name in SECTIONS and not (isinstance(value, dict) or value == AUTO):
            raise _value_error(file, name, value, "an object")
        if name == "communication_data_type" and not isinstance(value, str):
            raise _value_error(file, name, value, 'a type such as "fp32"')
        if name in {*ONLY_VALUES, *REFUSED} and not _is_off(value) and value not in ONLY_VALUES.get(name, ()):
            raise UserError(
                Bilingual(
                    f'engine.deepspeed: {file}: "{name}" is {quote_value(value)}, which changes what is computed and is not supported. '
                    "Take it out of the file.",
                    f'engine.deepspeed：{file}：不支持 "{name}"（{quote_value(value)}），它会改变计算结果：请从文件中去掉。',
                )
            )


def unused_fields(content: Mapping[str, Any], settings: Mapping[str, Any]) -> list[str]:
    """The names of the fields that have no effect here, but for those that ask for what is done anyway."""
    names = [name for name in content if name in UNUSED and not _is_off(content[name]) and content[name] != settings.get(name)]
    for section in PRECISIONS[1:]:
        fields = content.get(section, {}).items()
        names += [f"{section}.{name}" for name, value in fields if name != "enabled" and not _is_off(value) and value != BF16.get(name)]
    return names


def _is_off(value: object) -> bool:
    """Whether a field is left to DeepSpeed, or switches off what it is about."""
    enabled = value.get("enabled", None if value else False) if isinstance(value, dict) else value
    return enabled is False or value in (None, "", AUTO, [])


def _unknown_error(file: Path, name: str) -> UserError:
    meant = did_you_mean(closest(name, KNOWN), '"{}"')
    return UserError(
        Bilingual(
            f"engine.deepspeed: {file}: {quote_value(name)} is no field of a DeepSpeed file, and DeepSpeed would pass over it. "
            f"{meant.english}Correct it, or take it out.",
            f"engine.deepspeed：{file}："
            f"{quote_value(name)} 不是 DeepSpeed 配置的字段（DeepSpeed 会直接忽略）。{meant.chinese}请改正或去掉。",
        )
    )


def _value_error(file: Path, name: str, value: object, allowed: str) -> UserError:
    return UserError(
        Bilingual(
            f'engine.deepspeed: {file}: "{name}" must be {allowed}, got {quote_value(value)}. Correct it, or take it out.',
            f'engine.deepspeed：{file}："{name}" 的值 {quote_value(value)} 类型不对（应为 {allowed}）：请改正或去掉。',
        )
    )
