"""The cross-entropy of logits, whose gradient takes their place, as an operation of PyTorch, computed by a Triton kernel.

Legend: N targets, V vocabulary size.
"""

import torch
from torch import Tensor, library

from imprint.kernels.current_device import on_device
from imprint.kernels.tiles import power_of_two

BLOCK = 4096
"""Most logits of a row that a program reads at a time."""
WARPS = 8


@library.custom_op("imprint::cross_entropy", mutates_args=("logits",))
def cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor | None, cap: float | None, gradient: bool) -> Tensor:  # noqa: FBT001
    """Logits (N, V), labels (N,), weights (N,) or None for 1 -> the cross-entropies times their weights, (N,) in fp32.

    `cap`: a soft cap of the logits. With `gradient`, the gradient of the sum takes the place of the logits, (N, V).
    """
    from imprint.kernels.cross_entropy_kernels import cross_entropy_kernel

    assert logits.stride(1) == 1
    rows, size = logits.shape
    losses = torch.empty(rows, dtype=torch.float32, device=logits.device)
    if rows:
        with on_device(logits):
            cross_entropy_kernel[(rows,)](
                logits, labels, losses if weights is None else weights, losses, 1.0 if cap is None else cap, logits.stride(0),
                V=size, BLOCK_V=min(BLOCK, power_of_two(size)), CAPPED=cap is not None, WEIGHTED=weights is not None, GRADIENT=gradient,
                num_warps=WARPS,
            )  # fmt: skip
    return losses


@cross_entropy.register_fake
def _(logits: Tensor, labels: Tensor, weights: Tensor | None, cap: float | None, gradient: bool) -> Tensor:  # noqa: ARG001, FBT001
    return logits.new_empty(logits.shape[:1], dtype=torch.float32)
