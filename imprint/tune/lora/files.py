"""Reads a LoRA from peft's files, adapter_config.json and adapter_model.safetensors, without trusting them.

Source of the format: peft, `save_pretrained` of a model with a LoraConfig.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from imprint.messages import Bilingual, UserError
from imprint.models.families import print_notice
from imprint.models.network import Network
from imprint.tune.lora.lora import LORA_A, LORA_B, MAGNITUDE, PEFT_PREFIX, Lora
from imprint.tune.lora.patterns import deadline, match_patterns
from imprint.tune.lora.shape import AnyLinear, LoraShape, linears_of, refuse_quantized
from imprint.tune.lora.targets import TargetRule, is_head, refuse_head
from imprint.tune.peft_files import (
    CONFIG_FILE,
    damaged_error,
    read_peft_fields,
    read_peft_tensors,
    refuse_unknown,
    without_base_weights,
)

TENSOR_NAME = re.compile(r"(?P<linear>.+)\.(?P<part>lora_A|lora_B|lora_magnitude_vector)(?:\.(?!weight$)(?P<adapter>[^.]+))?(?:\.weight)?")
"""A tensor's name in the files of every version of peft, without the prefixes of wrappers."""
SUPPORTED = Bilingual("plain LoRA, rsLoRA and DoRA on linears", "线性层上的普通 LoRA、rsLoRA 和 DoRA")
BASE_CHANGING_INITS = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Initializations that peft subtracts from the base's weights; unless converted, such an adapter fits only the changed base."""
MAX_NUMBER = 1e9
"""Largest rank or alpha that is read: no training has such a one, and its products overflow."""
KEPT_INITS = ("gaussian", "eva", "orthogonal", "mica")
"""Initializations that leave the base's weights as they are."""
KNOWN_FIELDS = {
    "peft_type", "task_type", "base_model_name_or_path", "revision", "inference_mode", "peft_version", "auto_mapping", "target_modules",
    "exclude_modules", "lora_dropout", "layers_to_transform", "layers_pattern", "megatron_core", "loftq_config", "eva_config",
    "corda_config", "lora_ga_config", "qalora_group_size", "ensure_weight_tying", "runtime_config", "fan_in_fan_out",
}  # fmt: skip
"""Fields beside READ_FIELDS that change no number; TargetRule checks the four about targets. The tensors' names tell which linears are
adapted, an initialization is in the tensors already, and `fan_in_fan_out` says how the base's own weight is stored; A and B have the same
shapes for both."""
READ_FIELDS = {"r", "lora_alpha", "use_rslora", "use_dora", "rank_pattern", "alpha_pattern", "init_lora_weights", "bias"}


def read_lora(folder: Path, network: Network) -> Lora:
    """Read a LoRA from a folder with peft's files and attach it to the network.

    Only numbers, flags and the patterns of ranks and alphas are used: no class is imported, nothing downloaded. Raises UserError for a
    LoRA that does not fit the network, is damaged, or is of an unsupported kind.
    """
    path, fields = folder / CONFIG_FILE, read_peft_fields(folder)
    _refuse_unsupported(path, fields)
    by_linear, stored = _tensors_by_linear(folder, without_base_weights(folder, read_peft_tensors(folder), network), network)
    end = deadline()
    rule, linears = TargetRule(path, fields, end), linears_of(network)
    rule.refuse_untargeted(stored.values())
    without = [name for name in linears if name not in by_linear and not is_head(name, network)]
    _tell_of_missing(folder, rule.named(network.stored_name(f"{name}.weight").removesuffix(".weight") for name in without))
    shape = _shape(path, fields, by_linear, stored, end)
    for name in shape.targets:
        _check_tensors(folder, name, linears[name], by_linear[name], shape)
    refuse_quantized(shape, linears, "")
    lora = Lora(network, shape)
    lora.load_tensors({f"{PEFT_PREFIX}{name}.{part}": tensor for name, parts in by_linear.items() for part, tensor in parts.items()})
    return lora


