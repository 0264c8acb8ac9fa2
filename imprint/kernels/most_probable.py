"""Launches the kernels of most_probable_kernels.py. Imported only where they are launched: Triton is slow to import.

Legend: B rows, V vocabulary size.
"""

import torch
from torch import Tensor

from imprint.kernels.current_device import on_device
from imprint.kernels.most_probable_kernels import join_kernel, part_kernel
from imprint.kernels.tiles import power_of_two

BLOCK = 2048
"""Logits that a program reads."""


def most_probable(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (B, V) -> the first id with the largest one, int64 (B,), and its log-probability, fp32 (B,).

    -1 and -inf where the largest logit is not finite; NaN is larger than any number.
    """
    logits = logits if logits.stride(1) == 1 else logits.contiguous()
    (rows, size), device = logits.shape, logits.device
    parts = -(-size // BLOCK)
    largest, sums = torch.empty((2, rows, parts), dtype=torch.float32, device=device)
    ids = torch.empty((rows, parts), dtype=torch.int32, device=device)
    tokens = torch.empty(rows, dtype=torch.long, device=device)
    log_probs = torch.empty(rows, dtype=torch.float32, device=device)
    with on_device(logits):
        part_kernel[(parts, rows)](logits, largest, ids, sums, size, logits.stride(0), BLOCK_V=BLOCK, S=parts)
        join_kernel[(rows,)](largest, ids, sums, tokens, log_probs, S=parts, BLOCK_S=power_of_two(parts), num_warps=1)
    return tokens, log_probs
