"""A GGUF file: its metadata, and its weights in 16 bits, both as transformers reads them.

GGUF is the format of llama.cpp (github.com/ggml-org/ggml, docs/gguf.md): key-value metadata, the tokenizer among them, and tensors that may
be quantized. Every architecture that transformers converts is read; the formats of its tensors do not matter.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import torch
from torch import Tensor

from imprint.files.scratch import scratch_folder
from imprint.messages import Bilingual, UserError
from imprint.models.gguf_header import walk_through_metadata
from imprint.models.gguf_settings import ARCHITECTURE, refuse_settings_of_another, refuse_unread_settings

MAGIC: Final = b"GGUF"
NAME: Final = "model.gguf"
BLOCK: Final = re.compile(r"blk\.(\d{1,6})\.")
"""The tensors of a block."""
REQUIRED: Final = ("block_count", "embedding_length")
"""Sizes for which transformers would otherwise take those of some large model."""
SIZES: Final = (
    *REQUIRED,
    *("feed_forward_length", "vocab_size", "expert_count", "expert_feed_forward_length"),
    *("attention.head_count", "attention.head_count_kv", "attention.key_length", "attention.value_length"),
)
"""Sizes in the metadata, none of which is larger than the largest dimension of a tensor."""
MAX_BLOCKS: Final = 300
HEAD: Final = "output.weight"
EMBEDDING: Final = "token_embd.weight"
TIED: Final = ("bloom", "falcon")
"""Architectures whose head is the embedding, for transformers, though a file may have both: one of them is passed over."""
QUANTIZED_SHARE: Final = 0.2
"""Most that head and embedding may differ, as a share of their length, where one of them is quantized: that far are they rounded."""
PLAIN_SHARE: Final = 0.01
"""The same for types of 16 and 32 bits."""
COMPARED_ROWS: Final = 2**12
READ_AGAIN: Final = Bilingual("Download it again, or take a GGUF of another model.", "请重新下载，或换一个模型的 GGUF 文件。")


def read_metadata(file: Path) -> Mapping[str, Any]:
    """The metadata of a GGUF file: key -> number, text or list. Raises UserError for another file, a damaged one, or a missing library."""
    if not file.is_file():
        raise UserError(
            Bilingual(
                f"{file}: there is no such file. Give a file that ends in .gguf.", f"{file}：没有这个文件：请给出以 .gguf 结尾的文件。"
            )
        )
    with file.open("rb") as opened:
        if opened.read(len(MAGIC)) != MAGIC:
            raise UserError(Bilingual(f"{file}: is not a GGUF file: it does not begin with GGUF. {READ_AGAIN.english}", READ_AGAIN.chinese))
    try:
        from gguf import GGUFReader
    except ImportError as error:
        raise UserError(
            Bilingual('the package gguf is missing: pip install "imprint[gguf]"', '缺少 gguf 包：pip install "imprint[gguf]"')
        ) from error
    with _translate_errors(file):
        walk_through_metadata(file)
        reader = GGUFReader(file)
        metadata = MappingProxyType({name: field.contents() for name, field in reader.fields.items()})
        refuse_settings_of_another(metadata)
        _refuse_other_sizes(metadata, {tensor.name: tuple(map(int, tensor.shape)) for tensor in reader.tensors})
        _refuse_uneven_blocks(tensor.name for tensor in reader.tensors)
        _refuse_shared_bytes({tensor.name: (int(tensor.data_offset), int(tensor.n_bytes)) for tensor in reader.tensors})
        if metadata.get(ARCHITECTURE) in TIED:
            _refuse_other_head({tensor.name: tensor for tensor in reader.tensors})
    return metadata


def _refuse_other_sizes(metadata: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise ValueError where the metadata claim a larger model than the tensors are of: all of it would be made before one is read."""
    family = metadata.get(ARCHITECTURE)
    blocks = {match[1] for name in shapes if (match := BLOCK.match(name))}
    largest = max((size for shape in shapes.values() for size in shape), default=0)
    for name in SIZES:
        value = metadata.get(f"{family}.{name}")
        bound = min(len(blocks), MAX_BLOCKS) if name == "block_count" else largest
        for size in value if isinstance(value, list) else [value]:
            if size is None and name not in REQUIRED:
                continue
            if type(size) is not int or not 0 <= size <= bound:
                raise ValueError(f"{family!s:.40}.{name} is {size!s:.40}, and its tensors have {bound:,} at most")


def _refuse_uneven_blocks(names: Iterable[str]) -> None:
    """Raise ValueError unless the blocks are numbered from 0 and none has less than half as many tensors as another."""
    counts = Counter(int(match[1]) for name in names if (match := BLOCK.match(name)))
    if not counts:
        raise ValueError("it has no blocks")
    fullest, emptiest = max(counts, key=counts.__getitem__), min(counts, key=counts.__getitem__)
    if counts.keys() != set(range(len(counts))):
        raise ValueError(f"it has {len(counts)} blocks, and the last is {max(counts)}, which should be {len(counts) - 1}")
    if counts[emptiest] < counts[fullest] / 2:
        raise ValueError(f"block {emptiest} has {counts[emptiest]} tensors, and block {fullest} has {counts[fullest]}")


def _refuse_shared_bytes(places: Mapping[str, tuple[int, int]]) -> None:
    """Raise ValueError where a tensor, whose place is (offset, bytes), has bytes of another: a small file would unpack to a large model."""
    end, last = 0, ""
    for name, (start, size) in sorted(places.items(), key=lambda place: place[1]):
        if size and start < end:
            raise ValueError(f"{name:.80} has bytes of {last:.80}")
        end, last = max(end, start + size), name


