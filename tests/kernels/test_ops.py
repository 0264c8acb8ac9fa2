from collections.abc import Callable

import pytest
import torch
from torch import Tensor, library
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from imprint.kernels import launch, ops
from imprint.models.step_fusion import FusedStep
from imprint.quant.row_int import RowInt
from imprint.quant.weight_format import StoredWeight, WeightFormat
from tests.cases import difference
from tests.kernels.quantized_weights import DEVICE, DTYPES, INTEGER_FORMATS, every_format, for_kernel, needs_triton, stored

pytestmark = needs_triton
DTYPE = DTYPES[0]


def arguments(weight: StoredWeight) -> tuple[Tensor, Tensor, int, int, int, int]:
    one = for_kernel(weight)
    return one.integers, one.scales, one.bits, one.group, one.rows.start, one.rows.stop


def linear(operation: Callable[..., Tensor], x: Tensor, weight: StoredWeight, bias: Tensor | None) -> Tensor:
    integers, scales, *numbers = arguments(weight)
    return operation(x, integers, scales, bias, *numbers)


@every_format
class TestLinearWithGradient:
    @pytest.mark.parametrize("shape", [(5,), (2, 3)])
    def test_output_and_gradient_are_those_of_the_dequantized_weight(self, weight_format: WeightFormat, shape: tuple[int, ...]) -> None:
        weight = stored(weight_format, 12, 128, range(1, 12))
        x = torch.randn(*shape, 128, device=DEVICE, dtype=DTYPE).requires_grad_()
        bias = torch.randn(11, device=DEVICE, dtype=DTYPE)
        exact_x = x.detach().double().requires_grad_()

        out = linear(ops.dequantized_linear, x, weight, bias)
        exact = exact_x @ weight.dequantize(DTYPE).double().t() + bias.double()
        (out.double().sin().sum() + exact.sin().sum()).backward()

        assert x.grad is not None
        assert exact_x.grad is not None
        assert difference(out, exact) < 1e-3 * float(exact.detach().abs().max())
        assert difference(x.grad, exact_x.grad) < 5e-3 * float(exact_x.grad.abs().max())

    def test_a_compiled_function_keeps_it_in_one_graph(self, weight_format: WeightFormat) -> None:
        weight = stored(weight_format, 8, 64)

        def block(x: Tensor) -> Tensor:
            return linear(ops.dequantized_linear, x.sin(), weight, None).cos()

        compiled = torch.compile(block, backend="aot_eager", fullgraph=True)
        grads: list[Tensor] = []
        for function in (block, compiled):
            x = torch.linspace(-1, 1, 192, device=DEVICE, dtype=DTYPE).view(3, 64).requires_grad_()
            function(x).sum().backward()
            assert x.grad is not None
            grads.append(x.grad)

        assert torch.equal(*grads)


def test_nothing_is_saved_for_the_gradient() -> None:
    weight = stored(RowInt(4), 8, 64)
    x = torch.randn(3, 64, device=DEVICE, dtype=DTYPE).requires_grad_()
    saved: list[Tensor] = []

    def save(one: Tensor) -> Tensor:
        saved.append(one)
        return one

    with torch.autograd.graph.saved_tensors_hooks(save, lambda one: one):
        linear(ops.dequantized_linear, x, weight, None).sum()

    assert saved == []


def test_a_checkpointed_block_has_the_same_gradient() -> None:
    weight = stored(RowInt(8), 8, 64)
    grads: list[Tensor] = []
    for recomputed in (False, True):
        x = torch.linspace(-1, 1, 192, device=DEVICE, dtype=DTYPE).view(3, 64).requires_grad_()

        def block(hidden: Tensor) -> Tensor:
            return linear(ops.dequantized_linear, hidden.sin(), weight, None).cos()

        (checkpoint(block, x, use_reentrant=False) if recomputed else block(x)).sum().backward()
        assert x.grad is not None
        grads.append(x.grad)

    assert torch.equal(*grads)


@pytest.mark.parametrize("shape", [(1,), (1, 1), (2, 3)])
def test_few_tokens_of_any_shape_are_multiplied_by_the_integers(shape: tuple[int, ...]) -> None:
    for weight_format in INTEGER_FORMATS:
        weight = stored(weight_format, 12, 128)
        x = torch.randn(*shape, 128, device=DEVICE, dtype=DTYPE)

        found, wanted = (linear(one, x, weight, None) for one in (ops.quantized_linear, ops.dequantized_linear))

        assert found.shape == (*shape, 12)
        assert difference(found, wanted) < 2e-3 * float(wanted.abs().max())


def test_a_token_times_a_plain_weight() -> None:
    x, weight, bias = (torch.randn(size, device=DEVICE).to(DTYPE) for size in ((1, 1, 40), (6, 40), (6,)))

    found = ops.dense_linear(x, weight, bias)

    assert difference(found, torch.nn.functional.linear(x, weight, bias)) < 2e-2


def test_every_operation_tells_its_shape_without_computing() -> None:
    weight = stored(RowInt(4), 8, 64)
    x = torch.randn(2, 64, device=DEVICE, dtype=DTYPE)
    integers, scales, *numbers = arguments(weight)

    for operation in (ops.dequantized_linear, ops.quantized_linear):
        library.opcheck(operation, (x, integers, scales, None, *numbers), test_utils=("test_schema", "test_faketensor"))
    library.opcheck(ops.dequantize, (integers, scales, *numbers, DTYPE), test_utils=("test_schema", "test_faketensor"))
    assert ops.dequantized_gradient(torch.ones(2, 8, device=DEVICE, dtype=DTYPE), integers, scales, *numbers).shape == (2, 64)


@every_format
@pytest.mark.parametrize("as_batch", [False, True])
def test_the_gelu_behind_a_product_of_one_token_is_that_of_pytorch(
    weight_format: WeightFormat,
    as_batch: bool,  # noqa: FBT001
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(launch, "suits_batch", lambda weight: as_batch)
    weight = stored(weight_format, 20, 264, range(4, 20))
    x, bias = torch.randn(1, 264, device=DEVICE, dtype=DTYPE), torch.randn(16, device=DEVICE, dtype=DTYPE)
    integers, scales, *numbers = arguments(weight)

    wanted = functional.gelu(ops.quantized_linear(x, integers, scales, bias, *numbers), approximate="tanh")
    found = ops.quantized_linear(x, integers, scales, bias, *numbers, gelu=True)

    assert difference(found, wanted) <= torch.finfo(DTYPE).eps * max(1.0, float(wanted.abs().max()))


@every_format
def test_a_decoding_step_computes_product_and_gelu_at_once(weight_format: WeightFormat) -> None:
    weight = stored(weight_format, 16, 128)
    x, bias = torch.randn(1, 128, device=DEVICE, dtype=DTYPE), torch.randn(16, device=DEVICE, dtype=DTYPE)
    mode = FusedStep(everywhere=True)

    with torch.no_grad():
        plain = linear(ops.quantized_linear, x, weight, bias)
        with mode:
            product = linear(ops.quantized_linear, x, weight, bias)
            found = functional.gelu(product, approximate="tanh")
            other = linear(ops.quantized_linear, x, weight, bias)
            total = torch.cat((other, other.view(16)[None])) + 1

    assert mode.fused == 1
    assert difference(found, functional.gelu(plain, approximate="tanh")) < 2e-2
    assert torch.equal(total, torch.cat((plain, plain)) + 1)
