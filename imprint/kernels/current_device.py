"""The GPU on which Triton launches: the current one, whichever the tensors are on."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def on_device(tensor: Tensor) -> AbstractContextManager[object]:
    """Makes the tensor's GPU the current one; every launch is inside such a block."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()
