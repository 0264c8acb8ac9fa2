import pytest
import torch
from torch import Tensor

from imprint.kernels.cross_entropy import BLOCK, cross_entropy
from imprint.models.loss import _plain_cross_entropy
from tests.cases import difference
from tests.kernels.quantized_weights import DEVICE, needs_triton

ROWS = 5


def draw(size: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Logits whose rows are part of longer ones, labels at both ends and between, and weights."""
    torch.manual_seed(size)
    logits = (4 * torch.randn(ROWS, size + 3, device=DEVICE)).to(dtype)[:, :size]
    labels = torch.randint(size, (ROWS,), device=DEVICE)
    labels[:2] = torch.tensor([0, size - 1])
    return logits, labels, torch.tensor([1.0, 0.0, 0.5, 2.0, 1.0], device=DEVICE)


@needs_triton
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("size", [7, BLOCK, 2 * BLOCK + 5])
@pytest.mark.parametrize("cap", [None, 0.5, 30.0])
@pytest.mark.parametrize("weighted", [False, True])
def test_losses_and_gradients_are_those_of_plain_pytorch(dtype: torch.dtype, size: int, cap: float | None, weighted: bool) -> None:  # noqa: FBT001
    logits, labels, weights = draw(size, dtype)
    expected_gradient, found_gradient = logits.clone(), logits

    expected = _plain_cross_entropy(expected_gradient, labels, weights if weighted else None, cap, True)
    found = cross_entropy(found_gradient, labels, weights if weighted else None, cap, True)

    assert difference(found, expected) < 1e-5 * max(1.0, float(expected.abs().max()))
    assert difference(found_gradient.float(), expected_gradient.float()) < (5e-6 if dtype is torch.float32 else 2e-3)


@needs_triton
def test_without_a_gradient_the_logits_stay() -> None:
    logits, labels, _ = draw(100, torch.float32)
    before = logits.clone()

    losses = cross_entropy(logits, labels, None, None, False)

    assert torch.equal(logits, before)
    assert difference(losses, torch.nn.functional.cross_entropy(logits, labels, reduction="none")) < 1e-5


@needs_triton
@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")  # of the interpreter
@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_a_logit_that_is_not_finite_gives_a_loss_that_is_not(broken: float) -> None:
    logits, labels, _ = draw(2 * BLOCK, torch.float32)
    logits[1, BLOCK + 3] = broken

    assert cross_entropy(logits, labels, None, None, True).isfinite().tolist() == [True, False, True, True, True]


@needs_triton
def test_tokens_of_probability_0_are_left_out() -> None:
    logits, labels, _ = draw(2 * BLOCK, torch.float32)
    logits[:, :BLOCK], labels[:] = float("-inf"), BLOCK + 1
    expected_gradient = logits.clone()

    expected = _plain_cross_entropy(expected_gradient, labels, None, None, True)

    assert difference(cross_entropy(logits, labels, None, None, True), expected) < 1e-5
    assert difference(logits, expected_gradient) < 5e-6


@needs_triton
def test_no_row_gives_no_loss() -> None:
    logits, labels, _ = draw(7, torch.float32)

    assert cross_entropy(logits[:0], labels[:0], None, None, True).shape == (0,)
