from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from imprint.models.pending import Pending, values


class Doubled(Pending):
    """Twice a tensor."""

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        self.x = x
        self.times = 0

    def _compute(self) -> Tensor:
        self.times += 1
        return 2 * self.x


def test_it_is_computed_once_by_whatever_needs_it() -> None:
    x = torch.randn(3, 4)
    doubled: Any = Doubled(x)

    results = (doubled.view(12), functional.relu(doubled), doubled + 1, 1 * doubled, doubled[0], torch.cat([x, doubled]))

    wanted = (2 * x.view(12), (2 * x).relu(), 2 * x + 1, 2 * x, 2 * x[0], torch.cat([x, 2 * x]))
    assert all(torch.equal(found, other) for found, other in zip(results, wanted, strict=True))
    assert len(doubled) == 3
    assert doubled.times == 1


def test_arguments_that_hold_none_stay_as_they_are() -> None:
    inputs = (1, [torch.ones(1)], "text")

    assert values(inputs) is inputs
    assert torch.equal(values([Doubled(torch.ones(1)), 3])[0], torch.full((1,), 2.0))
