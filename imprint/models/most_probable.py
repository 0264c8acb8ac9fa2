"""The most probable token of each row, by a kernel where there is one. Legend: B rows, V vocabulary size."""

from torch import Tensor

from imprint.kernels import available


def has_kernel(logits: Tensor) -> bool:
    """Whether the kernel takes these logits: 16 bits, on a GPU."""
    return logits.is_cuda and bool(available.usable(logits.device.index, logits.dtype))


def most_probable(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (B, V) -> ids (B,) and log-probabilities (B,); -1 and -inf where the largest logit is not finite."""
    from imprint.kernels.most_probable import most_probable as by_kernel

    return by_kernel(logits)
