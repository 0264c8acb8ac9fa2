import pytest
import torch
from torch import Tensor
from torch.nn import functional

from imprint.kernels.quantize_rows import FP8, SMALLEST, by_kernel, quantize_rows, scaled_rows
from tests.cases import difference
from tests.kernels.quantized_weights import DEVICE, needs_triton


def test_every_row_has_a_scale_of_its_own_for_its_largest_magnitude() -> None:
    x = torch.tensor([[1e-6, -2e-6, 0.0], [-4e5, 1e5, 2e5], [0.0, 0.0, 0.0]], device=DEVICE)

    numbers, scales = quantize_rows(x)

    assert numbers.dtype is FP8
    assert numbers.float().abs().amax(-1).tolist() == [448, 448, 0]
    assert ((numbers.float() * scales - x).abs() <= 1e-6 * x.abs().amax(-1, keepdim=True)).all()
    assert (scales > 0).all()


def test_what_is_not_finite_stays_so() -> None:
    x = torch.ones(3, 8, device=DEVICE)
    x[0, 1], x[1, 2] = float("nan"), float("inf")

    numbers, scales = quantize_rows(x)

    assert (numbers.float() * scales).sum(-1).isfinite().tolist() == [False, False, True]


def test_factors_count_before_the_scale() -> None:
    x, factors = torch.randn(4, 32, device=DEVICE), torch.rand(32, device=DEVICE)

    found, expected = quantize_rows(x, factors), scaled_rows(x * factors)

    assert difference(found[0].float() * found[1], expected[0].float() * expected[1]) < 1e-4 * float(x.abs().max())


def exact(x: Tensor, way: str, pre_activation: Tensor, factors: Tensor) -> Tensor:
    x = x.double()
    if "activated" in way:
        x = functional.gelu(x, approximate="tanh")
    if "pre_activation" in way:
        x = torch.ops.aten.gelu_backward(x, pre_activation.double(), approximate="tanh")
    return x * factors if "factors" in way else x


@needs_triton
@pytest.mark.parametrize("features", [96, 2048])
@pytest.mark.parametrize("way", ["", "activated", "pre_activation", "pre_activation, factors"])
def test_the_kernel_computes_what_pytorch_does(way: str, features: int) -> None:
    """On a CPU it writes fp16: Triton's interpreter does not round to FP8 as GPUs do."""
    torch.manual_seed(0)
    x, pre_activation = (torch.randn(5, features, device=DEVICE, dtype=torch.float16) for _ in range(2))
    x, factors = x * torch.tensor([1e-4, 1e3, 1, 0, 30], device=DEVICE).half()[:, None], torch.rand(features, device=DEVICE)
    taken = {"activated": way == "activated", "pre_activation": pre_activation if "pre_activation" in way else None}
    dtype = FP8 if DEVICE.type == "cuda" else torch.float16

    numbers, scales = by_kernel(x, factors if "factors" in way else None, dtype, **taken)  # type: ignore[arg-type]

    found, expected = numbers.double() * scales.double(), exact(x, way, pre_activation, factors)
    largest = expected.abs().amax(-1, keepdim=True)
    bound = 1e-3 * largest if dtype is torch.float16 else torch.maximum(expected.abs() / 15, largest / 448 / 1000)
    assert ((found - expected).abs() <= bound).all()
    assert difference(scales, largest.clamp(min=SMALLEST) / torch.finfo(dtype).max) < 1e-5 * float(scales.max())
