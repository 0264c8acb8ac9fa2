"""The quantized layers of a network, the tensors of their format, and the fields of config.json that say so."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from imprint.messages import Bilingual, UserError
from imprint.models.network import Network
from imprint.quant.formats import QUANTIZATION_FIELDS, has_foreign_config, stored_format
from imprint.quant.linear import QuantizedWeight
from imprint.quant.weight_format import WEIGHT, FormatTensor, WeightFormat


def quantized_layers(network: Network) -> dict[str, QuantizedWeight]:
    """The quantized layers, by the names of their weights, as files have them: without a head that was quantized alone."""
    modules = network.named_modules()
    return {f"{name}.{WEIGHT}": one for name, one in modules if isinstance(one, QuantizedWeight) and one is not network.quantized_head}


def tensors_of(name: str, layer: QuantizedWeight) -> dict[str, FormatTensor]:
    """The format's tensors of the weight `name`, by their names in the network."""
    return {sibling_name(name, part): tensor for part, tensor in layer.format_tensors.items()}


def sibling_name(name: str, part: str) -> str:
    """The name of the tensor `part` of a format beside the weight `name`."""
    return name.removesuffix(WEIGHT) + part


def quantized_tensors(network: Network) -> dict[str, FormatTensor]:
    """The formats' tensors of all quantized weights, by name."""
    layers = quantized_layers(network).items()
    return {part: tensor for name, layer in layers for part, tensor in tensors_of(name, layer).items()}


def loaded_dtype(name: str, tensor: Tensor, dtype: torch.dtype, quantized: Mapping[str, FormatTensor]) -> torch.dtype:
    """The dtype of a tensor in a network that computes in `dtype`: integers keep their own, those of a format have what it says."""
    if name in quantized:
        return quantized[name].dtype or tensor.dtype
    return dtype if tensor.is_floating_point() else tensor.dtype


def folder_format(fields: Mapping[str, Any], folder: Path) -> WeightFormat | None:
    """The format that the fields of the folder's config.json name. Raises UserError for one that is not known."""
    try:
        return stored_format(fields)
    except UserError as error:
        raise error.prefixed(f"{folder}/") from error


def with_format(fields: dict[str, Any], weight_format: WeightFormat | None, folder: Path) -> dict[str, Any]:
    """The fields of config.json that say this format; None leaves them. Raises UserError where the folder has another one."""
    existing = folder_format(fields, folder)
    if weight_format is None or has_foreign_config(fields) or (existing is not None and existing.name == weight_format.name):
        return fields
    if existing is not None:
        requested = weight_format.label
        raise UserError(
            Bilingual(
                f"{folder}: is quantized to {existing.label.english} already, and {requested.english} are asked for. Leave `quantize` out, "
                "or give the folder of the same model that is not quantized.",
                f"{folder}："
                f"该目录已量化为{existing.label.chinese}，不能再读成{requested.chinese}：请去掉 quantize，或给出同一模型未量化的目录。",
            )
        )
    return {name: value for name, value in fields.items() if name not in QUANTIZATION_FIELDS} | weight_format.fields
