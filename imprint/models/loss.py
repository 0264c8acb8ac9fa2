"""Vocabulary head and cross-entropy in one, computed in chunks of rows so that few logits exist at a time."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

CHUNK_ROWS = 1024
"""Most rows of logits that exist at a time."""


def soft_cap(logits: Tensor, cap: float | None) -> Tensor:
    """Logits under a soft cap, which bounds their magnitude; unchanged without one."""
    return logits if cap is None else cap * torch.tanh(logits / cap)


def target_loss(hidden: Tensor, head: Tensor, labels: Tensor, cap: float | None = None, weights: Tensor | None = None) -> Tensor:
    """Sum of the cross-entropies of N targets, each times its weight; divide by the tokens of the whole accumulated batch.

    hidden (N, C), head (V, C), labels (N,), weights (N,), None for 1 -> fp32 scalar. `cap`: the network's `logit_cap`. `head` gets a
    gradient only where it is trained.
    """
    if not torch.is_grad_enabled():  # a Function's needs_input_grad is true even under no_grad
        hidden, head = hidden.detach(), head.detach()
    loss: Tensor = _ChunkedCrossEntropy.apply(hidden, head, labels, cap, weights)  # type: ignore[no-untyped-call]
    return loss


@torch.no_grad()
def token_losses(hidden: Tensor, head: Tensor, labels: Tensor, cap: float | None = None) -> Tensor:
    """The cross-entropy of each of N targets, without a gradient: hidden (N, C), head (V, C), labels (N,) -> (N,) in fp32."""
    losses = [
        functional.cross_entropy(
            soft_cap((hidden[start : start + CHUNK_ROWS] @ head.t()).float(), cap), labels[start : start + CHUNK_ROWS], reduction="none"
        )
        for start in range(0, len(labels), CHUNK_ROWS)
    ]
    return torch.cat(losses) if losses else hidden.new_zeros(0, dtype=torch.float32)


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Computes the gradients in the forward pass, where each chunk's logits exist, and only scales them in the backward pass."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: Tensor, labels: Tensor, cap: float | None, weights: Tensor | None) -> Tensor:
        needs_hidden, needs_head = ctx.needs_input_grad[:2]
        loss = hidden.new_zeros((), dtype=torch.float32)
        grad_hidden = torch.empty_like(hidden) if needs_hidden else None
        grad_head = torch.zeros_like(head, dtype=torch.float32) if needs_head else None
        for start in range(0, len(labels), CHUNK_ROWS):
            rows = slice(start, start + CHUNK_ROWS)
            targets = labels[rows, None]
            logits = soft_cap((hidden[rows] @ head.t()).float(), cap)
            slope = None if cap is None else 1 - (logits / cap).square()  # of the cap
            log_sum = logits.logsumexp(-1, keepdim=True)
            losses = log_sum - logits.gather(1, targets)
            loss += (losses if weights is None else losses * weights[rows, None]).sum()
            if grad_hidden is not None or grad_head is not None:
                grad = logits.sub_(log_sum).exp_()
                grad.scatter_add_(1, targets, grad.new_full(targets.shape, -1.0))
                grad = grad if slope is None else grad.mul_(slope)
                grad = (grad if weights is None else grad.mul_(weights[rows, None])).to(hidden.dtype)
                if grad_hidden is not None:
                    torch.mm(grad, head, out=grad_hidden[rows])
                if grad_head is not None:
                    grad_head += grad.t() @ hidden[rows]
        ctx.save_for_backward(grad_hidden, grad_head)
        ctx.head_dtype = head.dtype
        return loss

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        """Scale the gradients of the forward pass."""
        grad_hidden, grad_head = ctx.saved_tensors
        return (
            None if grad_hidden is None else grad_hidden * grads[0],
            None if grad_head is None else (grad_head * grads[0]).to(ctx.head_dtype),
            None,
            None,
            None,
        )
