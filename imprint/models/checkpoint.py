"""Weights of a model folder: official shards read with one copy in memory, plain or quantised, and the same layout written back."""

import json
import math
import shutil
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from imprint.errors import UserError
from imprint.files import atomic_folder, refuse_lfs_pointer, write_json
from imprint.models.families import build_network, listing, read_config
from imprint.models.network import Network
from imprint.quant.formats import SCALE, quantize
from imprint.quant.linear import QuantizedWeight

MAPPED_BYTES = 64 * 2**20
"""A shard is mapped anew after this many bytes, so that pages already copied do not add up in memory."""
IGNORED_ENDINGS = ("rotary_emb.inv_freq", "rotary_pos_emb.inv_freq", "position_ids")
PREFIX_PART = ".prefix_encoder."
WEIGHT_SUFFIXES = (".bin", ".pt", ".pth", ".safetensors")
SHARD_BYTES = 2 * 10**9
COMPARED_ROWS = 16


def load_network(folder: Path, *, dtype: torch.dtype, device: torch.device, bits: int | None = None) -> Network:
    """The network of a model folder, frozen, in evaluation mode.

    Weights stay mapped to their file where neither type nor device changes. `bits`, 8 or 4, quantises the blocks' weights, each as it is
    read and from the type it is stored in. Raises UserError for a missing shard or tensor, a wrong shape, a damaged or unsafe file, and
    where the folder is quantised to another number of bits.
    """
    fields = read_config(folder)
    with torch.device("meta"):
        network = build_network(quantized_fields(fields, bits, folder), folder)
    plain = {} if fields.get("quantization_bit") else quantized_layers(network)
    expected = network.state_dict()
    copies: dict[str, tuple[str, Tensor]] = {}
    missing = expected.keys() - set(map(scale_of, plain))
    for stored, tensor in read_tensors(folder):
        if stored.endswith(IGNORED_ENDINGS) or PREFIX_PART in stored:
            continue  # a full checkpoint's prefix is an adapter's business
        name = network.parameter_name(stored)
        missing.discard(name)
        if (twin := twin_of(folder, name, network, expected)) != name:
            _check_type(folder, name, tensor, expected[twin])
            copies[name] = twin, _spread_rows(tensor)
        elif name in plain:
            for part, value in quantize_read(folder, name, tensor.to(device), plain[name]).items():
                _place(network, part, value)
        else:
            _check_type(folder, name, tensor, expected[name])
            _check_shape(folder, name, tensor, expected[name].shape)
            kept = tensor.to(device, stored_type(name, tensor, dtype))
            # a small tensor that stays mapped would hold all that was read through the same mapping in memory
            _place(network, name, kept.clone() if plain and kept.nbytes < MAPPED_BYTES else kept)
    refuse_missing(folder, missing)
    read = network.state_dict()
    for name, (twin, rows) in copies.items():
        if not _same(rows.to(read[twin].dtype), _spread_rows(read[twin]).cpu()):
            raise UserError(
                f"{folder}: {name!r} is not the embedding, but in this architecture they are one and the same tensor, stored twice. "
                f"Save the model with its head tied, or take {name!r} out of the weights if the embedding is the good one."
            )
    network.finish_loading(device)
    return network.eval()


def quantized_fields(fields: dict[str, Any], bits: int | None, folder: Path) -> dict[str, Any]:
    """The fields of config.json for a network of so many bits; None leaves them. Raises UserError where the folder has other bits."""
    there = fields.get("quantization_bit")
    if bits is None or there == bits:
        return fields
    if there:
        raise UserError(
            f"{folder}: is quantised to {there} bits already, and {bits} are asked for. Leave `quantize` out, or give the folder of the "
            "same model that is not quantised."
        )
    return {**fields, "quantization_bit": bits, "quantization_embeddings": False}


def quantized_layers(network: Network) -> dict[str, QuantizedWeight]:
    """The layers that hold integers, by the names of their weights."""
    return {f"{name}.weight": layer for name, layer in network.named_modules() if isinstance(layer, QuantizedWeight)}


def quantize_read(folder: Path, name: str, weight: Tensor, layer: QuantizedWeight) -> dict[str, Tensor]:
    """Integers and scales, by their names, of a weight as a folder holds it. Raises UserError where it does not fit the layer."""
    if not weight.is_floating_point():
        raise UserError(
            f'{folder}: {name!r} holds {weight.dtype} numbers, but config.json has no "quantization_bit". Take config.json from the '
            "folder the weights come from."
        )
    _check_shape(folder, name, weight, torch.Size((layer.rows, layer.columns)))
    integers, scale = quantize(weight, layer.bits, layer.scale_dtype)
    if not scale.isfinite().all():
        raise UserError(f"{folder}: {name!r} holds numbers that are not finite, or too large for fp16 scales. Download the weights again.")
    return {name: integers, scale_of(name): scale}


