"""Weights as others store them: names with a wrapper's prefix, tensors that a broken save left empty, a LoRA that was not merged."""

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from imprint.messages import Bilingual, UserError

WRAPPERS = ("module.", "_orig_mod.", "_forward_module.", "base_model.model.")
"""Prefixes of names that DistributedDataParallel, torch.compile, Lightning and peft put before those of the model."""
WRAPPED_DICTS = ("state_dict", "module", "model_state_dict")
"""Keys under which training programs put the weights into their checkpoints."""
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
"""Parts of the names with which bitsandbytes, GPTQ, AWQ, FP8 and AQLM store quantised weights."""
PLAIN_TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def plain_name(stored: str) -> str:
    """The name of a tensor without the prefixes of wrappers."""
    while wrapper := next((prefix for prefix in WRAPPERS if stored.startswith(prefix)), None):
        stored = stored.removeprefix(wrapper)
    return stored


def refuse_empty(path: Path, name: str, tensor: Tensor) -> None:
    """Raise UserError for a tensor without values, as ZeRO-3 leaves them in a checkpoint that was saved without gathering them."""
    if tensor.numel() == 0:
        raise UserError(
            Bilingual(
                f"{path}: {name!r} holds no values, its shape is {tuple(tensor.shape)}: DeepSpeed's ZeRO-3 saved it without gathering the "
                "weights. Convert the training's own checkpoint with DeepSpeed's zero_to_fp32.py, or train again and save with "
                "stage3_gather_16bit_weights_on_model_save.",
                f"{name!r} 没有数值：这是 DeepSpeed ZeRO-3 未聚合权重就保存的结果；请用 zero_to_fp32.py 转换训练时的检查点，"
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
                f"权重中有 {name!r}：LoRA 尚未合并就随底座一起保存了；请用 peft 的 merge_and_unload 合并后重新保存，或单独给出 LoRA 目录。",
            )
        )


def is_plain(tensors: Iterable[tuple[str, Tensor]]) -> bool:
    """Whether weights are stored in 16 or 32 bits, not quantised; False for no tensors at all."""
    found = False
    for name, tensor in tensors:
        found = True
        matrix = name.endswith("weight") and tensor.dim() > 1
        if any(part in name for part in QUANTIZED_PARTS) or (matrix and tensor.dtype not in PLAIN_TYPES):
            return False
    return found
