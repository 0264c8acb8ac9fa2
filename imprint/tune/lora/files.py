"""Reads a LoRA from peft's files, adapter_config.json and adapter_model.safetensors, without trusting them.

Source of the format: peft, `save_pretrained` of a model with a LoraConfig.
"""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from imprint.errors import UserError
from imprint.files import refuse_lfs_pointer
from imprint.models.checkpoint import load_pickle
from imprint.models.families import listing
from imprint.models.network import Network
from imprint.tune.lora.lora import CONFIG_FILE, LORA_A, LORA_B, MAGNITUDE, PEFT_PREFIX, PICKLE_FILE, TENSORS_FILE, Lora
from imprint.tune.lora.shape import AnyLinear, LoraShape, linears_of, refuse_quantized

TENSOR_NAME = re.compile(
    r"(?:base_model\.model\.)?(?P<linear>.+)\.(?P<part>lora_A|lora_B|lora_magnitude_vector)(?:\.default)?(?:\.weight)?"
)
"""A tensor's name in the files of every version of peft."""
BASE_CHANGING_INITS = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Initializations that peft subtracts from the base's weights; unless converted, such an adapter fits that changed base only."""
IGNORED_FIELDS = {
    "peft_type", "task_type", "base_model_name_or_path", "revision", "inference_mode", "peft_version", "auto_mapping", "target_modules",
    "exclude_modules", "lora_dropout", "init_lora_weights", "layers_to_transform", "layers_pattern", "megatron_config", "megatron_core",
    "loftq_config", "eva_config", "corda_config", "lora_ga_config", "qalora_group_size", "ensure_weight_tying", "runtime_config",
}  # fmt: skip
"""Other fields of a configuration: not used, since the tensors' names say which linears are adapted."""
READ_FIELDS = {"r", "lora_alpha", "use_rslora", "use_dora", "rank_pattern", "alpha_pattern"}


def read_lora(folder: Path, network: Network) -> Lora:
    """Read a LoRA from a folder with peft's files and attach it to the network.

    Only numbers of the configuration are used: no class name is imported, no pattern evaluated, nothing downloaded. Raises UserError for
    a LoRA that does not fit the network, is damaged, or is of an unknown kind.
    """
    path = folder / CONFIG_FILE
    fields = _read_fields(path)
    by_linear = _tensors_by_linear(folder, _read_tensors(folder), network)
    shape = _shape(path, fields, by_linear)
    linears = linears_of(network)
    for name in shape.targets:
        _check_tensors(folder, name, linears[name], by_linear[name], shape)
    refuse_quantized(shape, linears, "")
    lora = Lora(network, shape)
    lora.load_tensors({f"{PEFT_PREFIX}{name}.{part}": tensor for name, parts in by_linear.items() for part, tensor in parts.items()})
    return lora


