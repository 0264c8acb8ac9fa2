"""Reads and writes the weights of a model folder: official shards, plain or quantized, with one copy in memory."""

import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from imprint.files.atomic import atomic_folder, write_json
from imprint.files.reading import refuse_lfs_pointer, refuse_undecodable_name
from imprint.files.torch_files import read_torch_file
from imprint.messages import Bilingual, UserError
from imprint.models.auxiliary_files import copy_auxiliary_files
from imprint.models.families import build_network, read_config
from imprint.models.network import Network
from imprint.models.quantized_layers import (
    folder_format,
    loaded_dtype,
    quantized_layers,
    quantized_tensors,
    sibling_name,
    with_format,
)
from imprint.models.stored_weights import (
    PLAIN_TYPES,
    common_wrapper,
    duplicate_error,
    is_plain,
    plain_name,
    refuse_empty,
    refuse_endless_names,
    refuse_missing,
    refuse_other_content,
    refuse_other_type,
    refuse_quantized_parts,
    refuse_repeated,
    refuse_unmerged,
    unwrapped,
)
from imprint.models.weight_files import shard_names, weight_files
from imprint.models.weight_values import equal_in_chunks, is_finite, nearly_equal, not_finite_error, overflow_error, same_values
from imprint.quant.linear import QuantizedWeight
from imprint.quant.weight_format import WeightFormat
from imprint.terminal import say

MAPPED_BYTES = 64 * 2**20
"""A file is mapped again after this many bytes, so that pages already read do not add up in memory. A tensor is compared in chunks of
this size, and a smaller one is copied while weights are quantized: still mapped, it would keep the pages beside it in memory."""
PREFIX_PART = ".prefix_encoder."
SHARD_BYTES = 2 * 10**9


def load_network(folder: Path, *, dtype: torch.dtype, device: torch.device, weight_format: WeightFormat | None = None) -> Network:
    """The network of a model folder, frozen, in evaluation mode.

    Weights stay mapped to their file where neither dtype nor device changes. `weight_format` quantizes the blocks' weights one by one,
    from their stored dtype. Raises UserError for a missing shard or tensor, a wrong shape, values that are not finite, a damaged or unsafe
    file, and a folder that is quantized to another format.
    """
    fields = without_stale_quantization_config(read_config(folder), folder)
    with torch.device("meta"):
        network = build_network(with_format(fields, weight_format, folder), folder)
    to_quantize = quantized_layers(network) if folder_format(fields, folder) is None else {}
    missing, copies = _set_stored(folder, network, to_quantize, dtype, device)
    for original in copies.keys() & missing - to_quantize.keys():  # a tied head that is stored in place of the embedding
        name, read_again = copies[original]
        tensor = read_again()
        _check_shape(folder, name, tensor, network.state_dict()[original].shape)
        _set_tensor(network, original, tensor.to(device, loaded_dtype(original, tensor, dtype, quantized_tensors(network))))
        refuse_not_finite(folder, name, network.get_parameter(original))
        missing.discard(original)
    refuse_missing(folder, missing)
    _refuse_other_copies(folder, copies, network)
    network.finish_loading(device)
    return network.eval()


def _set_stored(
    folder: Path, network: Network, to_quantize: Mapping[str, QuantizedWeight], dtype: torch.dtype, device: torch.device
) -> tuple[set[str], dict[str, tuple[str, Callable[[], Tensor]]]]:
    """Set the network's tensors to those of the folder; returns which are missing, and original -> a copy's name and what reads it again.

    No tensor that was read is held on to, since it would keep what was read through the same mapping in memory.
    """
    expected, quantized = network.state_dict(), quantized_tensors(network)
    copies: dict[str, tuple[str, Callable[[], Tensor]]] = {}
    missing = expected.keys() - (quantized.keys() - to_quantize.keys() if to_quantize else set())
    for name, tensor, read_again in _named_tensors(folder, network):
        if PREFIX_PART in name:
            continue  # a prefix in a full checkpoint is loaded as an adapter
        missing.discard(name)
        if (original := resolve_tied_name(folder, name, network, expected)) != name:
            _check_dtype(folder, name, tensor, expected[original])
            copies[original] = name, read_again
        elif name in to_quantize:
            for part, value in quantize_stored(folder, name, tensor.to(device), to_quantize[name]).items():
                _set_tensor(network, part, value)
        else:
            _check_dtype(folder, name, tensor, expected[name])
            _check_shape(folder, name, tensor, expected[name].shape)
            value = tensor.to(device, loaded_dtype(name, tensor, dtype, quantized))
            refuse_not_finite(folder, name, tensor if value.itemsize > tensor.itemsize else value)  # the fewer bytes
            # a small tensor that stays mapped would keep everything read through the same mapping in memory
            _set_tensor(network, name, value.clone() if to_quantize and value.nbytes < MAPPED_BYTES else value)
    return missing, copies


