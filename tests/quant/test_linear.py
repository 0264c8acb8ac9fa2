import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

import imprint.quant.linear as quant
from imprint.loading.load import load_model
from imprint.loading.source import resolve_source
from imprint.quant.formats import FORMATS
from imprint.quant.group_int4 import GroupInt4
from imprint.quant.linear import QuantizedEmbedding, QuantizedLinear, make_linear
from imprint.quant.weight_format import StoredWeight, WeightFormat
from tests.cases import difference
from tests.tinyrun import tiny_recipe, tiny_run

EVERY_FORMAT = pytest.mark.parametrize("weight_format", FORMATS, ids=lambda one: str(one.title))


def layer(weight_format: WeightFormat, *, rows: int = 6, columns: int = 8) -> QuantizedLinear:
    torch.manual_seed(4)
    linear = QuantizedLinear(columns, rows, weight_format)
    linear.tensors = weight_format.quantize(torch.randn(rows, columns))
    assert linear.bias is not None
    linear.bias.data.normal_()
    return linear


class Products(TorchDispatchMode):
    """Records the shapes of all matrix products inside."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.shapes: list[tuple[int, ...]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if "mm" in func.__name__:
            self.shapes.append(tuple(out.shape))
        return out


@EVERY_FORMAT
class TestLinear:
    def test_output_and_gradient_are_those_of_the_dequantized_weight(self, weight_format: WeightFormat) -> None:
        ours = layer(weight_format)
        x = torch.randn(5, 8, requires_grad=True)
        other = x.detach().clone().requires_grad_()

        out, expected = ours(x), functional.linear(other, ours.dequantize(torch.float32), ours.bias)
        (out.sin().sum()).backward()
        (expected.sin().sum()).backward()

        assert torch.equal(out, expected)
        assert x.grad is not None
        assert other.grad is not None
        assert difference(x.grad, other.grad) < 1e-6

    def test_a_linear_without_a_bias_has_none(self, weight_format: WeightFormat) -> None:
        ours = QuantizedLinear(8, 6, weight_format, bias=False)
        ours.tensors = weight_format.quantize(torch.randn(6, 8))
        x = torch.randn(3, 8)

        assert set(ours.state_dict()) == set(ours.format_tensors)
        assert torch.equal(ours(x), functional.linear(x, ours.dequantize(torch.float32)))

    @pytest.mark.parametrize("at_once", [8, 24, 40])
    def test_on_a_cpu_a_few_rows_at_a_time_give_the_same(
        self, weight_format: WeightFormat, at_once: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        results = []
        for weights in (2**21, at_once):
            monkeypatch.setattr("imprint.quant.kernels.CPU_CHUNK_WEIGHTS", weights)
            torch.manual_seed(0)
            x = torch.randn(5, 8, requires_grad=True)
            with Products() as products:
                out = layer(weight_format)(x)
                out.sin().sum().backward()
            assert x.grad is not None
            results.append((out, x.grad, len(products.shapes)))

        assert difference(results[0][0], results[1][0]) < 1e-5
        assert difference(results[0][1], results[1][1]) < 1e-5
        assert [count for *_, count in results] == [2, 2 * -(-6 // (at_once // 8))]

    def test_its_own_weights_get_no_gradient(self, weight_format: WeightFormat) -> None:
        ours = layer(weight_format)
        assert ours.bias is not None
        ours.bias.requires_grad_(True)
        x = torch.randn(5, 8, requires_grad=True)

        with Products() as products:
            ours(x).sum().backward()

        assert products.shapes == [(5, 6), (5, 8)]
        assert ours.bias.grad is None
        assert not any(buffer.requires_grad for buffer in ours.buffers())

    def test_nothing_is_saved_for_the_backward_pass(self, weight_format: WeightFormat) -> None:
        saved: list[Tensor] = []
        note: Callable[[Tensor], Tensor] = lambda tensor: saved.append(tensor) or tensor  # type: ignore[func-returns-value]  # noqa: E731

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            layer(weight_format)(torch.randn(5, 8, requires_grad=True))

        assert saved == []

    def test_another_compute_dtype_leaves_the_stored_tensors_alone(self, weight_format: WeightFormat) -> None:
        ours = layer(weight_format)
        before = {name: tensor.clone() for name, tensor in ours.tensors.items()}

        ours.bfloat16()

        assert ours.bias is not None
        assert ours.bias.dtype is torch.bfloat16
        assert [name for name, tensor in ours.tensors.items() if tensor.dtype != before[name].dtype] == []
        assert [name for name, tensor in ours.tensors.items() if not torch.equal(tensor, before[name])] == []
        assert ours(torch.randn(2, 8).bfloat16()).dtype is torch.bfloat16

    @pytest.mark.gpu
    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
    def test_a_gpu_has_the_same_weights(self, weight_format: WeightFormat, dtype: torch.dtype) -> None:
        weight = torch.randn(64, 48)
        ours = layer(weight_format, rows=64, columns=48)
        for stored in (weight, weight.half(), weight.bfloat16()):
            on_gpu, on_cpu = weight_format.quantize(stored.cuda()), weight_format.quantize(stored)
            assert all(torch.equal(on_gpu[name].cpu(), tensor) for name, tensor in on_cpu.items())
        expected = ours.dequantize(dtype)
        out = ours(weight[:, :48])

        ours.cuda()

        assert torch.equal(ours.dequantize(dtype).cpu(), expected)
        assert difference(ours(weight.cuda()).cpu(), out) < 1e-2


@EVERY_FORMAT
class TestEmbedding:
    def test_embedding_rows_and_head_use_the_same_weights(self, weight_format: WeightFormat, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(quant, "HEAD_CHUNK_ROWS", 7)
        ours = QuantizedEmbedding(40, 8, weight_format)
        ours.tensors = weight_format.quantize(torch.randn(40, 8))
        ids, hidden = torch.tensor([3, 0, 39, 3]), torch.randn(5, 8, requires_grad=True)

        rows, logits = ours(ids), ours.logits(hidden)
        logits.sum().backward()

        assert torch.equal(rows, ours.dequantize(torch.float16)[ids])
        assert difference(logits, hidden @ ours.dequantize(torch.float32).t()) < 1e-5
        assert hidden.grad is not None
        assert difference(hidden.grad[0], ours.dequantize(torch.float32).sum(0)) < 1e-4


class Doubled:
    """A kernel for one kind of product, whose result shows that it was used."""

    def supports(self, x: Tensor, weight: StoredWeight) -> bool:
        return len(x) == 1 and weight.columns == 8

    def matmul(self, x: Tensor, weight: StoredWeight, bias: Tensor | None) -> Tensor:
        return 2 * functional.linear(x, weight.dequantize(x.dtype), bias)


@EVERY_FORMAT
def test_the_first_kernel_that_supports_a_product_computes_it(weight_format: WeightFormat) -> None:
    ours, x = layer(weight_format), torch.randn(5, 8)
    expected = ours(x)

    ours.kernels = (Doubled(), *ours.kernels)

    assert torch.equal(ours(x), expected)
    torch.testing.assert_close(ours(x[:1]), 2 * expected[:1], rtol=1e-6, atol=1e-6)  # a product of one row adds in another order


def test_a_linear_is_quantized_where_there_is_a_format() -> None:
    assert type(make_linear(8, 6, None)) is torch.nn.Linear
    assert isinstance(make_linear(8, 6, FORMATS[0], bias=False), QuantizedLinear)
    assert "6, 8, int8" in repr(make_linear(8, 6, FORMATS[0]))


def test_steps_on_a_quantized_base_look_for_no_compiler_and_no_other_program(drilled: dict[str, dict[str, Any]]) -> None:
    found = drilled["stops"]["alone"]
    assert found["status"] == 0, found["said"]
    assert "in 4 bits" in found["said"]
    assert "finished: 1 of 1 steps are done" in found["said"]


@pytest.mark.long
def test_nor_do_the_imports_of_such_a_run(repo: Path, tmp_path: Path) -> None:
    recipe, empty = tiny_recipe(tmp_path), tmp_path / "empty"
    empty.mkdir()
    quantized = ["model.quantize=4", "model.device=null", "train.steps=1", "train.evaluate_every=1", "train.watch_every=1"]
    command = [sys.executable, "-m", "imprint", "train", str(recipe), *quantized]
    environment = {
        "PATH": str(empty),
        "HOME": str(tmp_path),
        "LANG": "C.UTF-8",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }  # no CC, no CUDA_HOME

    process = subprocess.run(command, cwd=repo, env=environment, capture_output=True, encoding="utf-8", check=False)

    assert process.returncode == 0, process.stderr[-2000:]
    assert "in 4 bits" in process.stdout
    assert "finished: 1 of 1 steps are done" in process.stdout


def test_a_run_on_groups_of_columns_is_opened_in_its_format(tmp_path: Path) -> None:
    run = tiny_run(tiny_recipe(tmp_path), "run", "model.quantize=int4-g128", "train.steps=2")

    model = load_model(resolve_source(run.path), device="cpu")

    assert model.network.weight_format == GroupInt4()
    assert model.adapter is not None
