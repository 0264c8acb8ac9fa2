"""A number that a GPU computes, read without waiting for the work that is queued behind it."""

import torch
from torch import Tensor


class AsyncScalar:
    """The value of a scalar tensor, whose copy is queued at once; `float()` waits for it alone."""

    def __init__(self, tensor: Tensor) -> None:
        self._copy = tensor.detach().to("cpu", non_blocking=True, copy=True)
        self._copied: torch.cuda.Event | None = None
        if tensor.is_cuda:
            self._copied = torch.cuda.Event()
            self._copied.record(torch.cuda.current_stream(tensor.device))

    def __float__(self) -> float:
        if self._copied is not None:
            self._copied.synchronize()
        return float(self._copy)
