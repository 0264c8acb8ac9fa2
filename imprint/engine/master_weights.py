"""AdamW for 16-bit weights with fp32 master copies, so that no small update is lost.

bfloat16 has 8 significant bits: an update below 1/512 of a weight would be rounded away, and Adam's second moment, which changes by a
thousandth a step, would never change. So weight and both moments are fp32 here (12 bytes a parameter), and the 16-bit weight is a rounded
copy that the network computes with, as in Micikevicius et al. 2018 (arXiv 1710.03740).
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

BUCKET_SIZE = 2**28
"""Most gradient elements in fp32 at a time (1 GiB); a larger parameter is a bucket of its own."""

Pair = tuple[nn.Parameter, nn.Parameter]


class MasterAdamW:
    """torch's AdamW over fp32 master copies of the parameters in `groups`; gradients are converted to fp32 bucket by bucket."""

    def __init__(self, groups: Sequence[dict[str, Any]], *, rate: float, decay: float, fused: bool) -> None:
        self.masters = {
            parameter: nn.Parameter(parameter.detach().float().clone(), requires_grad=True)
            for group in groups
            for parameter in group["params"]
        }
        copied = [{**group, "params": [self.masters[parameter] for parameter in group["params"]]} for group in groups]
        self.inner = torch.optim.AdamW(copied, lr=rate, weight_decay=decay, fused=fused)
        self.param_groups = self.inner.param_groups
        self.buckets = list(_buckets(list(self.masters.items())))

    def norm(self) -> Tensor:
        """The joint norm of all gradients, computed in fp32."""
        norms = [torch.linalg.vector_norm(weight.grad, dtype=torch.float32) for weight in self.masters if weight.grad is not None]
        return torch.linalg.vector_norm(torch.stack(norms)) if norms else torch.zeros(())

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
