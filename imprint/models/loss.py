"""Vocabulary head and cross-entropy in one, computed in chunks of rows so that few logits exist at a time.

On a GPU the gradient of a chunk takes the place of its logits, in 16 bits; plain PyTorch computes in fp32, and is the proof of that.
Legend: N targets, R targets of a chunk, C hidden size, V vocabulary size.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from imprint.kernels import available
from imprint.kernels.cross_entropy import cross_entropy

CHUNK_ROWS = 1024
"""R: most rows of logits that exist at a time."""
FUSED = True
"""Whether the cross-entropy of a chunk is one kernel, where there is one."""


def soft_cap(logits: Tensor, cap: float | None) -> Tensor:
    """Logits under a soft cap, which bounds their magnitude; unchanged without one."""
    return logits if cap is None else cap * torch.tanh(logits / cap)


def has_kernel(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether a kernel computes the cross-entropy of logits: in 16 bits, on a GPU with Triton."""
    return FUSED and device.type == "cuda" and bool(available.usable(device.index, dtype))


def target_loss(
    hidden: Tensor, head: Tensor, labels: Tensor, cap: float | None = None, weights: Tensor | None = None, *, kernels: bool = True
) -> Tensor:
    """Sum of the cross-entropies of N targets, each times its weight; divide by the tokens of the whole accumulated batch.

    hidden (N, C), head (V, C), labels (N,), weights (N,), None for 1 -> fp32 scalar. `cap`: the network's `logit_cap`. `head` gets a
    gradient only where it is trained. `kernels`: whether a kernel may compute it.
    """
    if not torch.is_grad_enabled():  # a Function's needs_input_grad is true even under no_grad
        hidden, head = hidden.detach(), head.detach()
    loss: Tensor = _ChunkedCrossEntropy.apply(hidden, head, labels, cap, weights, kernels)  # type: ignore[no-untyped-call]
    return loss


@torch.no_grad()
def token_losses(hidden: Tensor, head: Tensor, labels: Tensor, cap: float | None = None, *, kernels: bool = True) -> Tensor:
    """The cross-entropy of each of N targets, without a gradient: hidden (N, C), head (V, C), labels (N,) -> (N,) in fp32."""
    losses = hidden.new_empty(len(labels), dtype=torch.float32)
    fused = kernels and has_kernel(hidden.device, hidden.dtype)
    for rows, logits in _chunks(hidden, head):
        if fused:
            losses[rows] = cross_entropy(logits, labels[rows], None, cap, False)
        else:
            losses[rows] = functional.cross_entropy(soft_cap(logits.float(), cap), labels[rows], reduction="none")
    return losses


def _chunks(hidden: Tensor, head: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """The rows of every chunk and their logits (R, V), all in the same memory."""
    memory = hidden.new_empty(min(len(hidden), CHUNK_ROWS), len(head))
    for start in range(0, len(hidden), CHUNK_ROWS):
        rows = slice(start, min(start + CHUNK_ROWS, len(hidden)))
        yield rows, torch.mm(hidden[rows], head.t(), out=memory[: rows.stop - rows.start])


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Computes the gradients in the forward pass, where each chunk's logits exist, and only scales them in the backward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        head: Tensor,
        labels: Tensor,
        cap: float | None,
        weights: Tensor | None,
        kernels: bool,  # noqa: FBT001
    ) -> Tensor:
        needs_hidden, needs_head = ctx.needs_input_grad[:2]
        needed = needs_hidden or needs_head
        compute = cross_entropy if kernels and has_kernel(hidden.device, hidden.dtype) else _plain_cross_entropy
        losses = hidden.new_empty(len(labels), dtype=torch.float32)
        grad_hidden = torch.empty_like(hidden) if needs_hidden else None
        grad_head: Tensor | None = None
        for rows, logits in _chunks(hidden, head):
            losses[rows] = compute(logits, labels[rows], None if weights is None else weights[rows], cap, needed)
            if grad_hidden is not None:
                torch.mm(logits, head, out=grad_hidden[rows])
            if needs_head:
                product = logits.t() @ hidden[rows]
                grad_head = product if grad_head is None else grad_head.float().add_(product)
        ctx.save_for_backward(grad_hidden, torch.zeros_like(head) if needs_head and grad_head is None else grad_head)
        ctx.head_dtype = head.dtype
        return losses.sum()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        """Scale the gradients of the forward pass."""
        grad_hidden, grad_head = ctx.saved_tensors
        return (
            None if grad_hidden is None else grad_hidden * grads[0],
            None if grad_head is None else (grad_head * grads[0]).to(ctx.head_dtype),
            *[None] * 4,
        )


def _plain_cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor | None, cap: float | None, gradient: bool) -> Tensor:  # noqa: FBT001
    """What kernels/cross_entropy.py computes, in plain PyTorch and fp32."""
    values, targets = soft_cap(logits.float(), cap), labels[:, None]
    slope = None if cap is None else 1 - (values / cap).square()  # of the cap
    log_sum = values.logsumexp(-1, keepdim=True)
    losses = (log_sum - values.gather(1, targets))[:, 0]
    if gradient:
        grad = values.sub_(log_sum).exp_()
        grad.scatter_add_(1, targets, grad.new_full(targets.shape, -1.0))
        grad = grad if slope is None else grad.mul_(slope)
        logits.copy_(grad if weights is None else grad.mul_(weights[:, None]))
    return losses if weights is None else losses * weights
