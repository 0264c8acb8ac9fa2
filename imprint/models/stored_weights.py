"""Weights as others store them: names with a wrapper's prefix, tensors that a broken save left empty, a LoRA that was not merged."""

import re
from collections.abc import Collection, Iterable, Mapping
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from imprint.messages import Bilingual, UserError

WRAPPERS = ("module.", "_orig_mod.", "_forward_module.", "base_model.model.")
"""Prefixes of names that DistributedDataParallel, torch.compile, Lightning and peft put before those of the model."""
INNER_WRAPPERS = re.compile(r"(^|\.)(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)(?=\.)")
"""What torch.compile, FSDP and activation checkpointing of single layers put into the names inside a model."""
WRAPPED_DICTS = ("state_dict", "module", "model_state_dict", "model")
"""Keys under which training programs put the weights into their checkpoints, some inside one another."""
LORA_PARTS = (".lora_A.", ".lora_B.", ".lora_embedding_", ".base_layer.", ".lora_magnitude_vector")
QUANTIZED_PARTS = (
    ".absmax",
    ".quant_map",
    ".quant_state",
    ".nested_",
    ".qweight",
    ".qzeros",
    ".g_idx",
    ".SCB",
    ".weight_scale",
    ".codebooks",
)
"""Parts of the names with which bitsandbytes, GPTQ, AWQ, FP8 and AQLM store quantized weights."""
HEADS = ("lm_head.weight", "embed_out.weight")
"""Names of LM heads that some models share with their embedding."""
MAX_SHOWN = 64
"""Most names on average that share values, such as those of layers that are one and the same."""
MAX_DEPTH = 3
"""Dicts that stand inside one another around the weights."""
MAX_TENSORS = 200_000
"""Most tensors of a file; the largest models have 100,000, in a hundred files."""
MAX_NAME = 1000
"""Most characters of a tensor's name."""
PLAIN_TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def plain_name(stored: str) -> str:
    """The name of a tensor without the prefixes of wrappers."""
    stored = INNER_WRAPPERS.sub("", stored).removeprefix(".")
    while wrapper := next((prefix for prefix in WRAPPERS if stored.startswith(prefix)), None):
        stored = stored.removeprefix(wrapper)
    return stored


def common_wrapper(names: Collection[str]) -> str:
    """What all names begin with, up to a dot: the attribute under which a training program keeps its model; empty for none."""
    first, last = (name.split(".")[:-1] for name in (min(names, default=""), max(names, default="")))
    shared = list(takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False)))
    return "".join(f"{part}." for part, _ in shared)


def unwrapped(content: Any) -> Any:
    """The weights in a checkpoint of a training program, which may hold them inside dicts of other things.

    They are under a usual key, or in the only dict.
    """
    for _ in range(MAX_DEPTH):
        inner = {key: value for key, value in content.items() if isinstance(value, dict)} if isinstance(content, dict) else {}
        usual = next((inner[key] for key in WRAPPED_DICTS if key in inner), None)
        if usual is None and (len(inner) != 1 or any(isinstance(value, Tensor) for value in content.values())):
            return content
        content = next(iter(inner.values())) if usual is None else usual
    return content


def empty_error(path: Path) -> UserError:
    """The error for a file of weights without any."""
    return UserError(
        Bilingual(
            f"{path}: was saved empty, it holds no tensors: some programs save the weights after they have taken them out of the model. "
            "Take an earlier checkpoint of that training, or train again.",
            f"{path}：该文件保存时就是空的，没有任何张量：请使用该训练更早的检查点，或重新训练。",
        )
    )