def _read_fields(path: Path) -> dict[str, Any]:
    """The fields of adapter_config.json, if they are those of a known kind of LoRA."""
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(fields, dict):
            raise TypeError(f"holds {type(fields).__name__}, not an object")
    except (ValueError, TypeError, OSError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read as peft's configuration ({error}). Copy the adapter folder again, whole.") from error
    if fields.get("peft_type") != "LORA":
        raise UserError(f'{path}: "peft_type" is {fields.get("peft_type")!r}; of peft\'s adapters only LORA is read here.')
    init = fields.get("init_lora_weights")
    if isinstance(init, str) and init.startswith(BASE_CHANGING_INITS):
        raise UserError(
            f'{path}: "init_lora_weights" is {init!r}, which changes the base, and the adapter fits that changed base alone. Save it '
            "with peft's path_initial_model_for_weight_conversion, which makes it one for the base as it is."
        )
    if fields.get("bias", "none") != "none":
        raise UserError(f'{path}: "bias" is {fields["bias"]!r}: its biases were trained too, which is not known here; only "none" is.')
    unknown = sorted(name for name in fields.keys() - READ_FIELDS - IGNORED_FIELDS - {"bias"} if fields[name])
    if unknown:
        raise UserError(
            f"{path}: {unknown[0]!r} is {str(fields[unknown[0]])[:60]}, a kind of LoRA that is not known here. Known: "
            "plain LoRA, rsLoRA and DoRA on linears."
        )
    return fields


def _read_tensors(folder: Path) -> dict[str, Tensor]:
    if (file := folder / TENSORS_FILE).is_file():
        refuse_lfs_pointer(file)
        try:
            return load_file(file)
        except (SafetensorError, OSError) as error:
            raise UserError(f"{file}: cannot be read ({error}). Copy the adapter folder again, whole.") from error
    if (file := folder / PICKLE_FILE).is_file():
        return load_pickle(file)
    raise UserError(
        f"{folder}: has {CONFIG_FILE} but neither {TENSORS_FILE} nor {PICKLE_FILE}; found {listing(folder)}. Copy the folder again, whole."
    )


def _tensors_by_linear(folder: Path, tensors: Mapping[str, Tensor], network: Network) -> dict[str, dict[str, Tensor]]:
    """Linear -> tensor name -> tensor, in the network's order."""
    linears = linears_of(network)
    by_linear: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        match = TENSOR_NAME.fullmatch(name)
        if match is None:
            raise UserError(f"{folder}: holds the tensor {name!r}, which is no part of a LoRA on a linear. Known: lora_A, lora_B.")
        linear = network.parameter_name(f"{match['linear']}.weight").removesuffix(".weight")
        if linear not in linears:
            raise UserError(
                f"{folder}: has a LoRA for {match['linear']!r}, which this base does not have. Load it together with the base it was "
                "trained on."
            )
        part = {"lora_A": LORA_A, "lora_B": LORA_B}.get(match["part"], MAGNITUDE)
        by_linear.setdefault(linear, {})[part] = tensor
    if not by_linear:
        raise UserError(f"{folder}: its file of tensors is empty. Copy the adapter folder again, whole.")
    return {name: by_linear[name] for name in linears if name in by_linear}


def _shape(path: Path, fields: Mapping[str, Any], by_linear: Mapping[str, Mapping[str, Tensor]]) -> LoraShape:
    rank, alpha = fields.get("r"), fields.get("lora_alpha")
    ranks, alphas = fields.get("rank_pattern") or {}, fields.get("alpha_pattern") or {}
    numbers = [rank, alpha, *_values(ranks), *_values(alphas)]
    if not all(isinstance(number, int | float) and not isinstance(number, bool) and 0 < number < math.inf for number in numbers):
        raise UserError(
            f'{path}: "r", "lora_alpha" and the numbers of "rank_pattern" and "alpha_pattern" must be above 0, got {numbers}. '
            "Copy the adapter folder again, whole."
        )
    flags = [fields.get(name, False) for name in ("use_rslora", "use_dora")]
    if not all(isinstance(flag, bool) for flag in flags):
        raise UserError(f'{path}: "use_rslora" and "use_dora" must be true or false, got {flags}. Copy the adapter folder again, whole.')
    assert isinstance(rank, int | float)
    assert isinstance(alpha, int | float)
    own_ranks = {name: int(value) for name in by_linear if (value := _match_pattern(ranks, name)) is not None}
    own_alphas = {name: float(value) for name in by_linear if (value := _match_pattern(alphas, name)) is not None}
    return LoraShape(int(rank), float(alpha), flags[0], flags[1], tuple(by_linear), own_ranks, own_alphas)


def _values(pattern: object) -> list[Any]:
    return list(pattern.values()) if isinstance(pattern, dict) else [pattern]


def _match_pattern(patterns: Mapping[str, float], name: str) -> float | None:
    """The value of the first pattern that matches a linear; a pattern is the end of a name here, never a regular expression."""
    for pattern, value in patterns.items():
        end = pattern.removeprefix("^").removeprefix(PEFT_PREFIX).replace("\\.", ".")
        if name == end or name.endswith(f".{end}"):
            return value
    return None


def _check_tensors(folder: Path, name: str, linear: AnyLinear, parts: Mapping[str, Tensor], shape: LoraShape) -> None:
    """Raise UserError unless the tensors are there, finite, and of the shapes that the linear and the configuration need."""
    rank = shape.ranks.get(name, shape.rank)
    shapes: dict[str, tuple[int, ...]] = {LORA_A: (rank, linear.in_features), LORA_B: (linear.out_features, rank)}
    shapes |= {MAGNITUDE: (linear.out_features,)} if shape.dora else {}
    for part in shapes | dict.fromkeys(parts):
        tensor, size = parts.get(part), shapes.get(part)
        if tensor is not None and tensor.is_floating_point() and tuple(tensor.shape) == size and torch.isfinite(tensor).all():
            continue
        actual = "missing" if tensor is None else f"{tuple(tensor.shape)} of {tensor.dtype}"
        raise UserError(
            f"{folder}: {name}.{part} is {actual}, this base and {CONFIG_FILE} call for {'none' if size is None else size} of finite "
            "numbers. Load the adapter together with the base it was trained on, and with its own configuration."
        )