def _refuse_other_copies(folder: Path, copies: Mapping[str, tuple[str, Callable[[], Tensor]]], network: Network) -> None:
    """Raise UserError for a tied head with other values than the embedding."""
    loaded = network.state_dict()
    for original, (name, read_again) in copies.items():
        if not equal_in_chunks(read_again, partial(loaded.__getitem__, original), nearly_equal, MAPPED_BYTES):
            raise UserError(
                Bilingual(
                    f"{folder}: {name!r} is not the embedding, but in this architecture they are one and the same tensor, stored twice. "
                    f"Save the model with its head tied, or take {name!r} out of the weights if the embedding is the right one.",
                    f"{folder}："
                    f"{name!r} 与词嵌入不同，而此架构中二者是同一张量：请以绑定的输出层重新保存；若词嵌入正确，也可从权重中删去 {name!r}。",
                )
            )


def network_tensors(folder: Path, network: Network) -> Iterator[tuple[str, Tensor]]:
    """Everything in the folder's weight files under the network's names and in its layout, but for what is computed here.

    Raises UserError for tensors without values, and for two of one name with different values.
    """
    return ((name, tensor) for name, tensor, _read_again in _named_tensors(folder, network))


def _named_tensors(folder: Path, network: Network) -> Iterator[tuple[str, Tensor, Callable[[], Tensor]]]:
    """As `network_tensors`, each with a function that reads it again as it is stored, mapped anew, or holds it if it cannot be mapped."""
    seen: dict[str, Callable[[], Tensor]] = {}
    readers: dict[Path, Callable[[str], Tensor]] = {}
    network_name, expected = _names_of(folder, network), network.state_dict()
    for file, stored, tensor in ((path, *found) for path in weight_files(folder) for found in _read_file(path)):
        name = network_name(stored)
        if network.is_computed(name):
            continue
        refuse_empty(folder, stored, tensor)
        if name not in expected or expected[name].dtype != tensor.dtype:
            refuse_other_type(folder, stored, tensor)
        again = partial(readers.setdefault(file, tensor_reader(file)), stored)
        chunk_bytes = MAPPED_BYTES if _is_mapped(file) else tensor.nbytes
        if name in seen and not equal_in_chunks(seen[name], again, same_values, chunk_bytes):
            raise duplicate_error(folder, name)
        seen.setdefault(name, again)
        value = tensor.t().contiguous() if name in network.transposed and tensor.dtype in PLAIN_TYPES else tensor
        yield name, value, again if _is_mapped(file) else _giving(tensor)


def _names_of(folder: Path, network: Network) -> Callable[[str], str]:
    """A function from a stored name to the network's; the names of all files are looked at only where one is unknown as it is."""
    known, copy_prefixes = network.state_dict().keys(), tuple(network.tied)

    @cache
    def wrapper() -> str:
        return common_wrapper(tensor_names(folder))

    def network_name(stored: str) -> str:
        name = network.network_name(plain_name(stored))
        if name in known or name.startswith(copy_prefixes) or PREFIX_PART in name or network.is_computed(name):
            return name
        inner = network.network_name(plain_name(stored.removeprefix(wrapper())))
        return inner if inner in known or inner.startswith(copy_prefixes) else name

    return network_name


