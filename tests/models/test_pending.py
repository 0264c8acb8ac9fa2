import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from imprint.models.loss import soft_cap
from imprint.models.pending import Pending, values

Binary = Callable[[Any, Any], Any]
ARITHMETIC = (operator.add, operator.mul, operator.sub, operator.truediv, operator.pow)
OTHERS = (operator.floordiv, operator.mod, operator.lt, operator.le, operator.gt, operator.ge)


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


@pytest.mark.parametrize("function", [*ARITHMETIC, *OTHERS], ids=lambda one: one.__name__)
def test_an_operator_gives_what_it_gives_of_the_tensor(function: Binary) -> None:
    x, y = torch.tensor([[1.5, 2.0], [0.5, 3.0]]), torch.tensor([[2.0, 2.0], [1.0, 0.25]])

    assert torch.equal(function(Doubled(x), 3.0), function(2 * x, 3.0))
    assert torch.equal(function(Doubled(x), y), function(2 * x, y))
    assert torch.equal(function(Doubled(x), Doubled(y)), function(2 * x, 2 * y))
    assert torch.equal(function(y, Doubled(x)), function(y, 2 * x))


@pytest.mark.parametrize("function", ARITHMETIC, ids=lambda one: one.__name__)
def test_it_may_stand_behind_a_number(function: Binary) -> None:
    x = torch.tensor([1.5, 2.0])

    assert torch.equal(function(3.0, Doubled(x)), function(3.0, 2 * x))


def test_it_is_negated_and_multiplied_as_a_matrix() -> None:
    x = torch.tensor([[1.5, -2.0], [0.5, 3.0]])
    doubled: Any = Doubled(x)

    results = (-doubled, abs(doubled), doubled @ x, x @ doubled)

    wanted = (-2 * x, abs(2 * x), 2 * x @ x, x @ (2 * x))
    assert all(torch.equal(found, other) for found, other in zip(results, wanted, strict=True))


def test_logits_that_a_kernel_will_compute_are_capped() -> None:
    logits: Any = Doubled(torch.tensor([[50.0, -3.0]]))

    assert torch.equal(soft_cap(logits, 30.0), soft_cap(logits.value, 30.0))
