import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from imprint.quant.row_int import RowInt
from imprint.quant.weight_format import SCALE, WEIGHT
from tests.cases import BITS, GOLDEN, Bits, quantize

BASE = GOLDEN / "chatglm1-base"


def dequantize(integers: Tensor, scale: Tensor, bits: Bits, dtype: torch.dtype) -> Tensor:
    return RowInt(bits).dequantize({WEIGHT: integers, SCALE: scale}, slice(None), dtype)


class TestTheFormat:
    @pytest.mark.parametrize("bits", BITS)
    @pytest.mark.parametrize(("dtype", "name"), [(torch.float32, ""), (torch.float16, "-from-fp16")])
    def test_integers_and_scales_are_those_of_the_original(self, bits: Bits, dtype: torch.dtype, name: str) -> None:
        weights = load_file(BASE / "model.safetensors")
        golden = load_file(BASE / f"int{bits}{name}.safetensors")
        names = [key for key in golden if key.endswith(".weight")]

        quantized = {key: quantize(weights[key].to(dtype), bits) for key in names}

        assert len(names) == 12
        assert [key for key in names if not torch.equal(quantized[key][0], golden[key])] == []
        assert [key for key in names if not torch.equal(quantized[key][1], golden[f"{key}_scale"])] == []

    def test_the_first_of_two_columns_lies_in_the_high_nibble(self) -> None:
        integers, scale = quantize(torch.tensor([[7.0, -1.0, -7.0, 2.0]]), 4)

        assert scale.tolist() == [1.0]
        assert [number & 0xFF for number in integers[0].tolist()] == [0x7F, 0x92]

    @pytest.mark.parametrize("bits", BITS)
    def test_dequantized_weights_are_the_product_rounded_to_fp16(self, bits: Bits) -> None:
        torch.manual_seed(0)
        integers = torch.randint(-(2 ** (bits - 1)), 2 ** (bits - 1), (64, 32), dtype=torch.int8)
        scale = torch.rand(64).half() * torch.logspace(-7, 1, 64).half()  # also where fp16 has few digits left
        packed = integers if bits == 8 else (integers[:, ::2] << 4) | (integers[:, 1::2] & 15)
        exact = (integers.double() * scale.double()[:, None]).half()

        for dtype in (torch.float16, torch.bfloat16, torch.float32):
            assert torch.equal(dequantize(packed, scale, bits, dtype), exact.to(dtype))

    @pytest.mark.parametrize("bits", BITS)
    def test_bfloat16_is_divided_in_fp32(self, bits: Bits) -> None:
        weight = torch.randn(16, 8).bfloat16()

        assert all(torch.equal(one, other) for one, other in zip(quantize(weight, bits), quantize(weight.float(), bits), strict=True))

    @pytest.mark.parametrize("bits", BITS)
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
    def test_scales_can_have_the_dtype_of_the_weights_and_products_are_rounded_to_it(self, bits: Bits, dtype: torch.dtype) -> None:
        torch.manual_seed(0)
        weight = torch.randn(16, 8).to(dtype)
        largest = 2 ** (bits - 1) - 1
        exact = weight.abs().amax(-1) / largest  # as quantization.py of ChatGLM2-6B divides
        divided = weight.float() if dtype is torch.bfloat16 else weight

        integers, scale = quantize(weight, bits, None)

        unpacked = integers if bits == 8 else torch.stack((integers >> 4, (integers << 4) >> 4), -1).flatten(-2)
        assert scale.dtype is dtype
        assert torch.equal(scale, exact)
        assert torch.equal(unpacked, (divided / exact[:, None]).round().to(torch.int8))
        assert torch.equal(dequantize(integers, scale, bits, torch.float32), (unpacked.float() * scale.float()[:, None]).to(dtype).float())

    @pytest.mark.parametrize("bits", BITS)
    def test_rows_of_zeros_and_of_tiny_values_stay_so(self, bits: Bits) -> None:
        weight = torch.tensor([0.0, 1e-12, 3e-8, 1.3e-5, 1e-3])[:, None] * torch.tensor([1.0, -1.0, 0.5, 0.0])

        largest = 2 ** (bits - 1) - 1

        dequantized = dequantize(*quantize(weight, bits), bits, torch.float32)

        step = weight.abs().amax(-1, keepdim=True) / largest + 2**-24  # as exact as fp16's smallest scales allow
        assert ((dequantized - weight).abs() <= 0.51 * step + largest * 2**-24).all()
        assert (dequantized * weight).min() >= 0  # no sign has changed

    @pytest.mark.parametrize("bits", BITS)
    @pytest.mark.parametrize("number", [float("nan"), float("inf"), 1e30])
    def test_a_row_that_cannot_be_represented_has_a_scale_that_is_not_finite(self, bits: Bits, number: float) -> None:
        _, scale = quantize(torch.tensor([[1.0, 2.0], [number, 1.0]]), bits)

        assert scale.isfinite().tolist() == [True, False]

    @pytest.mark.parametrize("bits", BITS)
    def test_chunks_give_the_same_result(self, bits: Bits, monkeypatch: pytest.MonkeyPatch) -> None:
        weight = torch.randn(37, 8)
        expected = quantize(weight, bits)
        monkeypatch.setattr("imprint.quant.weight_format.CHUNK_WEIGHTS", 40)

        assert all(torch.equal(one, other) for one, other in zip(quantize(weight, bits), expected, strict=True))

    def test_names_fields_and_widths_are_those_of_the_official_folders(self) -> None:
        assert [(one.name, one.title, one.label.english) for one in map(RowInt, BITS)] == [(8, "int8", "8 bits"), (4, "int4", "4 bits")]
        assert RowInt(4).fields == {"quantization_bit": 4, "quantization_embeddings": False}
        assert RowInt(8).width_problem(7) is None
        assert RowInt(4).width_problem(8) is None
        problem = RowInt(4).width_problem(7)
        assert problem is not None
        assert problem.english == "is odd, but at 4 bits two columns share a byte"
        assert RowInt(4).with_scales_like_weights() == RowInt(4, None)