def without_stale_quantization_config(fields: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The fields without a `quantization_config` that was left behind by a training on quantized weights: the stored ones are plain."""
    if not fields.get("quantization_config") or not is_plain(read_tensors(folder)):
        return fields
    notice = Bilingual(
        f'{folder}/config.json: "quantization_config" is left over: the weights are not quantized, and are read as they are.',
        "权重并未量化，按原样读取，忽略该字段",
    )
    say(notice.line, stream=sys.stderr)
    return {name: value for name, value in fields.items() if name != "quantization_config"}


def quantize_stored(folder: Path, name: str, weight: Tensor, layer: QuantizedWeight) -> dict[str, Tensor]:
    """Quantize a weight as stored in a folder: name -> the tensors of its format. Raises UserError where it does not fit the layer."""
    if weight.dtype not in PLAIN_TYPES:
        raise UserError(
            Bilingual(
                f'{folder}: {name!r} holds {weight.dtype} values, but config.json has no "quantization_bit". Take config.json from the '
                "folder the weights come from.",
                f'{folder}：{name!r} 的类型为 {weight.dtype}，而 config.json 没有 "quantization_bit"：请使用与权重同一目录的 config.json。',
            )
        )
    _check_shape(folder, name, weight, torch.Size((layer.rows, layer.columns)))
    tensors = layer.weight_format.quantize(weight)
    if not all(map(is_finite, tensors.values())):
        refuse_not_finite(folder, name, weight)
        raise UserError(
            Bilingual(
                f"{folder}: {name!r} holds values too large for the scales of {layer.weight_format.title}. Download the weights again.",
                f"{folder}：{name!r} 的数值超出 {layer.weight_format.title} 缩放系数的范围：请重新下载权重。",
            )
        )
    return {sibling_name(name, part): tensors[part] for part in layer.format_tensors}


def resolve_tied_name(folder: Path, name: str, network: Network, expected: Collection[str]) -> str:
    """The name of a tensor in the network: its own, or for a tied head the embedding's. Raises UserError for an unexpected one."""
    original = next((original + name.removeprefix(copy) for copy, original in network.tied.items() if name.startswith(copy)), name)
    if original not in expected:
        refuse_unmerged(folder, name)
        refuse_quantized_parts(folder, name)
        raise UserError(
            Bilingual(
                f"{folder}: the weights hold {name!r}, which config.json does not call for. Check that config.json belongs to them.",
                f"{folder}：权重中有 config.json 并不需要的 {name!r}：请检查 config.json 是否属于这些权重。",
            )
        )
    return original


def _set_tensor(network: Network, name: str, tensor: Tensor) -> None:
    """Set the network's tensor of this name: a buffer of a quantized weight, or a frozen parameter."""
    path, _, last = name.rpartition(".")
    layer = network.get_submodule(path)
    setattr(layer, last, torch.nn.Parameter(tensor, requires_grad=False) if last in dict(layer.named_parameters(recurse=False)) else tensor)


def _check_dtype(folder: Path, name: str, tensor: Tensor, expected: Tensor) -> None:
    """Raise UserError unless both are plain floating-point numbers, or of the same dtype."""
    if tensor.dtype == expected.dtype or (tensor.dtype in PLAIN_TYPES and expected.dtype in PLAIN_TYPES):
        return
    needed, chinese = ("floating-point", "浮点数") if expected.dtype in PLAIN_TYPES else (str(expected.dtype), str(expected.dtype))
    raise UserError(
        Bilingual(
            f'{folder}: {name!r} holds {tensor.dtype} values, config.json calls for {needed} values ("quantization_bit" says whether '
            "weights are quantized). Take config.json from the folder the weights come from.",
            f"{folder}：{name!r} 的类型为 {tensor.dtype}，config.json 需要 {chinese}：请使用与权重同一目录的 config.json。",
        )
    )


def _check_shape(folder: Path, name: str, tensor: Tensor, expected: torch.Size) -> None:
    if tensor.shape != expected:
        raise UserError(
            Bilingual(
                f"{folder}: {name!r} has the shape {tuple(tensor.shape)}, config.json calls for {tuple(expected)}. "
                "Check that config.json belongs to these weights.",
                f"{folder}："
                f"{name!r} 的形状为 {tuple(tensor.shape)}，config.json 需要 {tuple(expected)}：请检查 config.json 是否属于这些权重。",
            )
        )


def refuse_not_finite(folder: Path, name: str, value: Tensor) -> None:
    """Raise UserError for a tensor with NaN or infinity, as it was read from the folder; file and stored name are looked for then."""
    if is_finite(value):
        return
    for file in weight_files(folder):
        for stored, tensor in _read_file(file):
            if tensor.numel() == value.numel() and not is_finite(tensor):
                raise not_finite_error(file, stored, tensor)
    raise overflow_error(folder, name, value.dtype)


def read_tensors(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Name and tensor of everything in the folder's weight files, memory-mapped; files in the order of their names."""
    for path in weight_files(folder):
        yield from _read_file(path)


def _read_file(path: Path) -> Iterator[tuple[str, Tensor]]:
    return _read_safetensors(path) if _is_safetensors(path) else _read_pickle(path)


def _is_safetensors(path: Path) -> bool:
    return path.suffix == ".safetensors"


def _giving(tensor: Tensor) -> Callable[[], Tensor]:
    return lambda: tensor


def tensor_reader(path: Path) -> Callable[[str], Tensor]:
    """A function that reads one tensor of a file by its name; the file is opened once, and again after every `MAPPED_BYTES`.

    Raises UserError for a damaged file, and where it holds no such tensor.
    """
    read: Callable[[str], Tensor] | None = None
    mapped = 0

    def read_tensor(stored: str) -> Tensor:
        nonlocal read, mapped
        with _translate_read_errors(path):
            if read is None or mapped >= MAPPED_BYTES:
                read, mapped = safe_open(path, framework="pt").get_tensor if _is_safetensors(path) else load_pickle(path).__getitem__, 0
            tensor = read(stored)
        mapped += tensor.nbytes
        return tensor

    return read_tensor


def tensor_names(folder: Path) -> list[str]:
    """The stored names of all tensors in the folder's weight files."""
    return [name for path in weight_files(folder) for name in (_safetensors_names(path) if _is_safetensors(path) else load_pickle(path))]


def _safetensors_names(path: Path) -> list[str]:
    refuse_lfs_pointer(path)
    refuse_undecodable_name(path)
    with _translate_read_errors(path), safe_open(path, framework="pt") as file:
        names: list[str] = file.keys()
    refuse_endless_names(path, names)
    return names


def _read_safetensors(path: Path) -> Iterator[tuple[str, Tensor]]:
    read = tensor_reader(path)
    for name in _safetensors_names(path):
        yield name, read(name)


@contextmanager
def _translate_read_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except (SafetensorError, OSError) as error:
        raise UserError(
            Bilingual(
                f"{path}: is damaged or not a safetensors file ({error}). Download the file again.",
                f"{path}：文件已损坏或不是 safetensors 格式：请重新下载。",
            )
        ) from error


def _read_pickle(path: Path) -> Iterator[tuple[str, Tensor]]:
    tensors = load_pickle(path)
    times = path.stat().st_size // MAPPED_BYTES + 1  # at most: many names may share what the file holds
    limit = max(MAPPED_BYTES, sum(tensor.nbytes for tensor in tensors.values()) // times) if _is_zipped(path) else sys.maxsize
    mapped = 0
    for name in list(tensors):
        if mapped >= limit:
            tensors, mapped = load_pickle(path), 0
        mapped += tensors[name].nbytes
        yield name, tensors.pop(name)


def load_pickle(path: Path) -> dict[str, Tensor]:
    """The tensors of a `.bin` file, by name, mapped where the format allows; code in the file is never run.

    Raises UserError for a damaged file and for one that holds anything but tensors.
    """
    refuse_lfs_pointer(path)
    refuse_undecodable_name(path)
    try:
        content = read_torch_file(path)
    except Exception as error:  # damaged bytes can raise anything
        reason = str(error).split("\n")[0][:160]
        raise UserError(
            Bilingual(
                f"{path}: cannot be read as plain weights ({reason}). It is damaged, or holds code, which is never run. "
                "Download the file again from its official source.",
                f"{path}：无法作为纯权重读取：文件已损坏，或含有代码（从不运行）；请从官方来源重新下载。",
            )
        ) from error
    content = unwrapped(content)
    refuse_other_content(path, content)
    refuse_endless_names(path, content)
    refuse_repeated(path, content)
    weights: dict[str, Tensor] = content
    return weights


def _is_mapped(path: Path) -> bool:
    return _is_safetensors(path) or _is_zipped(path)


def _is_zipped(path: Path) -> bool:
    """Whether a `.bin` file has the zip format, which can be mapped; files from before torch 1.6 do not."""
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
    is_main: bool = True,
) -> None:
    """Write a complete model folder in the official layout: config.json, tokenizer files and weights.

    `source`: the folder whose auxiliary files are copied. `dtype` None keeps the network's. Weights are written as shards
    of at most `shard_bytes` with an index, or as one file where that is enough; `tied_once` leaves out the head's copy of the embedding.
    The folder appears complete, with its weights read back, or not at all. `gather` returns the full tensor of one that is sharded over
    processes; then the call is collective, and the process with `is_main` writes. Raises UserError where the weights read back differ.
    """
    assert not network.removed_first_rows, "refuse_missing_weights comes before"
    dtype = dtype or network.dtype
    tensors = network.state_dict(keep_vars=gather is not None)
    quantized = quantized_tensors(network)
    transposed = {network.stored_name(name) for name in network.transposed - quantized.keys()}
    dtypes = {network.stored_name(name): loaded_dtype(name, tensor, dtype, quantized) for name, tensor in tensors.items()}
    tensors = {network.stored_name(name): tensor for name, tensor in tensors.items()}
    if network.saves_tied_copies and not tied_once:
        for copy_prefix, original_prefix in network.tied.items():
            originals = {copy_prefix + name.removeprefix(original_prefix): name for name in tensors if name.startswith(original_prefix)}
            tensors |= {copy: tensors[original] for copy, original in originals.items()}
            dtypes |= {copy: dtypes[original] for copy, original in originals.items()}
    with atomic_folder(folder) if is_main else nullcontext(folder) as part:
        if is_main:
            copy_auxiliary_files(source, part)
            fields = read_config(source)
            fields["dtype" if "dtype" in fields else "torch_dtype"] = str(dtype).removeprefix("torch.")
            if network.weight_format is None:  # the source folder may be quantized all the same
                fields = {name: value for name, value in fields.items() if not name.startswith("quantization_")}
            write_json(part / "config.json", with_format(without_stale_quantization_config(fields, source), network.weight_format, source))
        save_weights(part, tensors, dtypes, as_bin=as_bin, shard_bytes=shard_bytes, gather=gather, is_main=is_main, transposed=transposed)


def save_weights(
    folder: Path,
    tensors: Mapping[str, Tensor],
    dtypes: Mapping[str, torch.dtype] | torch.dtype,
    *,
    as_bin: bool = False,
    shard_bytes: int = SHARD_BYTES,
    gather: Callable[[Tensor], Tensor] | None = None,
    is_main: bool = True,
    transposed: Collection[str] = (),
) -> None:
    """Write tensors into a folder that exists and read them back; those in `transposed` as (K, N), other arguments as in `save_network`.

    `dtypes`: that of each tensor, or one for all that are floating-point.
    """
    if isinstance(dtypes, torch.dtype):
        dtypes = {name: loaded_dtype(name, tensor, dtypes, {}) for name, tensor in tensors.items()}
    stem, ending = ("pytorch_model", "bin") if as_bin else ("model", "safetensors")
    sizes = {name: getattr(tensor, "ds_numel", tensor.numel()) * dtypes[name].itemsize for name, tensor in tensors.items()}
    shards = split_into_shards(sizes, shard_bytes)
    names = shard_names(stem, ending, len(shards))
    for name, shard in zip(names, shards, strict=True):
        content = {}
        for key in shard:
            full = tensors[key] if gather is None else gather(tensors[key])
            if is_main:
                full = full.detach().t() if key in transposed else full.detach()
                content[key] = full.to("cpu", dtypes[key]).clone(memory_format=torch.contiguous_format)
        if is_main:
            torch.save(content, folder / name) if as_bin else save_file(content, folder / name, {"format": "pt"})
            _read_back(folder / name, content)
    if is_main and len(shards) > 1:
        write_index(folder / f"{stem}.{ending}.index.json", dict(zip(names, shards, strict=True)), sum(sizes.values()))


def _read_back(file: Path, content: Mapping[str, Tensor]) -> None:
    """Raise UserError if a file does not hold what was written."""
    for key, tensor in _read_safetensors(file) if _is_safetensors(file) else load_pickle(file).items():
        if not torch.equal(tensor.flatten().view(torch.uint8), content[key].flatten().view(torch.uint8)):
            raise UserError(
                Bilingual(
                    f"{file}: {key!r} differs when read back: the disk or the memory is faulty. Use another disk.",
                    f"{file}：{key!r} 读回的内容与写入的不同，磁盘或内存有故障：请换用其他磁盘。",
                )
            )


def write_index(path: Path, shards: Mapping[str, Iterable[str]], total_bytes: int) -> None:
    """Write the index: which shard holds which tensor."""
    weight_map = {key: name for name, shard in shards.items() for key in shard}
    write_json(path, {"metadata": {"total_size": total_bytes}, "weight_map": weight_map})


def split_into_shards(sizes: Mapping[str, int], shard_bytes: int) -> list[list[str]]:
    """Tensor names in shards of at most `shard_bytes`, in order; a larger tensor has a shard of its own. `sizes` are in bytes."""
    shards: list[list[str]] = []
    free_bytes = 0
    for name, size in sizes.items():
        if not shards or size > free_bytes:
            shards.append([])
            free_bytes = shard_bytes
        shards[-1].append(name)
        free_bytes -= size
    return shards
