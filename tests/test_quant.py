import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

import imprint.quant as quant
from imprint.quant import BITS, QuantizedEmbedding, QuantizedLinear, dequantize, quantize
from tests.cases import GOLDEN, difference
from tests.tinyrun import tiny_recipe

BASE = GOLDEN / "chatglm1-base"


def layer(bits: int, *, rows: int = 6, columns: int = 8) -> QuantizedLinear:
    torch.manual_seed(bits)
    made = QuantizedLinear(columns, rows, bits)
    made.weight, made.weight_scale = quantize(torch.randn(rows, columns), bits)
    assert made.bias is not None
    made.bias.data.normal_()
    return made


class Products(TorchDispatchMode):
    """Notes the shapes of all matrix products inside."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.shapes: list[tuple[int, ...]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if "mm" in func.__name__:
            self.shapes.append(tuple(out.shape))
        return out


class TestTheFormat:
    @pytest.mark.parametrize("bits", BITS)
    @pytest.mark.parametrize(("dtype", "name"), [(torch.float32, ""), (torch.float16, "-from-fp16")])
    def test_integers_and_scales_are_those_of_the_original(self, bits: int, dtype: torch.dtype, name: str) -> None:
        weights = load_file(BASE / "model.safetensors")
        golden = load_file(BASE / f"int{bits}{name}.safetensors")
        names = [key for key in golden if key.endswith(".weight")]

        made = {key: quantize(weights[key].to(dtype), bits) for key in names}

        assert len(names) == 12
        assert [key for key in names if not torch.equal(made[key][0], golden[key])] == []
        assert [key for key in names if not torch.equal(made[key][1], golden[f"{key}_scale"])] == []

    def test_the_first_of_two_columns_lies_in_the_high_nibble(self) -> None:
        integers, scale = quantize(torch.tensor([[7.0, -1.0, -7.0, 2.0]]), 4)

        assert scale.tolist() == [1.0]
        assert [number & 0xFF for number in integers[0].tolist()] == [0x7F, 0x92]

    @pytest.mark.parametrize("bits", BITS)
    def test_numbers_are_the_product_rounded_to_fp16(self, bits: int) -> None:
        torch.manual_seed(0)
        whole = torch.randint(-(2 ** (bits - 1)), 2 ** (bits - 1), (64, 32), dtype=torch.int8)
        scale = torch.rand(64).half() * torch.logspace(-7, 1, 64).half()  # also where fp16 has few digits left
        packed = whole if bits == 8 else (whole[:, ::2] << 4) | (whole[:, 1::2] & 15)
        exact = (whole.double() * scale.double()[:, None]).half()

        for dtype in (torch.float16, torch.bfloat16, torch.float32):
            assert torch.equal(dequantize(packed, scale, bits, dtype), exact.to(dtype))

    @pytest.mark.parametrize("bits", BITS)
    def test_bfloat16_is_divided_in_fp32(self, bits: int) -> None:
        weight = torch.randn(16, 8).bfloat16()

        assert all(torch.equal(one, other) for one, other in zip(quantize(weight, bits), quantize(weight.float(), bits), strict=True))

    @pytest.mark.parametrize("bits", BITS)
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
    def test_scales_can_have_the_type_of_the_weights_which_products_are_then_rounded_to(self, bits: int, dtype: torch.dtype) -> None:
        torch.manual_seed(0)
        weight = torch.randn(16, 8).to(dtype)
        largest = 2 ** (bits - 1) - 1
        exact = weight.abs().amax(-1) / largest  # as quantization.py of ChatGLM2-6B divides
        divided = weight.float() if dtype is torch.bfloat16 else weight

        integers, scale = quantize(weight, bits, None)

        whole = integers if bits == 8 else torch.stack((integers >> 4, (integers << 4) >> 4), -1).flatten(-2)
        assert scale.dtype is dtype
        assert torch.equal(scale, exact)
        assert torch.equal(whole, (divided / exact[:, None]).round().to(torch.int8))
        assert torch.equal(dequantize(integers, scale, bits, torch.float32), (whole.float() * scale.float()[:, None]).to(dtype).float())

    @pytest.mark.parametrize("bits", BITS)
    def test_rows_of_nothing_and_of_next_to_nothing_stay_so(self, bits: int) -> None:
        weight = torch.tensor([0.0, 1e-12, 3e-8, 1.3e-5, 1e-3])[:, None] * torch.tensor([1.0, -1.0, 0.5, 0.0])

        largest = 2 ** (bits - 1) - 1

        numbers = dequantize(*quantize(weight, bits), bits, torch.float32)

        step = weight.abs().amax(-1, keepdim=True) / largest + 2**-24  # as exact as fp16's smallest scales allow
        assert ((numbers - weight).abs() <= 0.51 * step + largest * 2**-24).all()
        assert (numbers * weight).min() >= 0  # nothing has changed its sign

    @pytest.mark.parametrize("bits", BITS)
    @pytest.mark.parametrize("number", [float("nan"), float("inf"), 1e30])
    def test_a_row_that_cannot_be_held_has_a_scale_that_is_not_finite(self, bits: int, number: float) -> None:
        _, scale = quantize(torch.tensor([[1.0, 2.0], [number, 1.0]]), bits)

        assert scale.isfinite().tolist() == [True, False]

    @pytest.mark.parametrize("bits", BITS)
    def test_parts_make_the_same_whole(self, bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
        weight = torch.randn(37, 8)
        whole = quantize(weight, bits)
        monkeypatch.setattr(quant, "QUANTIZED_AT_ONCE", 40)

        assert all(torch.equal(one, other) for one, other in zip(quantize(weight, bits), whole, strict=True))


@pytest.mark.parametrize("bits", BITS)
class TestLinear:
    def test_output_and_gradient_are_those_of_the_numbers(self, bits: int) -> None:
        ours = layer(bits)
        x = torch.randn(5, 8, requires_grad=True)
        other = x.detach().clone().requires_grad_()

        out, expected = ours(x), functional.linear(other, ours.numbers(torch.float32), ours.bias)
        (out.sin().sum()).backward()
        (expected.sin().sum()).backward()

        assert torch.equal(out, expected)
        assert x.grad is not None
        assert other.grad is not None
        assert difference(x.grad, other.grad) < 1e-6

    def test_a_linear_without_a_bias_has_none(self, bits: int) -> None:
        ours = QuantizedLinear(8, 6, bits, bias=False)
        ours.weight, ours.weight_scale = quantize(torch.randn(6, 8), bits)
        x = torch.randn(3, 8)

        assert set(ours.state_dict()) == {"weight", "weight_scale"}
        assert torch.equal(ours(x), functional.linear(x, ours.numbers(torch.float32)))

    @pytest.mark.parametrize("at_once", [8, 24, 40])
    def test_on_a_cpu_a_few_rows_at_a_time_give_the_same(self, bits: int, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
        found = []
        for weights in (2**21, at_once):
            monkeypatch.setattr(quant, "NUMBERS_AT_ONCE", weights)
            torch.manual_seed(0)
            x = torch.randn(5, 8, requires_grad=True)
            with Products() as products:
                out = layer(bits)(x)
                out.sin().sum().backward()
            assert x.grad is not None
            found.append((out, x.grad, len(products.shapes)))

        assert difference(found[0][0], found[1][0]) < 1e-6
        assert difference(found[0][1], found[1][1]) < 1e-6
        assert [count for *_, count in found] == [2, 2 * -(-6 // (at_once // 8))]

    def test_no_gradient_of_its_own_is_computed_or_asked_for(self, bits: int) -> None:
        ours = layer(bits)
        assert ours.bias is not None
        ours.bias.requires_grad_(True)
        x = torch.randn(5, 8, requires_grad=True)

        with Products() as products:
            ours(x).sum().backward()

        assert products.shapes == [(5, 6), (5, 8)]
        assert ours.bias.grad is None
        assert not any(buffer.requires_grad for buffer in ours.buffers())

    def test_nothing_is_kept_for_the_backward_pass(self, bits: int) -> None:
        kept: list[Tensor] = []
        note: Callable[[Tensor], Tensor] = lambda tensor: kept.append(tensor) or tensor  # type: ignore[func-returns-value]  # noqa: E731

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            layer(bits)(torch.randn(5, 8, requires_grad=True))

        assert kept == []

    def test_another_type_to_compute_in_leaves_the_scales_alone(self, bits: int) -> None:
        ours = layer(bits)
        before = ours.weight_scale.clone()

        ours.bfloat16()

        assert ours.bias is not None
        assert ours.bias.dtype is torch.bfloat16
        assert ours.weight_scale.dtype is torch.float16
        assert torch.equal(ours.weight_scale, before)
        assert ours(torch.randn(2, 8).bfloat16()).dtype is torch.bfloat16

    @pytest.mark.gpu
    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
    def test_a_gpu_holds_the_same_numbers(self, bits: int, dtype: torch.dtype) -> None:
        weight = torch.randn(64, 48)
        ours = layer(bits, rows=64, columns=48)
        for stored in (weight, weight.half(), weight.bfloat16()):
            on_gpu = quantize(stored.cuda(), bits)
            assert all(torch.equal(one.cpu(), other) for one, other in zip(on_gpu, quantize(stored, bits), strict=True))
        expected = ours.numbers(dtype)
        out = ours(weight[:, :48])

        ours.cuda()

        assert torch.equal(ours.numbers(dtype).cpu(), expected)
        assert difference(ours(weight.cuda()).cpu(), out) < 1e-2


@pytest.mark.parametrize("bits", BITS)
class TestEmbedding:
    def test_rows_of_ids_and_the_head_are_the_same_numbers(self, bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(quant, "HEAD_ROWS_AT_ONCE", 7)
        ours = QuantizedEmbedding(40, 8, bits)
        ours.weight, ours.weight_scale = quantize(torch.randn(40, 8), bits)
        ids, hidden = torch.tensor([3, 0, 39, 3]), torch.randn(5, 8, requires_grad=True)

        rows, logits = ours(ids), ours.logits(hidden)
        logits.sum().backward()

        assert torch.equal(rows, ours.numbers(torch.float16)[ids])
        assert difference(logits, hidden @ ours.numbers(torch.float32).t()) < 1e-5
        assert hidden.grad is not None
        assert difference(hidden.grad[0], ours.numbers(torch.float32).sum(0)) < 1e-4


def test_steps_on_a_quantised_base_need_no_compiler_and_no_other_program(repo: Path, tmp_path: Path) -> None:
    recipe, nothing = tiny_recipe(tmp_path), tmp_path / "nothing"
    nothing.mkdir()
    quantised = ["model.quantize=4", "model.device=null", "train.steps=1", "train.evaluate_every=1", "train.watch_every=1"]
    command = [sys.executable, "-m", "imprint", "train", str(recipe), *quantised]
    environment = {
        "PATH": str(nothing),
        "HOME": str(tmp_path),
        "LANG": "C.UTF-8",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }  # no CC, no CUDA_HOME

    done = subprocess.run(command, cwd=repo, env=environment, capture_output=True, encoding="utf-8", check=False)

    assert done.returncode == 0, done.stderr[-2000:]
    assert "in 4 bits" in done.stdout
    assert "finished: 1 of 1 steps are done" in done.stdout