def scale_of(name: str) -> str:
    """What the scales of a quantised weight are called."""
    return name.removesuffix("weight") + SCALE


def twin_of(folder: Path, name: str, network: Network, expected: Collection[str]) -> str:
    """The name under which the network holds a tensor: its own, or for a tied head the embedding's. Raises UserError for an unknown one."""
    twin = next((its + name.removeprefix(copy) for copy, its in network.tied.items() if name.startswith(copy)), name)
    if twin not in expected:
        raise UserError(
            f"{folder}: the weights hold {name!r}, which config.json does not call for. Check that config.json belongs to them."
        )
    return twin


def refuse_missing(folder: Path, missing: Collection[str]) -> None:
    """Raise UserError where something is missing."""
    if missing:
        raise UserError(f"{folder}: {len(missing)} tensors are missing, the first is {min(missing)!r}. Download the weights again.")


def stored_type(name: str, tensor: Tensor, dtype: torch.dtype) -> torch.dtype:
    """The type in which a tensor is held by a network that computes in `dtype`: integers and their scales have their own."""
    return dtype if tensor.is_floating_point() and not name.endswith(SCALE) else tensor.dtype


def _place(network: Network, name: str, tensor: Tensor) -> None:
    """Put a tensor where the network has one of this name: a buffer of integers or scales, or a frozen parameter."""
    place, _, last = name.rpartition(".")
    layer = network.get_submodule(place)
    if isinstance(layer, QuantizedWeight) and last == SCALE:
        tensor = tensor.to(layer.scale_dtype or tensor.dtype)
    setattr(layer, last, torch.nn.Parameter(tensor, requires_grad=False) if last in dict(layer.named_parameters(recurse=False)) else tensor)


def _check_type(folder: Path, name: str, tensor: Tensor, expected: Tensor) -> None:
    """A UserError unless both are numbers with a fraction, or both are int8."""
    if tensor.is_floating_point() == expected.is_floating_point() and (tensor.is_floating_point() or tensor.dtype == expected.dtype):
        return
    wanted = "floating-point numbers" if expected.is_floating_point() else "torch.int8 numbers"
    raise UserError(
        f'{folder}: {name!r} holds {tensor.dtype} numbers, config.json calls for {wanted} ("quantization_bit" says whether weights are '
        "quantised). Take config.json from the folder the weights come from."
    )


def _check_shape(folder: Path, name: str, tensor: Tensor, expected: torch.Size) -> None:
    if tensor.shape != expected:
        raise UserError(
            f"{folder}: {name!r} has the shape {tuple(tensor.shape)}, config.json calls for {tuple(expected)}. "
            "Check that config.json belongs to these weights."
        )


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


def tensor_names(folder: Path) -> list[str]:
    """The names of everything in the folder's weight files, as they were stored."""
    return [name for path in weight_files(folder) for name in (_stored_names(path) if path.suffix == ".safetensors" else load_pickle(path))]


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


def _stored_names(path: Path) -> list[str]:
    refuse_lfs_pointer(path)
    with _damage_told(path), safe_open(path, framework="pt") as file:
        return list(file.keys())


def _read_safetensors(path: Path) -> Iterator[tuple[str, Tensor]]:
    names = _stored_names(path)
    with _damage_told(path):
        while names:
            with safe_open(path, framework="pt") as file:
                mapped = 0
                while names and mapped < MAPPED_BYTES:
                    tensor = file.get_tensor(names[0])
                    mapped += tensor.nbytes
                    yield names.pop(0), tensor
                    del tensor


