"""A LoRA in peft's own files, adapter_config.json and adapter_model.safetensors: written by peft, and read without trusting them.

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
from safetensors.torch import load_file, save_file
from torch import Tensor

from imprint.errors import UserError
from imprint.files import refuse_lfs_pointer
from imprint.models.checkpoint import load_pickle
from imprint.models.families import listing
from imprint.models.network import Network
from imprint.tune.lora.lora import DOWN, MAGNITUDE, OUTER, UP, Lora
from imprint.tune.lora.shape import AnyLinear, LoraShape, linears, refuse_quantized

CONFIG, TENSORS, PICKLED = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
TENSOR_NAME = re.compile(
    r"(?:base_model\.model\.)?(?P<linear>.+)\.(?P<part>lora_A|lora_B|lora_magnitude_vector)(?:\.default)?(?:\.weight)?"
)
"""A tensor's name in peft's files of any version."""
CHANGES_THE_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Starts that peft subtracts from the base's weights; such an adapter is right only on that other base, unless it was converted."""
SAYS_NO_NUMBER = {
    "peft_type", "task_type", "base_model_name_or_path", "revision", "inference_mode", "peft_version", "auto_mapping", "target_modules",
    "exclude_modules", "lora_dropout", "init_lora_weights", "layers_to_transform", "layers_pattern", "megatron_config", "megatron_core",
    "loftq_config", "eva_config", "corda_config", "lora_ga_config", "qalora_group_size", "ensure_weight_tying", "runtime_config",
}  # fmt: skip
"""What a configuration says besides: nothing of it is followed, and the tensors' own names tell which linears are meant."""
READ = {"r", "lora_alpha", "use_rslora", "use_dora", "rank_pattern", "alpha_pattern"}


def write_lora(folder: Path, lora: Lora, base: str) -> None:
    """Write peft's two files into a folder that is there."""
    from imprint.tune.lora.layer import peft_config

    shape, tensors = lora.result()
    config = peft_config(shape)
    with lora.off():
        config.target_modules = shape.names(lora.network)
    config.base_model_name_or_path, config.inference_mode = base, True
    config.save_pretrained(str(folder))
    save_file({name: tensor.float().cpu().contiguous() for name, tensor in tensors.items()}, folder / TENSORS, {"format": "pt"})


def read_lora(folder: Path, network: Network) -> Lora:
    """The LoRA of a folder with peft's files, put on the network.

    Only numbers are taken from the configuration: no name in it is followed, no pattern evaluated, nothing fetched. Raises UserError for
    whatever does not fit the network, is damaged, or is a LoRA of a kind that is not known here.
    """
    place = folder / CONFIG
    fields = _read_fields(place)
    parts = _parts(folder, _read_tensors(folder), network)
    shape = _shape(place, fields, parts)
    for name, linear in ((name, linears(network)[name]) for name in shape.targets):
        _check(folder, name, linear, parts[name], shape)
    refuse_quantized(shape, linears(network), "")
    lora = Lora(network, shape)
    lora.fill({f"{OUTER}{name}.{part}": tensor for name, held in parts.items() for part, tensor in held.items()})
    return lora


def _read_fields(place: Path) -> dict[str, Any]:
    """The fields of adapter_config.json, none of a kind that would need more than numbers."""
    try:
        fields = json.loads(place.read_text(encoding="utf-8"))
        if not isinstance(fields, dict):
            raise TypeError(f"holds {type(fields).__name__}, not an object")
    except (ValueError, TypeError, OSError, RecursionError) as error:
        raise UserError(f"{place}: cannot be read as peft's configuration ({error}). Copy the adapter folder again, whole.") from error
    if fields.get("peft_type") != "LORA":
        raise UserError(f'{place}: "peft_type" is {fields.get("peft_type")!r}; of peft\'s adapters only LORA is read here.')
    start = fields.get("init_lora_weights")
    if isinstance(start, str) and start.startswith(CHANGES_THE_BASE):
        raise UserError(
            f'{place}: "init_lora_weights" is {start!r}, which changes the base, and the adapter fits that changed base alone. Save it '
            "with peft's path_initial_model_for_weight_conversion, which makes it one for the base as it is."
        )
    if fields.get("bias", "none") != "none":
        raise UserError(f'{place}: "bias" is {fields["bias"]!r}: its biases were trained too, which is not known here; only "none" is.')
    unknown = sorted(name for name in fields.keys() - READ - SAYS_NO_NUMBER - {"bias"} if fields[name])
    if unknown:
        raise UserError(
            f"{place}: {unknown[0]!r} is {str(fields[unknown[0]])[:60]}, a kind of LoRA that is not known here. Known: "
            "plain LoRA, rsLoRA and DoRA on linears."
        )
    return fields