def _refuse_unsupported(path: Path, fields: Mapping[str, Any]) -> None:
    """Raise UserError unless the fields describe a supported kind of LoRA."""
    init = fields.get("init_lora_weights")
    if isinstance(init, str) and init.lower().startswith(BASE_CHANGING_INITS):
        raise UserError(
            Bilingual(
                f'{path}: "init_lora_weights" is {init!r}, which changes the base, and the adapter fits only that changed base. Save it '
                "with peft's path_initial_model_for_weight_conversion, which converts it for the unchanged base.",
                f'{path}："init_lora_weights" 为 {init!r}，会改动底座，适配器只适合改动后的底座：'
                "请用 peft 的 path_initial_model_for_weight_conversion 保存，转换为适合原底座的适配器。",
            )
        )
    if (fields.get("bias") or "none") != "none":
        raise UserError(
            Bilingual(
                f'{path}: "bias" is {fields["bias"]!r}: its biases were trained too; only "none" is supported. Merge the adapter into its '
                "base with peft (merge_and_unload), and load the merged model.",
                f'{path}："bias" 为 {fields["bias"]!r}，偏置也参与了训练；只支持 "none"：请用 peft 的 merge_and_unload 合并后再加载。',
            )
        )
    if not (init is None or isinstance(init, bool)) and str(init).lower() not in KEPT_INITS:
        raise UserError(
            Bilingual(
                f'{path}: "init_lora_weights" is {str(init)[:60]!r}, an initialization that is not known: it may have changed the base. '
                f"Known: {', '.join(KEPT_INITS)}, true and false.",
                f'{path}："init_lora_weights" 为 {str(init)[:60]!r}，不认识这种初始化，它可能改动了底座；认识 {"、".join(KEPT_INITS)}。',
            )
        )
    refuse_unknown(path, fields, READ_FIELDS | KNOWN_FIELDS, SUPPORTED)


def _tensors_by_linear(
    folder: Path, tensors: Mapping[str, Tensor], network: Network
) -> tuple[dict[str, dict[str, Tensor]], dict[str, str]]:
    """Linear -> tensor name -> tensor, in the network's order, and linear -> its name in the file.

    Raises UserError for a tensor of anything else.
    """
    linears = linears_of(network)
    by_linear: dict[str, dict[str, Tensor]] = {}
    stored: dict[str, str] = {}
    adapters = set()
    for name, tensor in tensors.items():
        match = TENSOR_NAME.fullmatch(name)
        if match is None:
            raise UserError(
                Bilingual(
                    f"{folder}: holds the tensor {name!r}, which is no part of a LoRA on a linear. Supported: lora_A, lora_B, "
                    "lora_magnitude_vector.",
                    f"{folder}：含有不属于线性层 LoRA 的张量 {name!r}；支持 lora_A、lora_B、lora_magnitude_vector。",
                )
            )
        linear = network.network_name(f"{match['linear']}.weight").removesuffix(".weight")
        refuse_head([linear], network, str(folder))
        if linear not in linears:
            raise UserError(
                Bilingual(
                    f"{folder}: has a LoRA for {match['linear']!r}, which this base does not have. Load it together with the base it was "
                    "trained on.",
                    f"{folder}：该底座没有 {match['linear']!r}：请与其训练时的底座一起使用。",
                )
            )
        part = {"lora_A": LORA_A, "lora_B": LORA_B}.get(match["part"], MAGNITUDE)
        by_linear.setdefault(linear, {})[part] = tensor
        stored[linear] = match["linear"]
        adapters.add(match["adapter"])
    if len(adapters) > 1:
        names = ", ".join(sorted(map(str, adapters)))
        raise UserError(
            Bilingual(
                f"{folder}: holds more than one adapter: {names}. Save the one that you need on its own (save_pretrained of peft with "
                "selected_adapters).",
                f"{folder}：含有多个适配器：{names}；请用 peft 的 save_pretrained（selected_adapters）单独保存需要的一个。",
            )
        )
    return {name: by_linear[name] for name in linears if name in by_linear}, stored


