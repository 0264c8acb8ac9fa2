"""Weights of a model folder: official shards read with one copy in memory, and the same layout written back."""

import json
import math
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from imprint.errors import UserError
from imprint.files import new_folder, refuse_pointer, write_json
from imprint.models.chatglm import ChatGLM
from imprint.models.families import build_network, listing, read_config

MAPPED_BYTES = 64 * 2**20
"""A shard is mapped anew after this many bytes, so that pages already copied do not add up in memory."""
HEAD = "lm_head.weight"
IGNORED_ENDINGS = ("rotary_emb.inv_freq", "position_ids")
PREFIX_PART = ".prefix_encoder."
SHARD_BYTES = 2 * 10**9
COMPARED_ROWS = 16


def load_network(folder: Path, *, dtype: torch.dtype, device: torch.device) -> ChatGLM:
    """The network of a model folder, frozen, in evaluation mode.

    Weights stay mapped to their file where neither type nor device changes. Raises UserError for a missing shard or tensor, a wrong shape,
    a damaged or unsafe file.
    """
    with torch.device("meta"):
        network = build_network(read_config(folder), folder)
    missing = dict(network.named_parameters())
    head = None
    for name, tensor in read_tensors(folder):
        if name.endswith(IGNORED_ENDINGS) or PREFIX_PART in name:
            continue  # a full checkpoint's prefix is an adapter's business
        if not tensor.is_floating_point():
            raise UserError(
                f"{folder}: {name!r} holds {tensor.dtype} numbers, perhaps quantised; this version reads unquantised weights only. "
                "Use the 16-bit folder of the same model."
            )
        if name == HEAD:
            head = _spread_rows(tensor).to(dtype)
            continue
        if name not in missing:
            raise UserError(
                f"{folder}: the weights hold {name!r}, which config.json does not call for. Check that config.json belongs to them."
            )
        expected = tuple(missing.pop(name).shape)
        if tuple(tensor.shape) != expected:
            raise UserError(
                f"{folder}: {name!r} has the shape {tuple(tensor.shape)}, config.json calls for {expected}. "
                "Check that config.json belongs to these weights."
            )
        place = network.get_submodule(name.rpartition(".")[0])
        parameter = torch.nn.Parameter(tensor.to(device=device, dtype=dtype), requires_grad=False)
        setattr(place, name.rpartition(".")[2], parameter)
    if missing:
        raise UserError(f"{folder}: {len(missing)} tensors are missing, the first is {min(missing)!r}. Download the weights again.")
    if head is not None and not _same(head, _spread_rows(network.head_weight).cpu()):
        raise UserError(
            f"{folder}: {HEAD!r} is not the embedding, but in this architecture they are one and the same tensor, stored twice. "
            f"Save the model with its head tied, or take {HEAD!r} out of the weights if the embedding is the good one."
        )
    return network.eval()


def _spread_rows(tensor: Tensor) -> Tensor:
    """Some rows from the first to the last, copied, by which two large tensors are told apart."""
    rows: Tensor = torch.atleast_1d(tensor.detach())
    return rows[torch.linspace(0, max(len(rows) - 1, 0), COMPARED_ROWS, device=rows.device).long()[: len(rows)]]


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether they are equal but for rounding to 16 bit, since the two may have been stored in different types."""
    return one.shape == other.shape and torch.allclose(one.float(), other.float(), rtol=2**-7, atol=1e-6, equal_nan=True)


def read_tensors(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Name and tensor of everything in the folder's weight files, mapped rather than read; files in the order of their names."""
    for path in weight_files(folder):
        yield from _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)


def weight_files(folder: Path) -> list[Path]:
    """The files with weights: an index's shards, or one file; safetensors before `.bin`."""
    for index, single in (("model.safetensors.index.json", "model.safetensors"), ("pytorch_model.bin.index.json", "pytorch_model.bin")):
        if (folder / index).is_file():
            return _shards(folder / index)
        if (folder / single).is_file():
            return [folder / single]
    raise UserError(
        f"{folder}: no weights; found {listing(folder)}. Allowed: model.safetensors or pytorch_model.bin, or shards together with their "
        "index (model.safetensors.index.json, pytorch_model.bin.index.json). Download what is missing."
    )


def _shards(index: Path) -> list[Path]:
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        outside = [name for name in names if Path(name).name != name]
    except (ValueError, KeyError, TypeError, AttributeError, OSError, RecursionError) as error:
        raise UserError(f'{index}: must be a JSON object with a "weight_map" of tensor names to files. Download the file again.') from error
    if outside:
        raise UserError(f"{index}: names a file outside its folder, {outside[0]!r}. Do not use this folder unless you trust its origin.")
    if absent := [name for name in names if not (index.parent / name).is_file()]:
        raise UserError(
            f"{index.parent}: {len(absent)} of {len(names)} shards are missing, the first is {absent[0]}. Download them into this folder."
        )
    return [index.parent / name for name in names]


