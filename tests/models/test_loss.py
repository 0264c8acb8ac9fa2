from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from imprint.models import loss
from imprint.models.loss import target_loss, token_losses
from imprint.pack import pack
from tests.cases import difference, prompt, small_model
from tests.kernels.quantized_weights import DEVICE, needs_triton

ROWS, WIDTH, VOCABULARY = 10, 6, 17


def draw(rows: int = ROWS) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    return (
        torch.randn(rows, WIDTH, requires_grad=True),
        torch.randn(VOCABULARY, WIDTH, requires_grad=True),
        torch.randint(VOCABULARY, (rows,)),
    )


class HeadRows(TorchDispatchMode):
    """Counts the rows of every product with the LM head."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.vocabulary = vocabulary
        self.rows: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if "mm" in func.__name__ and isinstance(out, Tensor) and out.shape[-1] == self.vocabulary:
            self.rows.append(len(out))
        return out


@pytest.mark.parametrize("chunk", [1, 3, 5, 10, 1024])
def test_loss_and_gradients_are_those_of_cross_entropy_wherever_chunks_end(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(loss, "CHUNK_ROWS", chunk)
    hidden, head, labels = draw()
    expected = functional.cross_entropy(hidden @ head.t(), labels, reduction="sum")
    gradients = torch.autograd.grad(expected * 0.25, (hidden, head))

    value = target_loss(hidden, head, labels)
    (value * 0.25).backward()

    assert difference(value, expected) < 1e-5
    assert hidden.grad is not None
    assert head.grad is not None
    assert difference(hidden.grad, gradients[0]) < 1e-6
    assert difference(head.grad, gradients[1]) < 1e-6


@pytest.mark.parametrize("chunk", [3, 1024])
def test_a_weight_multiplies_the_loss_and_the_gradients_of_its_target(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(loss, "CHUNK_ROWS", chunk)
    hidden, head, labels = draw()
    weights = torch.tensor([0.0, 0.5, 2.0, 1.0, 0.0, 3.0, 1.0, 0.25, 1.0, 0.0])
    expected = (functional.cross_entropy(hidden @ head.t(), labels, reduction="none") * weights).sum()
    gradients = torch.autograd.grad(expected, (hidden, head))

    value = target_loss(hidden, head, labels, None, weights)
    found = torch.autograd.grad(value, (hidden, head))

    assert difference(value, expected) < 1e-5
    assert all(difference(one, of_autograd) < 1e-6 for one, of_autograd in zip(found, gradients, strict=True))


@pytest.mark.parametrize("cap", [0.5, 30.0])
def test_loss_and_gradients_under_a_soft_cap_are_those_of_autograd(monkeypatch: pytest.MonkeyPatch, cap: float) -> None:
    monkeypatch.setattr(loss, "CHUNK_ROWS", 3)
    hidden, head, labels = draw()
    expected = functional.cross_entropy(cap * torch.tanh(hidden @ head.t() / cap), labels, reduction="sum")
    gradients = torch.autograd.grad(expected, (hidden, head))

    target_loss(hidden, head, labels, cap).backward()

    assert difference(target_loss(hidden, head, labels, cap), expected) < 1e-5
    assert difference(token_losses(hidden, head, labels, cap).sum(), expected) < 1e-5
    assert hidden.grad is not None
    assert head.grad is not None
    assert difference(hidden.grad, gradients[0]) < 1e-6
    assert difference(head.grad, gradients[1]) < 1e-6


def test_a_frozen_head_gets_no_gradient() -> None:
    hidden, head, labels = draw()
    head.requires_grad_(False)

    target_loss(hidden, head, labels).backward()

    assert head.grad is None
    assert hidden.grad is not None


def test_a_frozen_head_costs_no_product_for_its_gradient() -> None:
    hidden, head, labels = draw()
    shapes = []
    for trained in (True, False):
        with HeadRows(WIDTH) as spy:
            target_loss(hidden, head.detach().requires_grad_(trained), labels)
        shapes.append(spy.rows)

    assert shapes == [[ROWS, VOCABULARY], [ROWS]]


def test_scoring_alone_computes_no_gradient() -> None:
    hidden, head, labels = draw()

    with HeadRows(WIDTH) as spy, torch.no_grad():
        value = target_loss(hidden, head, labels)

    assert spy.rows == []
    assert difference(value, functional.cross_entropy(hidden @ head.t(), labels, reduction="sum")) < 1e-5


def test_no_target_gives_zero_loss_and_an_empty_gradient() -> None:
    hidden, head, labels = draw(0)

    value = target_loss(hidden, head, labels)
    value.backward()

    assert value.item() == 0
    assert hidden.grad is not None
    assert hidden.grad.shape == (0, WIDTH)


def test_16_bit_losses_are_summed_in_fp32() -> None:
    torch.manual_seed(0)
    hidden, head = torch.randn(3000, WIDTH).bfloat16(), torch.randn(VOCABULARY, WIDTH).bfloat16()
    labels = torch.randint(VOCABULARY, (3000,))

    value = target_loss(hidden, head, labels)

    assert value.dtype is torch.float32
    expected = functional.cross_entropy(hidden.double() @ head.double().t(), labels, reduction="sum")
    assert difference(value, expected) < 1e-3 * float(expected)


def test_only_rows_with_a_target_reach_the_head() -> None:
    model = small_model(vocabulary=41)
    rows = [[*prompt(model.network, 1, 2, 3), 4, 5], [*prompt(model.network, 6), 7]]
    labels = [[-100] * 5 + [4, 5], [-100] * 3 + [7]]

    with HeadRows(41) as spy:
        model.loss(rows, labels)

    assert pack(rows, model.network, labels).target_tokens == 3
    assert spy.rows == [3]


def test_the_losses_of_tokens_are_those_of_torch_and_add_up_to_the_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imprint.models.loss.CHUNK_ROWS", 4)
    torch.manual_seed(0)
    hidden, head, labels = torch.randn(10, 6), torch.randn(9, 6), torch.randint(0, 9, (10,))
    losses = token_losses(hidden, head, labels)
    assert torch.allclose(losses, torch.nn.functional.cross_entropy(hidden @ head.t(), labels, reduction="none"), atol=1e-6)
    assert float(losses.sum()) == pytest.approx(float(target_loss(hidden, head, labels)), rel=1e-5)
    assert token_losses(hidden[:0], head, labels[:0]).shape == (0,)


@needs_triton
@pytest.mark.parametrize("cap", [None, 2.0])
@pytest.mark.parametrize("chunk", [4, 1024])
def test_the_kernel_gives_the_loss_and_the_gradients_of_plain_pytorch(
    monkeypatch: pytest.MonkeyPatch, cap: float | None, chunk: int
) -> None:
    monkeypatch.setattr(loss, "has_kernel", lambda _device, _dtype: True)
    monkeypatch.setattr(loss, "CHUNK_ROWS", chunk)
    hidden, head, labels = (one.to(DEVICE) for one in draw())
    weights = torch.rand(ROWS, device=DEVICE)

    computed = [target_loss(hidden, head, labels, cap, weights, kernels=kernels) for kernels in (True, False)]
    found, expected = (torch.autograd.grad(one * 0.25, (hidden, head)) for one in computed)

    assert difference(*computed) < 1e-5
    assert all(difference(one, other) < 1e-5 for one, other in zip(found, expected, strict=True))
    of_tokens = [token_losses(hidden, head, labels, cap, kernels=kernels) for kernels in (True, False)]
    assert difference(*of_tokens) < 1e-5


@needs_triton
@pytest.mark.parametrize("cap", [None, 30.0])
def test_the_kernel_in_16_bits_is_as_close_to_fp64_as_plain_pytorch(monkeypatch: pytest.MonkeyPatch, cap: float | None) -> None:
    monkeypatch.setattr(loss, "has_kernel", lambda _device, _dtype: True)
    torch.manual_seed(0)
    hidden, head = (torch.randn(rows, 16, device=DEVICE).half().requires_grad_() for rows in (40, 5000))
    labels = torch.randint(5000, (40,), device=DEVICE)
    exact = functional.cross_entropy(loss.soft_cap(hidden.double() @ head.double().t(), cap), labels, reduction="sum")
    (of_exact,) = torch.autograd.grad(exact, hidden)

    errors = []
    for kernels in (True, False):
        value = target_loss(hidden, head, labels, cap, kernels=kernels)
        (gradient,) = torch.autograd.grad(value, hidden)
        errors.append((difference(value, exact), difference(gradient, of_exact)))

    assert errors[0][0] <= errors[1][0] + 1e-3
    assert errors[0][1] <= 1.05 * errors[1][1]


def test_one_chunk_keeps_the_gradient_of_a_trained_head_in_its_own_dtype(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    hidden, head, labels = torch.randn(8, WIDTH).bfloat16(), torch.randn(VOCABULARY, WIDTH).bfloat16(), torch.randint(VOCABULARY, (8,))
    found = []
    for chunk in (8, 3):
        monkeypatch.setattr(loss, "CHUNK_ROWS", chunk)
        trained = head.clone().requires_grad_()
        target_loss(hidden, trained, labels).backward()
        assert trained.grad is not None
        found.append(trained.grad)

    assert found[0].dtype == found[1].dtype == torch.bfloat16
    assert difference(found[0].float(), found[1].float()) < 0.05