def _tell_of_missing(folder: Path, names: Sequence[str]) -> None:
    """Print which linears have no tensors though the configuration names them: they stay as the base has them, as in peft."""
    if names:
        listed = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if names[3:] else "")
        notice = Bilingual(
            f"{folder}: has no LoRA for {listed}, though {CONFIG_FILE} names them. They stay as the base has them. If the training adapted "
            "them, copy the complete adapter folder again.",
            f"{folder}：{CONFIG_FILE} 列出了 {listed}，但没有它们的 LoRA 张量，这些层与底座相同；若训练过，请重新完整复制适配器目录。",
        )
        print_notice(notice)


def _shape(path: Path, fields: Mapping[str, Any], by_linear: Mapping[str, object], stored: Mapping[str, str], end: float) -> LoraShape:
    """The shape by the configuration; `stored`: linear -> its name in the tensor file, which peft's patterns match until `end`."""
    rank, alpha = fields.get("r"), fields.get("lora_alpha")
    own = {field: fields.get(field) or {} for field in ("rank_pattern", "alpha_pattern")}
    if other := next((field for field, patterns in own.items() if not isinstance(patterns, dict)), None):
        raise damaged_error(path, f"{other!r} must be an object of patterns and numbers, got {str(own[other])[:80]}")
    values = [rank, alpha, *own["rank_pattern"].values(), *own["alpha_pattern"].values()]
    if not all(isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= MAX_NUMBER for value in values):
        problem = f'"r", "lora_alpha" and the values of "rank_pattern" and "alpha_pattern" must be above 0, up to {MAX_NUMBER:g}'
        raise damaged_error(path, f"{problem}, got {str(values)[:200]}")
    if odd := next((value for value in (rank, *own["rank_pattern"].values()) if value != int(value)), None):
        raise damaged_error(path, f'"r" and the values of "rank_pattern" must be integers, got {odd}')
    flags = [fields.get(name) or False for name in ("use_rslora", "use_dora")]
    if not all(isinstance(flag, bool) for flag in flags):
        raise damaged_error(path, f'"use_rslora" and "use_dora" must be true or false, got {flags}')
    assert isinstance(rank, int | float)
    assert isinstance(alpha, int | float)
    ranks, alphas = (match_patterns(path, field, patterns, stored.values(), end) for field, patterns in own.items())
    own_ranks = {name: int(ranks[stored[name]]) for name in by_linear if stored[name] in ranks}
    own_alphas = {name: float(alphas[stored[name]]) for name in by_linear if stored[name] in alphas}
    return LoraShape(int(rank), float(alpha), flags[0], flags[1], tuple(by_linear), own_ranks, own_alphas)


def _check_tensors(folder: Path, name: str, linear: AnyLinear, parts: Mapping[str, Tensor], shape: LoraShape) -> None:
    """Raise UserError unless the tensors exist, are finite, and have the shapes that linear and configuration need."""
    rank = shape.ranks.get(name, shape.rank)
    shapes: dict[str, tuple[int, ...]] = {LORA_A: (rank, linear.in_features), LORA_B: (linear.out_features, rank)}
    shapes |= {MAGNITUDE: (linear.out_features,)} if shape.dora else {}
    for part in shapes | dict.fromkeys(parts):
        tensor, size = parts.get(part), shapes.get(part)
        if tensor is not None and tensor.is_floating_point() and tuple(tensor.shape) == size and torch.isfinite(tensor).all():
            continue
        actual = "missing" if tensor is None else f"{tuple(tensor.shape)} of {tensor.dtype}"
        raise UserError(
            Bilingual(
                f"{folder}: {name}.{part} is {actual}, this base and {CONFIG_FILE} call for {'none' if size is None else size} of finite "
                "values. Load the adapter together with the base it was trained on, and with its own configuration.",
                f"{folder}：{name}.{part} 与该底座和 {CONFIG_FILE} 不符：请与其训练时的底座和自己的配置一起使用。",
            )
        )