@contextmanager
def _damage_told(path: Path) -> Iterator[None]:
    try:
        yield
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
    refuse_lfs_pointer(path)
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
    network: Network,
    source: Path,
    folder: Path,
    *,
    dtype: torch.dtype | None = None,
    as_bin: bool = False,
    tied_once: bool = False,
    shard_bytes: int = SHARD_BYTES,
    gather: Callable[[Tensor], Tensor] | None = None,
    writes: bool = True,
) -> None:
    """Write a complete model folder in the official layout: config.json, tokenizer files and weights.

    `source` gives config.json and the other small files; `dtype` None keeps the network's; shards of at most `shard_bytes` with an index,
    or one file where that is enough; `tied_once` leaves out the head's copy of the embedding. The folder appears complete, and read back,
    or not at all. Where weights are shared between processes `gather` makes one whole, and all processes call this together; one of them
    `writes`. Raises UserError where something reads back other than it was written.
    """
    dtype = dtype or network.dtype
    tensors = network.state_dict(keep_vars=gather is not None)
    if network.saves_tied_weights and not tied_once:
        for copy, its in network.tied.items():
            tensors |= {copy + name.removeprefix(its): tensor for name, tensor in tensors.items() if name.startswith(its)}
    with atomic_folder(folder) if writes else nullcontext(folder) as part:
        if writes:
            copy_small_files(source, part)
            fields = read_config(source)
            fields["dtype" if "dtype" in fields else "torch_dtype"] = str(dtype).removeprefix("torch.")
            if network.quantization_bit is None:  # it may be the folder of integers that have become numbers
                fields = {name: value for name, value in fields.items() if not name.startswith("quantization_")}
            write_json(part / "config.json", quantized_fields(fields, network.quantization_bit, source))
        save_weights(part, tensors, dtype, as_bin=as_bin, shard_bytes=shard_bytes, gather=gather, writes=writes)


def save_weights(
    folder: Path,
    tensors: Mapping[str, Tensor],
    dtype: torch.dtype,
    *,
    as_bin: bool = False,
    shard_bytes: int = SHARD_BYTES,
    gather: Callable[[Tensor], Tensor] | None = None,
    writes: bool = True,
) -> None:
    """Write tensors into a folder that is there and read them back: shards of at most `shard_bytes` with an index, or one file.

    `gather` and `writes` as in `save_network`.
    """
    types = {name: stored_type(name, tensor, dtype) for name, tensor in tensors.items()}
    stem, ending = ("pytorch_model", "bin") if as_bin else ("model", "safetensors")
    sizes = {name: getattr(tensor, "ds_numel", tensor.numel()) * types[name].itemsize for name, tensor in tensors.items()}
    shards = divide(sizes, shard_bytes)
    names = shard_names(stem, ending, len(shards))
    for name, shard in zip(names, shards, strict=True):
        content = {}
        for key in shard:
            whole = tensors[key] if gather is None else gather(tensors[key])
            if writes:
                content[key] = whole.detach().to("cpu", types[key]).clone().contiguous()
        if writes:
            torch.save(content, folder / name) if as_bin else save_file(content, folder / name, {"format": "pt"})
            _read_back(folder / name, content)
    if writes and len(shards) > 1:
        write_index(folder / f"{stem}.{ending}.index.json", dict(zip(names, shards, strict=True)), sum(sizes.values()))


def _read_back(file: Path, content: Mapping[str, Tensor]) -> None:
    """Raise UserError where a file does not hold what was written."""
    for key, found in _read_safetensors(file) if file.suffix == ".safetensors" else load_pickle(file).items():
        if not torch.equal(found.flatten().view(torch.uint8), content[key].flatten().view(torch.uint8)):
            raise UserError(f"{file}: {key!r} reads back other than it was written: the disk or the memory is faulty. Use another disk.")


def copy_small_files(source: Path, folder: Path) -> None:
    """Everything of a model folder but its weights."""
    for small in source.iterdir():
        if small.is_file() and small.suffix not in WEIGHT_SUFFIXES and not small.name.endswith(".index.json"):
            shutil.copyfile(small, folder / small.name)


def write_index(path: Path, shards: Mapping[str, Iterable[str]], total_bytes: int) -> None:
    """The file that tells which shard holds which tensor."""
    weight_map = {key: name for name, shard in shards.items() for key in shard}
    write_json(path, {"metadata": {"total_size": total_bytes}, "weight_map": weight_map})


def shard_names(stem: str, ending: str, count: int) -> list[str]:
    """The official names of so many files."""
    return [f"{stem}.{ending}"] if count == 1 else [f"{stem}-{i + 1:05d}-of-{count:05d}.{ending}" for i in range(count)]


def divide(sizes: Mapping[str, int], shard_bytes: int) -> list[list[str]]:
    """Tensor names in groups of at most `shard_bytes`, in order; a larger tensor stands alone."""
    groups: list[list[str]] = []
    room = 0
    for name, size in sizes.items():
        if not groups or size > room:
            groups.append([])
            room = shard_bytes
        groups[-1].append(name)
        room -= size
    return groups
