"""Vocabulary head and cross-entropy in one, computed in chunks of rows so that few logits exist at a time.

On a GPU the gradient of a chunk takes the place of its logits, in 16 bits; plain PyTorch computes in fp32, and is the reference for tests.
Legend: N targets, R targets of a chunk, C hidden size, V vocabulary size.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from imprint.kernels import available
from imprint.kernels.cross_entropy import cross_entropy
from imprint.quant.linear import QuantizedWeight

CHUNK_ROWS = 1024
"""R: most rows of logits that exist at a time."""
HEAD_ROWS = 2**13
"""Rows of a quantized head that are dequantized at a time; those before may still be there."""
FUSED = True
"""Whether the cross-entropy of a chunk is one kernel, where there is one."""


def soft_cap(logits: Tensor, cap: float | None) -> Tensor:
    """Logits under a soft cap, which bounds their magnitude; unchanged without one."""
    return logits if cap is None else cap * torch.tanh(logits / cap)


def has_kernel(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether a kernel computes the cross-entropy of logits: in 16 bits, on a GPU with Triton."""
    return FUSED and device.type == "cuda" and bool(available.usable(device.index, dtype))


def target_loss(
    hidden: Tensor,
    head: Tensor | QuantizedWeight,
    labels: Tensor,
    cap: float | None = None,
    weights: Tensor | None = None,
    *,
    kernels: bool = True,
) -> Tensor:
    """Sum of the cross-entropies of N targets, each times its weight; divide by the tokens of the whole accumulated batch.

    hidden (N, C), head (V, C), labels (N,), weights (N,), None for 1 -> fp32 scalar. `cap`: the network's `logit_cap`. `head` gets a
    gradient only where it is trained; a quantized one is dequantized in parts. `kernels`: whether a kernel may compute it.
    """
    if not torch.is_grad_enabled():  # a Function's needs_input_grad is true even under no_grad
        hidden = hidden.detach()
        head = head.detach() if isinstance(head, Tensor) else head
    loss: Tensor = _ChunkedCrossEntropy.apply(hidden, head, labels, cap, weights, kernels)  # type: ignore[no-untyped-call]
    return loss


@torch.no_grad()
def token_losses(
    hidden: Tensor, head: Tensor | QuantizedWeight, labels: Tensor, cap: float | None = None, *, kernels: bool = True
) -> Tensor:
    """The cross-entropy of each of N targets, without a gradient: hidden (N, C), head (V, C), labels (N,) -> (N,) in fp32."""
    losses = hidden.new_empty(len(labels), dtype=torch.float32)
    fused = kernels and has_kernel(hidden.device, hidden.dtype)
    for rows, logits in _chunks(hidden, head):
        if fused:
            losses[rows] = cross_entropy(logits, labels[rows], None, cap, False)
        else:
            losses[rows] = functional.cross_entropy(soft_cap(logits.float(), cap), labels[rows], reduction="none")
    return losses


def _chunks(hidden: Tensor, head: Tensor | QuantizedWeight) -> Iterator[tuple[slice, Tensor]]:
    """The rows of every chunk and their logits (R, V), all in the same memory."""
    memory = hidden.new_empty(min(len(hidden), CHUNK_ROWS), len(head) if isinstance(head, Tensor) else head.rows)
    for start in range(0, len(hidden), CHUNK_ROWS):
        rows = slice(start, min(start + CHUNK_ROWS, len(hidden)))
        logits = memory[: rows.stop - rows.start]
        for part, weight in _parts(head, hidden.dtype):
            torch.mm(hidden[rows], weight.t(), out=logits[:, part])
        yield rows, logits


def _parts(head: Tensor | QuantizedWeight, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
    """The head in parts of rows; one, unless it is quantized."""
    if isinstance(head, Tensor):
        yield slice(None), head
        return
    for start in range(0, head.rows, HEAD_ROWS):
        part = range(start, min(start + HEAD_ROWS, head.rows))
        yield slice(part.start, part.stop), head.dequantize_rows(dtype, part)


def _write_gradient(grad_hidden: Tensor, grad: Tensor, head: Tensor | QuantizedWeight) -> None:
    """Write the gradient of hidden states (R, C) for that of their logits (R, V)."""
    if isinstance(head, Tensor):
        torch.mm(grad, head, out=grad_hidden)
        return
    total = torch.zeros_like(grad_hidden, dtype=torch.float32)
    for part, weight in _parts(head, grad.dtype):
        total += grad[:, part] @ weight
    grad_hidden.copy_(total)


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Computes the gradients in the forward pass, where each chunk's logits exist, and only scales them in the backward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        head: Tensor | QuantizedWeight,
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
                _write_gradient(grad_hidden[rows], logits, head)
            if isinstance(head, Tensor) and needs_head:
                product = logits.t() @ hidden[rows]
                grad_head = product if grad_head is None else grad_head.float().add_(product)
        if isinstance(head, Tensor) and needs_head and grad_head is None:
            grad_head = torch.zeros_like(head)
        ctx.save_for_backward(grad_hidden, grad_head)
        ctx.head_dtype = hidden.dtype
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