def refuse_other_content(path: Path, content: Any) -> None:
    """Raise UserError unless what a file holds is a dict of plain dense tensors by their names."""
    found = type(content).__name__
    if isinstance(content, dict):
        other = next(((name, value) for name, value in content.items() if not (isinstance(name, str) and isinstance(value, Tensor))), None)
        found = "" if other is None else f"{str(other[0])[:80]!r} in it, of the type {type(other[1]).__name__}"
    if content == {}:
        raise empty_error(path)
    if found:
        raise UserError(
            Bilingual(
                f"{path}: must hold a dict of tensors, found {found}. Give the file of weights itself.",
                f"{path}：必须是张量的字典，实际为 {found}：请给出权重文件本身。",
            )
        )
    if odd := next((name for name, value in content.items() if value.layout != torch.strided or value.is_quantized or value.is_meta), None):
        raise UserError(
            Bilingual(
                f"{path}: {odd!r} is no plain tensor, but sparse, quantized by torch, or without data. Save it as a dense tensor of "
                "floating-point numbers.",
                f"{path}：{odd!r} 不是普通张量（稀疏、torch 量化或没有数据）：请保存为稠密的浮点张量。",
            )
        )


def refuse_endless_names(path: Path, names: Collection[str]) -> None:
    """Raise UserError for more tensors than any model has, or a longer name: each name is compared with others, part by part."""
    longest = max(map(len, names), default=0)
    if len(names) > MAX_TENSORS or longest > MAX_NAME:
        raise UserError(
            Bilingual(
                f"{path}: names {len(names):,} tensors, the longest name has {longest:,} characters; a file of weights has at most "
                f"{MAX_TENSORS:,}, with names of at most {MAX_NAME:,}. Download the file again from its official source.",
                f"{path}：有 {len(names):,} 个张量，最长的名称有 {longest:,} 个字符，而权重文件至多 {MAX_TENSORS:,} 个张量、"
                f"名称至多 {MAX_NAME:,} 个字符：请从官方来源重新下载。",
            )
        )


def refuse_repeated(path: Path, content: Mapping[str, Tensor]) -> None:
    """Raise UserError for tensors with more values than their file holds, each shown many times: a kilobyte could be a terabyte."""
    for name, tensor in content.items():
        if tensor.numel() * tensor.itemsize > tensor.untyped_storage().nbytes():
            raise UserError(
                Bilingual(
                    f"{path}: {name!r} has the shape {tuple(tensor.shape)}, and the file holds only {tensor.untyped_storage().nbytes():,} "
                    "bytes for it, which are repeated. Save it as a contiguous tensor.",
                    f"{path}：{name!r} 的形状为 {tuple(tensor.shape)}，文件中只有 {tensor.untyped_storage().nbytes():,} 字节（重复展开）："
                    "请保存为连续的张量。",
                )
            )
    held = sum({tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in content.values()}.values())
    shown = sum(tensor.nbytes for tensor in content.values())
    if shown > MAX_SHOWN * held:
        raise UserError(
            Bilingual(
                f"{path}: its tensors have {shown:,} bytes, and the file holds only {held:,} for them, which many names share. Save each "
                "tensor once.",
                f"{path}：张量共 {shown:,} 字节，文件中只有 {held:,} 字节，由许多名称共用：每个张量请只保存一次。",
            )
        )


def duplicate_error(folder: Path, name: str) -> UserError:
    """The error of a second tensor of a name with other values."""
    return UserError(
        Bilingual(
            f"{folder}: the weights hold {name!r} twice with different values, in two files or with and without the prefix of a "
            "wrapper: which one is right is unknown. Take one of the two out, or download the weights into an empty folder.",
            f"{folder}：权重中有两个数值不同的 {name!r}，无法判断哪个正确：请去掉其中一个，或重新下载到空目录。",
        )
    )


def refuse_empty(path: Path, name: str, tensor: Tensor) -> None:
    """Raise UserError for a tensor without values, as ZeRO-3 leaves them in a checkpoint that was saved without gathering them."""
    if tensor.numel() == 0:
        raise UserError(
            Bilingual(
                f"{path}: {name!r} holds no values, its shape is {tuple(tensor.shape)}: DeepSpeed's ZeRO-3 saved it without gathering the "
                "weights. Convert the training's own checkpoint with DeepSpeed's zero_to_fp32.py, or train again and save with "
                "stage3_gather_16bit_weights_on_model_save.",
                f"{path}：{name!r} 没有数值：这是 DeepSpeed ZeRO-3 未聚合权重就保存的结果；请用 zero_to_fp32.py 转换训练时的检查点，"
                "或重新训练并在保存时聚合权重。",
            )
        )


