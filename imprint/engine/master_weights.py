"""AdamW for 16-bit weights with fp32 master copies, so that no small update is lost.

bfloat16 has 8 significant bits: an update below 1/512 of a weight would be rounded away, and Adam's second moment, which changes by a
thousandth a step, would never change. So weight and both moments are fp32 here (12 bytes a parameter), and the 16-bit weight is a rounded
copy that the network computes with, as in Micikevicius et al. 2018 (arXiv 1710.03740).
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

BUCKET_SIZE = 2**28
"""Most gradient elements in fp32 at a time (1 GiB); a larger parameter is a bucket of its own."""

Pair = tuple[nn.Parameter, nn.Parameter]


class MasterOptimizer(Protocol):
    """An optimizer of 16-bit weights that keeps fp32 masters of them."""

    param_groups: list[dict[str, Any]]

    def norm(self) -> Tensor:
        """The joint norm of all gradients, computed in fp32."""

    def step(self, factor: float) -> None:
        """Update masters and weights with the gradients times `factor`, and clear the gradients."""

    def zero_grad(self) -> None:
        """Clear all gradients."""

    def value(self, parameter: nn.Parameter) -> Tensor:
        """The master of a parameter."""

    def set_value(self, parameter: nn.Parameter, value: Tensor) -> None:
        """Set the master of a parameter, and its weight."""

    def state(self, parameter: nn.Parameter) -> dict[str, Any]:
        """Moments and step count of a parameter, under torch's names."""


class MasterAdamW:
    """torch's AdamW over fp32 master copies of the parameters in `groups`; gradients are converted to fp32 bucket by bucket."""

    def __init__(self, groups: Sequence[dict[str, Any]], *, rate: float, decay: float, fused: bool) -> None:
        self.masters = {
            parameter: nn.Parameter(parameter.detach().to(torch.float32, copy=True), requires_grad=True)
            for group in groups
            for parameter in group["params"]
        }
        copied = [{**group, "params": [self.masters[parameter] for parameter in group["params"]]} for group in groups]
        self.inner = torch.optim.AdamW(copied, lr=rate, weight_decay=decay, fused=fused)
        self.param_groups = self.inner.param_groups
        self.buckets = list(_buckets(list(self.masters.items())))

    def norm(self) -> Tensor:
        """The joint norm of all gradients, computed in fp32."""
        return gradient_norm(self.masters)

    def step(self, factor: float) -> None:
        """Update the master weights with the gradients times `factor`, round the weights from them, and clear the gradients."""
        for bucket in self.buckets:
            for weight, master in bucket:
                if weight.grad is not None:
                    master.grad = weight.grad.float().mul_(factor)
                    weight.grad = None
            self.inner.step()  # skips parameters without a gradient
            for weight, master in bucket:
                weight.data.copy_(master.data)
                master.grad = None

    def zero_grad(self) -> None:
        """Clear all gradients."""
        for weight in self.masters:
            weight.grad = None

    def value(self, parameter: nn.Parameter) -> Tensor:
        """The master of a parameter."""
        return self.masters[parameter].detach()

    @torch.no_grad()
    def set_value(self, parameter: nn.Parameter, value: Tensor) -> None:
        """Set the master of a parameter, and its weight."""
        parameter.copy_(self.masters[parameter].copy_(value))

    def state(self, parameter: nn.Parameter) -> dict[str, Any]:
        """Moments and step count of a parameter, under torch's names."""
        state: dict[str, Any] = self.inner.state[self.masters[parameter]]
        return state


def gradient_norm(parameters: Iterable[nn.Parameter]) -> Tensor:
    """The joint norm of all gradients, computed in fp32."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norms = torch._foreach_norm(gradients, 2, dtype=torch.float32) if gradients else [torch.zeros(())]
    norm: Tensor = torch.linalg.vector_norm(torch.stack(norms))
    return norm


def _buckets(pairs: Sequence[Pair]) -> Iterator[list[Pair]]:
    bucket: list[Pair] = []
    free = BUCKET_SIZE
    for pair in pairs:
        if bucket and pair[1].numel() > free:
            yield bucket
            bucket, free = [], BUCKET_SIZE
        bucket.append(pair)
        free -= pair[1].numel()
    if bucket:
        yield bucket
