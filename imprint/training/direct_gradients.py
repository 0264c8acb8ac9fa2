"""A backward pass that writes gradients to tensors which stay where they are, whatever these hold, in place of adding to them.

The products that give the gradients of weights are computed right there; what other operations give is copied. So a step neither fills
these tensors with zeros nor reads them: 8 bytes a parameter in 16 bits.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

PRODUCTS = frozenset({"MmBackward0", "AddmmBackward0"})
"""Steps of a backward pass that multiply for the gradient of a weight; each of their products is the gradient of one input."""


def write_gradients(loss: Tensor, gradients: Mapping[nn.Parameter, Tensor]) -> int:
    """Write the gradients of a loss; parameters have no `grad` before and after. Returns how many were not copied.

    `gradients`: a tensor of the same shape, strides and dtype for every parameter that can get a gradient.
    """
    products, given = _Products(gradients), set[nn.Parameter]()

    def keep(parameter: nn.Parameter) -> None:
        assert parameter.grad is not None
        if parameter.grad.data_ptr() != gradients[parameter].data_ptr():
            gradients[parameter].copy_(parameter.grad)
            products.written.discard(parameter)
        parameter.grad = None
        given.add(parameter)

    hooks = [parameter.register_post_accumulate_grad_hook(keep) for parameter in gradients]
    try:
        with products:
            loss.backward()
    finally:
        for hook, parameter in zip(hooks, gradients, strict=True):
            hook.remove()
            parameter.grad = None
    for parameter in gradients.keys() - given:
        gradients[parameter].zero_()
    return len(products.written)


class _Products(TorchDispatchMode):
    """While it is entered, the first product that gives the gradient of a weight has that gradient's tensor as its result."""

    def __init__(self, gradients: Mapping[nn.Parameter, Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.written: set[nn.Parameter] = set()
        self._gradients = gradients

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """False: PyTorch need not load its compiler, which takes seconds, for the sake of this mode."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Called for every operation; those of a recomputed forward pass have gradients enabled."""
        if func is torch.ops.aten.mm.default and not torch.is_grad_enabled():
            parameter = self._weight_of(*args)
            if parameter is not None:
                self.written.add(parameter)
                return torch.mm(*args, out=self._gradients[parameter]).detach()  # another tensor object, which autograd may keep
        return func(*args, **(kwargs or {}))

    def _weight_of(self, left: Tensor, right: Tensor) -> nn.Parameter | None:
        """The weight whose gradient this product is; None for any other product, and where that cannot be told from the shapes."""
        node = torch._C._current_autograd_node()
        if node is None or node.name() not in PRODUCTS or left.shape[1] == left.shape[0]:
            return None
        for function, _ in node.next_functions:
            if function is not None and function.name() == "TBackward0":
                function = function.next_functions[0][0]
            weight: nn.Parameter | None = getattr(function, "variable", None)
            if weight is None or weight not in self._gradients or weight in self.written:
                continue
            if weight.shape == (left.shape[0], right.shape[1]) and weight.dtype == left.dtype:
                return weight
        return None