def refuse_unmerged(folder: Path, name: str) -> None:
    """Raise UserError for a tensor of a LoRA among the weights of a model."""
    if any(part in f"{name}." for part in LORA_PARTS):
        raise UserError(
            Bilingual(
                f"{folder}: the weights hold {name!r}: a LoRA beside the base's weights, as a whole model of peft is saved before it is "
                "merged. Merge it (merge_and_unload of peft) and save the model again, or give the LoRA as an adapter folder of its own.",
                f"{folder}："
                f"权重中有 {name!r}：LoRA 尚未合并就随底座一起保存了；请用 peft 的 merge_and_unload 合并后重新保存，或单独给出 LoRA 目录。",
            )
        )


def refuse_quantized_parts(folder: Path, name: str) -> None:
    """Raise UserError for a scale or index of weights that another program has quantized, where config.json says nothing of it."""
    if any(part in name for part in QUANTIZED_PARTS):
        raise UserError(
            Bilingual(
                f"{folder}: the weights hold {name!r}: they were quantized by another program (bitsandbytes, GPTQ, AWQ, FP8 ...), which is "
                "not supported. Give the folder with 16-bit weights; `quantize` rounds them to 8 or 4 bits.",
                f"{folder}：权重中有 {name!r}：它们已被其他程序量化，不支持；请给出 16 位权重的目录，再用 quantize 量化。",
            )
        )


def refuse_other_type(folder: Path, name: str, tensor: Tensor) -> None:
    """Raise UserError for floating-point numbers of 8 bits or fewer, which mean nothing without the scales that belong to them."""
    if tensor.is_floating_point() and tensor.dtype not in PLAIN_TYPES:
        kind = str(tensor.dtype).removeprefix("torch.")
        raise UserError(
            Bilingual(
                f"{folder}: {name!r} holds {kind} values, whose scales are not there. Give the folder with 16-bit weights; `quantize` "
                "rounds them to 8 or 4 bits.",
                f"{folder}：{name!r} 的类型为 {kind}，而缩放系数不在其中：请给出 16 位权重的目录，再用 quantize 量化。",
            )
        )


def is_plain(tensors: Iterable[tuple[str, Tensor]]) -> bool:
    """Whether weights are stored in 16 or 32 bits, not quantized; False for no tensors at all."""
    found = False
    for name, tensor in tensors:
        found = True
        matrix = name.endswith("weight") and tensor.dim() > 1
        if any(part in name for part in QUANTIZED_PARTS) or (matrix and tensor.dtype not in PLAIN_TYPES):
            return False
    return found


def refuse_missing(folder: Path, missing: Collection[str]) -> None:
    """Raise UserError if any tensor is missing."""
    if len(missing) == 1 and min(missing) in HEADS:
        raise UserError(
            Bilingual(
                f"{folder}: the LM head {min(missing)!r} is missing. If it is the embedding in this model, set "
                '"tie_word_embeddings" to true in config.json; otherwise download the weights again.',
                f"{folder}：缺少词表输出层 {min(missing)!r}：若该模型的输出层就是词嵌入，请在 config.json 中把 "
                '"tie_word_embeddings" 设为 true；否则请重新下载权重。',
            )
        )
    if missing:
        raise UserError(
            Bilingual(
                f"{folder}: {len(missing)} tensors are missing, the first is {min(missing)!r}. Download the weights again.",
                f"{folder}：缺少 {len(missing)} 个张量，第一个是 {min(missing)!r}：请重新下载权重。",
            )
        )
