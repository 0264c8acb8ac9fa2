"""`imprint quantize MODEL OUT`: quantize a model folder, shard by shard."""

import math
import shutil
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from imprint import arguments
from imprint.export.destination import refuse_destination, with_file_name
from imprint.files.atomic import atomic_folder, write_json
from imprint.loading.source import resolve_source
from imprint.messages import Bilingual, UserError
from imprint.models.auxiliary_files import copy_auxiliary_files
from imprint.models.checkpoint import (
    PREFIX_PART,
    network_tensors,
    quantize_stored,
    read_tensors,
    refuse_not_finite,
    resolve_tied_name,
    split_into_shards,
    without_stale_quantization_config,
    write_index,
)
from imprint.models.families import build_network, read_config
from imprint.models.network import Network
from imprint.models.quantized_layers import folder_format, quantized_layers, quantized_tensors, tensors_of, with_format
from imprint.models.stored_weights import refuse_missing
from imprint.models.weight_files import shard_names
from imprint.progress import Progress
from imprint.quant.formats import find_format
from imprint.quant.linear import QuantizedWeight
from imprint.quant.names import FormatName
from imprint.quant.weight_format import WeightFormat
from imprint.terminal import say

SHARD_BYTES = 10**9
"""A shard is gathered in memory before it is written."""
DISK_RESERVE = 2**20
"""Bytes for config.json, tokenizer and the like."""


def quantize(folder: str | Path, out: str | Path, bits: FormatName) -> Path:
    """Write the model of `folder` to the folder `out`, its blocks' weights quantized under the original's names.

    `bits`: 8 or 4, the original's formats, or "int4-g128" or "fp8", which no other program reads.
    Everything else keeps the type it is stored in, fp16 in the official folders. The folder appears complete, and read back, or not at all.
    Raises UserError for a run with an adapter, a folder that is already quantized or damaged, and an unusable output path or disk.
    """
    path, out = arguments.path("folder", folder), arguments.path("out", out)
    weight_format = find_format(bits, "bits")
    out = with_file_name(out)
    _refuse_destination(out, [path] if path.exists() else [])  # before a model of the hub is downloaded
    model = resolve_source(folder if isinstance(folder, str) else path)
    if model.run is not None and model.method != "full":
        raise UserError(
            Bilingual(
                f"{folder}: is a run whose adapter is beside its base, and the base alone would be written. Use imprint export {folder} "
                f"--to {weight_format.title}, or give the base's own folder.",
                f"{folder}：该目录是带适配器的训练结果：请用 imprint export {folder} --to {weight_format.title}，或给出底座目录。",
            )
        )
    source = model.network_folder
    _refuse_destination(out, [source])
    plan = QuantizationPlan.from_folder(source, weight_format)
    _check_disk(out, plan.bytes_after)
    with atomic_folder(out) as temporary:
        write_quantized(plan, temporary, out)
    say(f"{out}: {plan.size_summary}; read back without a difference / 已写入并校验")
    say(f"next: `imprint chat {out}`, or model.path={out} in a recipe / 接下来可直接对话，或在配方中使用")
    return out


def _refuse_destination(out: Path, inputs: Sequence[Path]) -> None:
    refuse_destination(out, inputs, written_before=_is_quantized, otherwise="holds no quantized model")


@dataclass(frozen=True)
class QuantizationPlan:
    """The quantized folder to write."""

    source: Path
    """The folder that is read."""
    fields: dict[str, Any]
    """The fields of the new config.json."""
    network: Network
    """The network on the meta device."""
    bytes_before: int
    """Bytes of the weights that are read."""
    sizes: dict[str, int]
    """Bytes of each tensor that will be written, in the order in which they are read."""

    @classmethod
    def from_folder(cls, source: Path, weight_format: WeightFormat) -> "QuantizationPlan":
        """Scan the folder once. Raises UserError if it is quantized already or does not match its config.json."""
        fields = without_stale_quantization_config(read_config(source), source)
        if stored := folder_format(fields, source):
            raise UserError(
                Bilingual(
                    f"{source}: is quantized to {stored.label.english} already. Give the folder it was made from.",
                    f"{source}：该目录已量化为{stored.label.chinese}：请给出量化前的目录。",
                )
            )
        fields = with_format(fields, weight_format, source)
        with torch.device("meta"):
            network = build_network(fields, source)
        before, sizes = _sizes(source, network, quantized_layers(network))
        return cls(source, fields, network, before, sizes)

    @property
    def bytes_after(self) -> int:
        """Bytes that will be written."""
        return sum(self.sizes.values())

    @property
    def size_summary(self) -> str:
        """Size before and after, as text."""
        assert self.network.weight_format is not None
        return f"{self.network.weight_format.label.english}, {_size(self.bytes_after)} instead of {_size(self.bytes_before)}"