def _refuse_other_head(tensors: Mapping[str, Any]) -> None:
    """Raise ValueError where a head that is stored, of tensors as GGUFReader gives them, is another than the embedding."""
    import numpy as np
    from gguf import GGMLQuantizationType, dequantize

    if HEAD not in tensors or EMBEDDING not in tensors:
        return
    pair = tensors[HEAD], tensors[EMBEDDING]
    if len({tuple(tensor.shape) for tensor in pair}) > 1:
        raise ValueError(f"{HEAD} has another shape than {EMBEDDING}, and for this architecture they are one tensor")
    difference = length = 0.0
    for start in range(0, len(pair[0].data), COMPARED_ROWS):
        head, embedding = (dequantize(tensor.data[start : start + COMPARED_ROWS], tensor.tensor_type).astype(np.float64) for tensor in pair)
        difference += float(np.square(head - embedding).sum())
        length += float(np.square(embedding).sum())
    plain = {GGMLQuantizationType.F32, GGMLQuantizationType.F16, GGMLQuantizationType.BF16}
    share = PLAIN_SHARE if {tensor.tensor_type for tensor in pair} <= plain else QUANTIZED_SHARE
    if not difference <= share**2 * length:
        raise ValueError(f"{HEAD} is another than {EMBEDDING}, and for this architecture they are one tensor")


def read_fields_and_tensors(file: Path, metadata: Mapping[str, Any], dtype: torch.dtype) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """(fields of a config.json, tensors by name in `dtype`) of a GGUF file with this metadata.

    A head that is the embedding is not among the tensors. Raises UserError for an architecture that transformers does not convert, for
    damaged tensors, and where a model of these fields and tensors would compute something else than the file's.
    """
    import transformers

    options: dict[str, Any] = {}
    if gguf_config := getattr(transformers, "GgufConfig", None):  # from 5.20 on, weights stay quantized unless this says otherwise
        options["quantization_config"] = gguf_config(dequantize=True)
    with link_alone(file) as folder, _translate_errors(file), _names_made_once():
        read: Any = transformers.AutoModelForCausalLM.from_pretrained  # its types do not know `output_loading_info`
        model, loaded = read(folder, gguf_file=NAME, dtype=dtype, output_loading_info=True, **options)
        if missing := sorted(loaded["missing_keys"]):
            raise ValueError(f"{missing[0]} is not in it, and {len(missing) - 1} more" if missing[1:] else f"{missing[0]} is not in it")
        elements = walk_through_metadata(file)
        _refuse_unread_names(elements, str(metadata.get(ARCHITECTURE)), model)
    fields = model.config.to_dict() | {"architectures": [type(model).__name__], "dtype": str(dtype).removeprefix("torch.")}
    for name in ("quantization_config", "_name_or_path", "_model_name_or_path"):
        fields.pop(name, None)
    refuse_unread_settings(file, metadata, fields)
    tensors = _once(model.state_dict())
    with _translate_errors(file):
        _refuse_unread_numbers(elements, tensors, tied=bool(fields.get("tie_word_embeddings")))
    return fields, tensors


def _once(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Each tensor under the first of its names."""
    seen: dict[int, str] = {}
    return {name: tensor for name, tensor in state.items() if seen.setdefault(tensor.data_ptr(), name) == name or not tensor.numel()}


def _refuse_unread_numbers(elements: Mapping[str, int], tensors: Mapping[str, Tensor], *, tied: bool) -> None:
    """Raise ValueError where tensors of the file (name -> elements) have more numbers than were read.

    They are counted, since tensors are joined and divided, and two may have the name of one. Left out is a head that is stored though it is
    the embedding.
    """
    total = sum(elements.values())
    unread = total - sum(tensor.numel() for tensor in tensors.values())
    if unread > 0 and not (tied and unread == elements.get(HEAD)):
        raise ValueError(f"{unread:,} of the {total:,} numbers of its tensors have no place in the model that transformers makes of it")


def _refuse_unread_names(names: Iterable[str], family: str, model: Any) -> None:
    """Raise ValueError for tensors that transformers passes over, since the model has no parameter for them."""
    from transformers import modeling_gguf_pytorch_utils

    theirs: Any = modeling_gguf_pytorch_utils  # not typed
    processor = theirs.TENSOR_PROCESSORS.get(family, theirs.TensorProcessor)(config={})
    known = theirs.get_gguf_hf_weights_map(model, processor)
    kept = {*known, HEAD} if "lm_head.weight" in model.state_dict() else known.keys()
    unread = [name for name in names if name not in kept and name.removesuffix(".weight") not in kept]
    if unread:
        listed = ", ".join(f"{name:.80}" for name in unread[:5])
        more = f" and {len(unread) - 5} more" if unread[5:] else ""
        raise ValueError(f"{listed}{more} have no place in the model that transformers makes of it")


@contextmanager
def link_alone(file: Path) -> Iterator[Path]:
    """Yield a folder that holds this file alone, as `model.gguf`: transformers would take its neighbours for parts of the model."""
    with scratch_folder() as folder:
        (folder / NAME).symlink_to(file.resolve())
        yield folder


@contextmanager
def _names_made_once() -> Iterator[None]:
    """Make once the names of all blocks, which transformers makes anew for each part of a model: minutes for 300 blocks."""
    import gguf

    made = gguf.get_tensor_name_map
    gguf.get_tensor_name_map = cache(made)
    try:
        yield
    finally:
        gguf.get_tensor_name_map = made


@contextmanager
def _translate_errors(file: Path) -> Iterator[None]:
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:  # neither library has errors of its own
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise UserError(
            Bilingual(
                f"{file}: cannot be read as a GGUF model ({reason}). {READ_AGAIN.english}", f"{file}：无法读取该 GGUF。{READ_AGAIN.chinese}"
            )
        ) from error
