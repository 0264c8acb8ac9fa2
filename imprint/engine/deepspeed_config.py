"""What DeepSpeed is told: made from the recipe's knobs, or from a DeepSpeed JSON file whose open places are filled.

A file may be one that was written for transformers: "auto" stands where the trainer decides, and optimizer and scheduler are the recipe's.
"""

import json
from pathlib import Path
from typing import Any

import torch

from imprint.engine.section import EngineSection, OptimizerSection
from imprint.errors import UserError

AUTO = "auto"
ADAM_NAMES = ("adam", "adamw")
RECIPE_FIELDS = {
    "train_batch_size": "train.batch_size",
    "train_micro_batch_size_per_gpu": "train.micro_batch_size",
    "gradient_accumulation_steps": "train.batch_size and train.micro_batch_size",
    "gradient_clipping": "optimizer.clip",
    "scheduler": "optimizer.schedule",
}
"""What a file may leave to the recipe, and the knobs that say it."""


def deepspeed_settings(knobs: EngineSection, optimizer: OptimizerSection, dtype: torch.dtype, processes: int) -> dict[str, Any]:
    """The configuration of one run. Raises UserError for a file that cannot be read, or says other than the recipe."""
    given = {} if knobs.file is None else _read(knobs.file)
    zero = dict(given.get("zero_optimization", {}) if knobs.file else {"stage": knobs.stage})
    stage = zero.get("stage")
    if stage not in (1, 2, 3):
        raise UserError(
            f'{knobs.file}: "zero_optimization" must have a "stage" of 1, 2 or 3, got {stage!r}. Without ZeRO leave engine.deepspeed out: '
            "the gradients are added up without DeepSpeed too."
        )
    if knobs.offload:
        zero.setdefault("offload_optimizer", {"device": "cpu"})  # not pinned: that takes up to twice the main memory
    settings = {name: value for name, value in given.items() if name not in (*RECIPE_FIELDS, "optimizer", "fp16", "bf16")}
    settings |= {
        "zero_optimization": _without_auto(zero),
        "train_micro_batch_size_per_gpu": 1,  # a step's micro-batches are counted by the loop
        "gradient_accumulation_steps": 1,
        "train_batch_size": processes,
        "gradient_clipping": optimizer.clip,
        "zero_force_ds_cpu_optimizer": False,  # torch's AdamW is as fast there and needs no compiler
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 10**12,
        "wall_clock_breakdown": False,
        "fp16": {**_fp16_fields(given.get("fp16")), "enabled": dtype == torch.float16},
        "bf16": {"enabled": dtype == torch.bfloat16, "check_grad_overflow": True},
    }
    return settings


def _read(file: Path) -> dict[str, Any]:
    try:
        given = json.loads(file.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise UserError(
            f"engine.deepspeed: {file}: there is no such file. Allowed are zero1, zero2, zero3, and the path of a DeepSpeed JSON file."
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"engine.deepspeed: {file}: cannot be read as JSON ({error}). Mend it, or say zero2 or zero3.") from error
    if not isinstance(given, dict) or not isinstance(given.get("zero_optimization", {}), dict):
        raise UserError(
            f'engine.deepspeed: {file}: must hold one JSON object with a "zero_optimization" in it. Mend it, or say zero2 or zero3.'
        )
    kind = given.get("optimizer", {}).get("type", "AdamW") if isinstance(given.get("optimizer", {}), dict) else given["optimizer"]
    if str(kind).lower() not in ADAM_NAMES:
        raise UserError(
            f'{file}: the optimizer "{kind}" is not offered; it is AdamW here, with the recipe\'s numbers. Take "optimizer" out.'
        )
    return given


def overridden_fields(file: Path) -> list[str]:
    """What a file says that the recipe decides, a sentence each."""
    given = _read(file)
    said = [f"{name} ({knob})" for name, knob in RECIPE_FIELDS.items() if name in given and given[name] != AUTO]
    said += ["optimizer (optimizer.learning_rate, optimizer.weight_decay)"] if "optimizer" in given else []
    return [f"{file}: decided by the recipe instead / 由配方决定: {', '.join(said)}"] if said else []


def _without_auto(zero: dict[str, Any]) -> dict[str, Any]:
    """Without what is left open: DeepSpeed's own defaults then."""
    return {name: value for name, value in zero.items() if value != AUTO}


def _fp16_fields(fp16: object) -> dict[str, Any]:
    """How a file scales the loss of float16."""
    given = fp16 if isinstance(fp16, dict) else {}
    return {name: value for name, value in given.items() if name != "enabled" and value != AUTO}