def _read_safetensors(path: Path) -> Iterator[tuple[str, Tensor]]:
    refuse_pointer(path)
    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
        while names:
            with safe_open(path, framework="pt") as file:
                mapped = 0
                while names and mapped < MAPPED_BYTES:
                    tensor = file.get_tensor(names[0])
                    mapped += tensor.nbytes
                    yield names.pop(0), tensor
                    del tensor
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: is damaged or not a safetensors file ({error}). Download the file again.") from error


def _read_pickle(path: Path) -> Iterator[tuple[str, Tensor]]:
    tensors = load_pickle(path)
    names, limit = list(tensors), MAPPED_BYTES if _is_zipped(path) else math.inf
    while names:
        mapped = 0
        while names and mapped < limit:
            mapped += tensors[names[0]].nbytes
            yield names[0], tensors.pop(names.pop(0))
        tensors = load_pickle(path) if names else tensors


def load_pickle(path: Path) -> dict[str, Tensor]:
    """The tensors of a `.bin` file, by name, mapped where the format allows; nothing in the file is ever executed."""
    refuse_pointer(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle's version and the like: it is either read or refused
            found: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=_is_zipped(path))
    except Exception as error:  # damaged bytes can ask the reader for anything
        reason = str(error).split("\n")[0][:160]
        raise UserError(
            f"{path}: cannot be read as plain weights ({reason}). It is damaged, or holds code, which is never run. "
            "Download the file again from its official place."
        ) from error
    if isinstance(found, dict) and isinstance(found.get("state_dict"), dict):
        found = found["state_dict"]
    if not isinstance(found, dict) or not all(isinstance(name, str) and isinstance(value, Tensor) for name, value in found.items()):
        raise UserError(f"{path}: must hold a dict of tensors, found {type(found).__name__}. Give the file of weights itself.")
    return found


def _is_zipped(path: Path) -> bool:
    """Whether a `.bin` file can be mapped; what torch wrote before 1.6 is read as a whole."""
    with path.open("rb") as file:
        return file.read(2) == b"PK"


def save_network(
    network: ChatGLM,
    source: Path,
    folder: Path,
    *,
    dtype: torch.dtype | None = None,
    as_bin: bool = False,
    tied_once: bool = False,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write a complete model folder in the official layout: config.json, tokenizer files and weights.

    `source` gives config.json and the other small files; `dtype` None keeps the network's; shards of at most `shard_bytes` with an index,
    or one file where that is enough; `tied_once` leaves out the head's copy of the embedding. The folder appears complete or not at all.
    """
    fields = read_config(source)
    tensors = dict(network.state_dict())
    if not tied_once:
        tensors[HEAD] = network.head_weight.detach()
    dtype = dtype or network.head_weight.dtype
    stem, ending = ("pytorch_model", "bin") if as_bin else ("model", "safetensors")
    shards = _divide(tensors, shard_bytes, dtype)
    names = [f"{stem}.{ending}"] if len(shards) == 1 else [f"{stem}-{i + 1:05d}-of-{len(shards):05d}.{ending}" for i in range(len(shards))]
    with new_folder(folder) as part:
        for small in source.iterdir():
            if small.is_file() and small.suffix not in {".bin", ".safetensors"} and not small.name.endswith(".index.json"):
                shutil.copyfile(small, part / small.name)
        write_json(part / "config.json", {**fields, "torch_dtype": str(dtype).removeprefix("torch.")})
        for name, shard in zip(names, shards, strict=True):
            content = {key: tensors[key].to("cpu", dtype).clone().contiguous() for key in shard}
            torch.save(content, part / name) if as_bin else save_file(content, part / name, {"format": "pt"})
        if len(shards) > 1:
            total = sum(tensor.numel() * dtype.itemsize for tensor in tensors.values())
            weight_map = {key: name for name, shard in zip(names, shards, strict=True) for key in shard}
            write_json(part / f"{stem}.{ending}.index.json", {"metadata": {"total_size": total}, "weight_map": weight_map})


def _divide(tensors: dict[str, Tensor], shard_bytes: int, dtype: torch.dtype) -> list[list[str]]:
    """Tensor names in groups of at most `shard_bytes`, in order; a larger tensor stands alone."""
    groups: list[list[str]] = []
    room = 0
    for name, tensor in tensors.items():
        size = tensor.numel() * dtype.itemsize
        if not groups or size > room:
            groups.append([])
            room = shard_bytes
        groups[-1].append(name)
        room -= size
    return groups
