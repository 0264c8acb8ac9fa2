"""AdamW for weights of 16 bit: it moves fp32 copies of them, so that no small step is lost.

bfloat16 keeps 8 binary digits: a step smaller than 1/512 of a weight would leave it where it is, and Adam's mean of squares, which
changes by a thousandth a step, would stand still. So weight, mean and mean of squares are fp32 here (12 bytes a parameter), and the
16-bit weight is the rounded copy that the network computes with, as in Micikevicius et al. 2018 (arXiv 1710.03740).
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

BUCKET_NUMBERS = 2**28
"""So many gradients at most are held in fp32 at once (1 GiB); a larger parameter stands alone."""

Pair = tuple[nn.Parameter, nn.Parameter]


class MasterAdamW:
    """torch's AdamW over the fp32 copies of `groups`' parameters; the gradients stay in 16 bit until their bucket's turn comes."""

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
        """The norm of all gradients, computed in fp32."""
        norms = [torch.linalg.vector_norm(one.grad, dtype=torch.float32) for one in self.masters if one.grad is not None]
        return torch.linalg.vector_norm(torch.stack(norms)) if norms else torch.zeros(())

    def step(self, factor: float) -> None:
        """Move the copies by the gradients times `factor`, and round the weights from them; the gradients are used up."""
        for bucket in self.buckets:
            for weight, master in bucket:
                if weight.grad is not None:
                    master.grad = weight.grad.float().mul_(factor)
                    weight.grad = None
            self.inner.step()  # those without a gradient rest
            for weight, master in bucket:
                weight.data.copy_(master.data)
                master.grad = None

    def zero_grad(self) -> None:
        """Throw the gradients away."""
        for weight in self.masters:
            weight.grad = None


def _buckets(pairs: Sequence[Pair]) -> Iterator[list[Pair]]:
    held: list[Pair] = []
    room = BUCKET_NUMBERS
    for pair in pairs:
        if held and pair[1].numel() > room:
            yield held
            held, room = [], BUCKET_NUMBERS
        held.append(pair)
        room -= pair[1].numel()
    if held:
        yield held
