"""A GGUF file: its metadata, and its weights in 16 bits, both as transformers reads them.

GGUF is the format of llama.cpp (github.com/ggml-org/ggml, docs/gguf.md): key-value metadata, the tokenizer among them, and tensors that may
be quantized. Every architecture that transformers converts is read; the formats of its tensors do not matter.
"""

import re
from collections.abc import Iterator, Mapping
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
from imprint.terminal import say

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
SCALING: Final = "rope.scaling.factor"
"""The setting without which each position of a text means another."""
TOLD: Final[Mapping[str, tuple[str, ...]]] = {
    SCALING: ("factor",),
    "rope.scaling.type": ("rope_type", "type"),
    "logit_scale": ("logit_scale", "logits_scaling"),
    "embedding_scale": ("embedding_multiplier",),
    "residual_scale": ("residual_multiplier",),
    "attention.scale": ("attention_multiplier",),
    "attention.sliding_window": ("sliding_window",),
    "attn_logit_softcapping": ("attn_logit_softcapping",),
    "final_logit_softcapping": ("final_logit_softcapping",),
}
"""Settings that change what a model computes -> their names in a config.json; transformers takes some of them, in some architectures."""
NEUTRAL: Final = (None, 0, 1, "none", "")
"""Values of them that change nothing."""
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
        _refuse_other_sizes(metadata, {tensor.name: tuple(map(int, tensor.shape)) for tensor in reader.tensors})
    return metadata


def _refuse_other_sizes(metadata: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise ValueError where the metadata claim a larger model than the tensors are of: all of it would be made before one is read."""
    family = metadata.get("general.architecture")
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


def read_fields_and_tensors(file: Path, dtype: torch.dtype) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """(fields of a config.json, tensors by name in `dtype`) of a GGUF file whose metadata can be read.

    A head that is the embedding is not among the tensors. Raises UserError for an architecture that transformers does not convert, and for
    damaged tensors.
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
    fields = model.config.to_dict() | {"architectures": [type(model).__name__], "dtype": str(dtype).removeprefix("torch.")}
    for name in ("quantization_config", "_name_or_path", "_model_name_or_path"):
        fields.pop(name, None)
    return fields, _once(model.state_dict())


def _once(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Each tensor under the first of its names."""
    seen: dict[int, str] = {}
    return {name: tensor for name, tensor in state.items() if seen.setdefault(tensor.data_ptr(), name) == name or not tensor.numel()}


def check_taken(file: Path, metadata: Mapping[str, Any], fields: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Raise UserError where a model of these fields and tensors would compute something else than the file's, and say what may.

    That is where tensors of the file, or its scaling of positions, were not taken; other settings that were not are said.
    """
    with _translate_errors(file):
        _refuse_unread_tensors(walk_through_metadata(file), metadata, tensors)
    family, taken = metadata.get("general.architecture"), set(_leaves(fields))
    settings = {name: metadata.get(f"{family}.{name}") for name in TOLD}
    unread = {
        name: value
        for name, value in settings.items()
        if value not in NEUTRAL and not any((key, _plain(value)) in taken for key in TOLD[name])
    }
    if not unread:
        return
    found = ", ".join(f"{family!s:.40}.{name} {value!s:.40}" for name, value in unread.items())
    if SCALING in unread:
        raise UserError(
            Bilingual(
                f"{file}: transformers does not read {found}: each position of a text would mean another. "
                "Take the model's own release in safetensors.",
                f"{file}：transformers 不读取位置缩放设置，每个位置的含义都会改变：请使用该模型以 safetensors 发布的版本。",
            )
        )
    notice = Bilingual(
        f"transformers does not read {found}: the model may compute something else. Check its answers, or take the model's own release.",
        "transformers 不读取其中一些设置，模型的计算可能不同；请检查回答，或使用模型的原始发布。",
    )
    say(f"note: {notice}")


def _refuse_unread_tensors(elements: Mapping[str, int], metadata: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Raise ValueError where tensors of the file (name -> elements) have no place among those that were read.

    They are counted, since names differ and tensors are joined and divided. Left out are the blocks that predict several tokens, and a head
    that is stored though it is the embedding.
    """
    family = metadata.get("general.architecture")
    blocks = metadata[f"{family}.block_count"] - (metadata.get(f"{family}.nextn_predict_layers") or 0)
    more = sum(size for name, size in elements.items() if (match := BLOCK.match(name)) and int(match[1]) >= blocks)
    total = sum(elements.values())
    unread = total - sum(tensor.numel() for tensor in tensors.values())
    predicts = bool(metadata.get(f"{family}.nextn_predict_layers"))
    allowed = {kept + head for kept in {0, more if predicts else 0} for head in (0, elements.get("output.weight", 0))}
    if unread > 0 and unread not in allowed:
        raise ValueError(f"{unread:,} of the {total:,} numbers of its tensors have no place in the model that transformers makes of it")


def _plain(value: object) -> str:
    """A value as it compares with one that a file has in 32 bits."""
    return f"{value:.5g}" if isinstance(value, int | float) else str(value)


def _leaves(value: object, key: str = "") -> Iterator[tuple[str, str]]:
    """(key, value) of the numbers and texts in the fields of a config.json, as `_plain` gives them."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from _leaves(item, str(name))
    elif isinstance(value, int | float | str):
        yield key, _plain(value)


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