def _read_tensors(folder: Path) -> dict[str, Tensor]:
    if (file := folder / TENSORS).is_file():
        refuse_lfs_pointer(file)
        try:
            return load_file(file)
        except (SafetensorError, OSError) as error:
            raise UserError(f"{file}: cannot be read ({error}). Copy the adapter folder again, whole.") from error
    if (file := folder / PICKLED).is_file():
        return load_pickle(file)
    raise UserError(f"{folder}: has {CONFIG} but neither {TENSORS} nor {PICKLED}; found {listing(folder)}. Copy the folder again, whole.")


def _parts(folder: Path, tensors: Mapping[str, Tensor], network: Network) -> dict[str, dict[str, Tensor]]:
    """The tensors by the network's linears, in the network's order, and by the name of the part."""
    there = linears(network)
    found: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        match = TENSOR_NAME.fullmatch(name)
        if match is None:
            raise UserError(f"{folder}: holds the tensor {name!r}, which is no part of a LoRA on a linear. Known: lora_A, lora_B.")
        linear = network.parameter_name(f"{match['linear']}.weight").removesuffix(".weight")
        if linear not in there:
            raise UserError(
                f"{folder}: has a LoRA for {match['linear']!r}, which this base does not have. Load it together with the base it was "
                "trained on."
            )
        part = {"lora_A": DOWN, "lora_B": UP}.get(match["part"], MAGNITUDE)
        found.setdefault(linear, {})[part] = tensor
    if not found:
        raise UserError(f"{folder}: its file of tensors is empty. Copy the adapter folder again, whole.")
    return {name: found[name] for name in there if name in found}


def _shape(place: Path, fields: Mapping[str, Any], parts: Mapping[str, Mapping[str, Tensor]]) -> LoraShape:
    rank, alpha = fields.get("r"), fields.get("lora_alpha")
    ranks, alphas = fields.get("rank_pattern") or {}, fields.get("alpha_pattern") or {}
    numbers = [rank, alpha, *_values(ranks), *_values(alphas)]
    if not all(isinstance(number, int | float) and not isinstance(number, bool) and 0 < number < math.inf for number in numbers):
        raise UserError(
            f'{place}: "r", "lora_alpha" and the numbers of "rank_pattern" and "alpha_pattern" must be above 0, got {numbers}. '
            "Copy the adapter folder again, whole."
        )
    flags = [fields.get(name, False) for name in ("use_rslora", "use_dora")]
    if not all(isinstance(flag, bool) for flag in flags):
        raise UserError(f'{place}: "use_rslora" and "use_dora" must be true or false, got {flags}. Copy the adapter folder again, whole.')
    assert isinstance(rank, int | float)
    assert isinstance(alpha, int | float)
    own_ranks = {name: int(found) for name in parts if (found := _pattern(ranks, name)) is not None}
    own_alphas = {name: float(found) for name in parts if (found := _pattern(alphas, name)) is not None}
    return LoraShape(int(rank), float(alpha), flags[0], flags[1], tuple(parts), own_ranks, own_alphas)


def _values(pattern: object) -> list[Any]:
    return list(pattern.values()) if isinstance(pattern, dict) else [pattern]


def _pattern(numbers: Mapping[str, float], name: str) -> float | None:
    """The number of the first pattern that means this linear; a pattern is taken for the end of a name, never for an expression."""
    for pattern, number in numbers.items():
        end = pattern.removeprefix("^").removeprefix(OUTER).replace("\\.", ".")
        if name == end or name.endswith(f".{end}"):
            return number
    return None


def _check(folder: Path, name: str, linear: AnyLinear, parts: Mapping[str, Tensor], shape: LoraShape) -> None:
    """A UserError unless each part is there as numbers of the size that the linear and the configuration call for."""
    rank = shape.ranks.get(name, shape.rank)
    wanted: dict[str, tuple[int, ...]] = {DOWN: (rank, linear.in_features), UP: (linear.out_features, rank)}
    wanted |= {MAGNITUDE: (linear.out_features,)} if shape.dora else {}
    for part in wanted | dict.fromkeys(parts):
        tensor, size = parts.get(part), wanted.get(part)
        if tensor is not None and tensor.is_floating_point() and tuple(tensor.shape) == size and torch.isfinite(tensor).all():
            continue
        held = "missing" if tensor is None else f"{tuple(tensor.shape)} of {tensor.dtype}"
        raise UserError(
            f"{folder}: {name}.{part} is {held}, this base and {CONFIG} call for {'none' if size is None else size} of finite numbers. "
            "Load the adapter together with the base it was trained on, and with its own configuration."
        )
