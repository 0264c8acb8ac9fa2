import pytest
import torch

from imprint.export.writers import refuse_overflow
from imprint.messages import UserError
from tests.cases import small_model


def test_a_number_that_the_type_cannot_hold_is_refused_with_its_name() -> None:
    model = small_model()
    refuse_overflow(model, torch.float16)
    name, parameter = next(iter(model.network.named_parameters()))
    parameter.data[0, 0] = 70000.0

    refuse_overflow(model, torch.bfloat16)
    with pytest.raises(UserError) as caught:
        refuse_overflow(model, torch.float16)

    assert f"{name!r} holds values that torch.float16 cannot represent (its largest is 6.55e+04)" in str(caught.value)


def test_a_number_that_is_none_is_refused_in_every_type() -> None:
    model = small_model()
    next(iter(model.network.parameters())).data[0, 0] = float("nan")

    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        with pytest.raises(UserError, match="or that are not finite"):
            refuse_overflow(model, dtype)
