import math

import torch

from imprint.engine.async_scalar import AsyncScalar


def test_a_number_is_the_one_at_the_time_when_it_was_asked_for() -> None:
    number = torch.tensor(2.5, requires_grad=True)
    assert float(AsyncScalar(number * 2)) == 5.0
    assert math.isnan(float(AsyncScalar(torch.tensor(math.nan))))
    assert float(AsyncScalar(torch.tensor(True))) == 1.0


def test_what_comes_later_does_not_change_it() -> None:
    number = torch.tensor(1.0)
    read = AsyncScalar(number)
    number += 1
    assert float(read) == 1.0
