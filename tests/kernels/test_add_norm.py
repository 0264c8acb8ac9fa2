import pytest
import torch
from torch.nn import functional

from tests.cases import difference
from tests.interpreted import use_interpreter


@pytest.fixture(autouse=True)
def _interpreter() -> None:
    use_interpreter()
    torch.manual_seed(0)


@pytest.mark.parametrize("centred", [True, False], ids=["layer norm", "RMS norm"])
@pytest.mark.parametrize("columns", [16, 20])
def test_a_sum_and_its_norm_are_those_of_pytorch(columns: int, centred: bool) -> None:  # noqa: FBT001
    from imprint.kernels.add_norm import add_norm

    x, y = torch.randn(2, 3, columns).unbind(0)
    weight, bias = torch.randn(2, columns).unbind(0)

    total, out = add_norm(x, 7.5, y, weight, bias if centred else None, 1e-5, centred=centred)

    expected = x * 7.5 + y
    norm = functional.layer_norm(expected, (columns,), weight, bias) if centred else functional.rms_norm(expected, (columns,), weight, 1e-5)
    assert difference(total, expected) < 1e-5
    assert difference(out, norm) < 1e-5
