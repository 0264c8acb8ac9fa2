"""Functions of networks that a TorchFunctionMode may compute in another way, as it may PyTorch's own."""

from collections.abc import Callable
from functools import wraps

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

Rotation = Callable[[Tensor, Tensor, Tensor], Tensor]


def overridable(function: Rotation) -> Rotation:
    """The function, which modes see as one operation. See "Extending PyTorch" in its documentation."""

    @wraps(function)
    def call(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        inputs = (x, cos, sin)
        if not torch.compiler.is_compiling() and has_torch_function(inputs):
            result: Tensor = handle_torch_function(call, inputs, x, cos, sin)
            return result
        return function(x, cos, sin)

    return call
