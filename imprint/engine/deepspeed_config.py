"""DeepSpeed's configuration: from the recipe's knobs, or from a DeepSpeed JSON file, completed from the recipe.

The file may be one for transformers, where "auto" marks what the trainer decides; optimizer and scheduler come from the recipe.
"""

from pathlib import Path
from typing import Any

import torch

from imprint.config.problems import quote_value
from imprint.engine.deepspeed_fields import AUTO, BF16, PRECISIONS, RECIPE_FIELDS, refuse_unsupported, unused_fields, without_comments
from imprint.engine.section import EngineSection, OptimizerSection
from imprint.files.reading import read_json
from imprint.messages import Bilingual, UserError

ADAM_NAMES = ("adam", "adamw")
STAGES = (1, 2, 3)
MIXED = ("amp", "torch_autocast")
"""Sections that would compute parts of a network in another type."""
FIXED: dict[str, object] = {
    "zero_force_ds_cpu_optimizer": False,  # torch's AdamW is as fast there and needs no compiler
    "zero_allow_untested_optimizer": True,
    "steps_per_print": 10**12,
    "wall_clock_breakdown": False,
}
"""Settings that no file changes."""


def deepspeed_settings(knobs: EngineSection, optimizer: OptimizerSection, dtype: torch.dtype, processes: int) -> dict[str, Any]:
    """DeepSpeed's configuration for one run. Raises UserError for a file that cannot be read or used."""
    content = {} if knobs.file is None else _without_auto(_read(knobs.file))
    zero = dict(content.get("zero_optimization", {}) if knobs.file else {"stage": knobs.stage})
    if knobs.offload and zero.get("offload_optimizer") in (None, False, {}, {"device": "none"}):
        zero["offload_optimizer"] = {"device": "cpu"}  # not pinned: that takes up to twice the main memory
    settings = {name: value for name, value in content.items() if name not in (*RECIPE_FIELDS, *PRECISIONS, "optimizer")}
    settings |= {
        "zero_optimization": zero,
        "train_micro_batch_size_per_gpu": 1,  # the training loop counts the micro-batches of a step
        "gradient_accumulation_steps": 1,
        "train_batch_size": processes,
        "gradient_clipping": optimizer.clip,
        "fp16": {**content.get("fp16", {}), "enabled": dtype == torch.float16},
        **FIXED,
        "bf16": {"enabled": dtype == torch.bfloat16, **BF16},
    }
    return settings


def _read(file: Path) -> dict[str, Any]:
    try:
        content = read_json(file, "utf-8-sig")
    except FileNotFoundError:
        raise UserError(
            Bilingual(
                f"engine.deepspeed: {file}: there is no such file. Allowed are zero1, zero2, zero3, and the path of a DeepSpeed JSON file.",
                f"engine.deepspeed：{file}：没有这个文件：可用 zero1、zero2、zero3，或 DeepSpeed 的 JSON 文件路径。",
            )
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            Bilingual(
                f"engine.deepspeed: {file}: cannot be read as JSON ({error}). Fix it, or use zero2 or zero3.",
                f"engine.deepspeed：{file}：无法作为 JSON 读取：请修正该文件，或改用 zero2、zero3。",
            )
        ) from error
    content = without_comments(content) if isinstance(content, dict) else content
    if not isinstance(content, dict) or not isinstance(content.get("zero_optimization", {}), dict):
        raise UserError(
            Bilingual(
                f'engine.deepspeed: {file}: must hold one JSON object with a "zero_optimization" in it. Fix it, or use zero2 or zero3.',
                f'engine.deepspeed：{file}：必须是含有 "zero_optimization" 的 JSON 对象：请修正该文件，或改用 zero2、zero3。',
            )
        )
    for name in PRECISIONS:
        if not isinstance(content.get(name, {}), dict):
            raise UserError(
                Bilingual(
                    f'engine.deepspeed: {file}: "{name}" must be an object, got {str(content[name])[:40]!r}. Take it out; the precision is '
                    "model.dtype.",
                    f'engine.deepspeed：{file}："{name}" 必须是对象：请去掉它，精度由 model.dtype 决定。',
                )
            )
    for name in MIXED:
        if content.get(name, {}).get("enabled", False) is not False:  # "auto", too: it was for a library that turned it on
            raise UserError(
                Bilingual(
                    f'engine.deepspeed: {file}: "{name}" is not supported: all is computed in one type. Take it out, and set '
                    "model.dtype=float16 or bfloat16.",
                    f'engine.deepspeed：{file}：不支持 "{name}"（只用一种类型计算）：请去掉它，并把 model.dtype 设为 float16 或 bfloat16。',
                )
            )
    _check_stage(content.get("zero_optimization", {}), file)
    refuse_unsupported(file, content)
    optimizer = content.get("optimizer", {})
    name = optimizer.get("type", "AdamW") if isinstance(optimizer, dict) else optimizer
    if name != AUTO and str(name).lower() not in ADAM_NAMES:
        raise UserError(
            Bilingual(
                f'{file}: the optimizer "{name}" is not supported; it is AdamW here, with the recipe\'s settings. Take "optimizer" out.',
                f'{file}：不支持优化器 {name}；此处使用 AdamW，参数由配方决定：请去掉 "optimizer"。',
            )
        )
    return content


def _check_stage(zero: dict[str, Any], file: Path) -> None:
    """Raise UserError for anything but a stage that DeepSpeed partitions with; "auto" is none, because nothing decides it."""
    stage = zero.get("stage")
    if isinstance(stage, int) and not isinstance(stage, bool) and stage in STAGES:
        return
    english, chinese = (f"got {quote_value(stage)}", f"实际为 {quote_value(stage)}") if "stage" in zero else ("it has none", "文件中没有")
    if stage == AUTO:
        english, chinese = 'got "auto", and nothing here chooses one', "实际为 auto，而此处不会自动选择"
    raise UserError(
        Bilingual(
            f'engine.deepspeed: {file}: "zero_optimization" must have a "stage" of 1, 2 or 3; {english}. Write a number, or use zero2 or '
            "zero3. Without ZeRO leave engine.deepspeed out: gradients are reduced without DeepSpeed too.",
            f'engine.deepspeed：{file}："zero_optimization" 的 "stage" 必须是 1、2 或 3，{chinese}：请写明数字，或改用 zero2、zero3；'
            "不用 ZeRO 时请去掉 engine.deepspeed。",
        )
    )


def ineffective_fields(file: Path) -> list[str]:
    """Notices of the fields of a file that the recipe overrides, and of those that have no effect here; empty where there are none."""
    content = _read(file)
    overridden = [f"{name} ({knob})" for name, knob in RECIPE_FIELDS.items() if name in content and content[name] != AUTO]
    overridden += ["optimizer (optimizer.learning_rate, optimizer.weight_decay)"] if "optimizer" in content else []
    overridden += [f"{name} (model.dtype)" for name in PRECISIONS if isinstance(content.get(name, {}).get("enabled"), bool)]
    listed = [
        (Bilingual("decided by the recipe instead", "由配方决定"), overridden),
        (Bilingual("without effect here", "此处不起作用"), unused_fields(content, FIXED)),
    ]
    return [f"{file}: {notice.line}: {', '.join(names)}" for notice, names in listed if names]


def _without_auto(fields: dict[str, Any]) -> dict[str, Any]:
    """Drop the fields that are "auto", in sections too, so that DeepSpeed's defaults apply."""
    return {name: _without_auto(value) if isinstance(value, dict) else value for name, value in fields.items() if value != AUTO}