def write_quantized(plan: QuantizationPlan, temporary: Path, out: Path) -> None:
    """Write the folder `temporary`, which will be renamed to `out`, and read it back."""
    shards = split_into_shards(plan.sizes, SHARD_BYTES)
    files = dict(zip(shard_names("model", "safetensors", len(shards)), shards, strict=True))
    megabytes = math.ceil(plan.bytes_before / 10**6)
    with Progress(Bilingual("quantizing", "量化"), megabytes, "MB") as bar:
        copy_auxiliary_files(plan.source, temporary)
        checksums: dict[str, int] = {}
        reported = 0
        for bytes_read, written in _write(plan.source, plan.network, quantized_layers(plan.network), temporary, files):
            checksums |= written
            bar.advance(megabytes * bytes_read // plan.bytes_before - reported)
            reported = megabytes * bytes_read // plan.bytes_before
        if len(files) > 1:
            write_index(temporary / "model.safetensors.index.json", files, plan.bytes_after)
        write_json(temporary / "config.json", plan.fields)
        _read_back(temporary, out, checksums)


def _is_quantized(folder: Path) -> bool:
    """Whether a folder is what this command writes."""
    return (folder / "config.json").is_file() and folder_format(read_config(folder), folder) is not None


def _check_disk(out: Path, needed: int) -> None:
    existing = next(parent for parent in out.resolve().parents if parent.is_dir())
    free = shutil.disk_usage(existing).free
    if free < needed + DISK_RESERVE:
        raise UserError(
            Bilingual(
                f"{out}: {_size(needed)} will be written, and the disk has {_size(free)} left. Free some space, or choose a folder "
                "on another disk.",
                f"{out}：磁盘空间不足：请清理空间，或换到另一块磁盘。",
            )
        )


def _sizes(source: Path, network: Network, layers: Mapping[str, QuantizedWeight]) -> tuple[int, dict[str, int]]:
    """(bytes of the stored weights, bytes of each tensor to write in reading order)."""
    expected = network.state_dict()
    before, sizes = 0, dict[str, int]()
    missing = expected.keys() - (quantized_tensors(network).keys() - layers.keys())
    for name, tensor in network_tensors(source, network):
        before += tensor.nbytes
        if PREFIX_PART not in name:
            missing.discard(resolve_tied_name(source, name, network, expected))
        parts = tensors_of(name, layers[name]) if name in layers else {}
        sizes |= {part: stored.nbytes(tensor.dtype) for part, stored in parts.items()} or {name: tensor.nbytes}
    refuse_missing(source, missing - sizes.keys())
    return before, sizes


def _write(
    source: Path, network: Network, layers: Mapping[str, QuantizedWeight], temporary: Path, files: Mapping[str, list[str]]
) -> Iterator[tuple[int, dict[str, int]]]:
    """Write the shards in order; yields the bytes read so far and the checksums of the last tensors."""
    remaining, shard, bytes_read = iter(files.items()), {}, 0
    file, names = next(remaining)
    for name, tensor in network_tensors(source, network):
        plain = tensor.t() if name in network.transposed else tensor  # as the files have it
        parts = quantize_stored(source, name, tensor, layers[name]) if name in layers else {name: plain}
        checksums = {}
        for key, value in parts.items():
            refuse_not_finite(source, key, value)
            shard[key] = value.clone(memory_format=torch.contiguous_format)  # head and embedding may share memory
            checksums[key] = _checksum(shard[key])
            if len(shard) == len(names):
                save_file(shard, temporary / file, {"format": "pt"})
                shard = {}
                file, names = next(remaining, ("", []))
        bytes_read += tensor.nbytes
        yield bytes_read, checksums


def _read_back(temporary: Path, out: Path, checksums: Mapping[str, int]) -> None:
    checksums_read = {name: _checksum(tensor) for name, tensor in read_tensors(temporary)}
    if checksums_read != checksums:
        damaged = min(name for name in checksums if checksums_read.get(name) != checksums[name])
        raise UserError(
            Bilingual(
                f"{out}: {damaged!r} differs when read back: the disk or the memory is faulty. Use another disk.",
                f"{out}：写入后读回的内容不同，磁盘或内存有故障：请换一块磁盘。",
            )
        )


def _checksum(tensor: Tensor) -> int:
    return zlib.crc32(tensor.contiguous().flatten().view(torch.uint8).numpy().data)


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 10**9 else f"{count / 1e6:.2f} MB"
