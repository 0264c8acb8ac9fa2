import pytest
import torch
from torch import Tensor

from imprint.quant.formats import FORMATS
from imprint.quant.weight_format import WEIGHT, FormatTensor, StoredWeight, WeightFormat

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
STEPS = {8: 127, 4: 7, "int4-g128": 8}
"""Integers from zero to the largest magnitude."""


def step(weight_format: WeightFormat, weight: Tensor) -> Tensor:
    """From one number of a format to the next, at each weight."""
    largest = weight.abs().amax(-1, keepdim=True)
    if weight_format.name == "fp8":  # three bits after the first one; the smallest numbers are equally far from each other
        return torch.maximum(weight.abs() / 8, largest / 448 / 512)
    return largest / STEPS[weight_format.name]


@pytest.mark.parametrize("weight_format", FORMATS, ids=lambda one: str(one.title))
class TestEveryFormat:
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_the_tensors_are_those_that_it_says(self, weight_format: WeightFormat, dtype: torch.dtype) -> None:
        for columns in (8, 128, 300):
            for one in (weight_format, weight_format.with_scales_like_weights()):
                tensors, said = one.quantize(torch.randn(5, columns).to(dtype)), one.format_tensors(5, columns)
                assert list(tensors) == list(said)
                assert WEIGHT in said
                assert [tuple(tensor.shape) for tensor in tensors.values()] == [tensor.shape for tensor in said.values()]
                assert [tensor.dtype for tensor in tensors.values()] == [tensor.dtype or dtype for tensor in said.values()]
                assert sum(tensor.nbytes for tensor in tensors.values()) == sum(tensor.nbytes(dtype) for tensor in said.values())
                assert [tensor.empty().shape for tensor in said.values()] == [tensor.shape for tensor in tensors.values()]

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_it_comes_back_within_half_a_step_of_the_largest_of_its_row(self, weight_format: WeightFormat, dtype: torch.dtype) -> None:
        torch.manual_seed(0)
        weight = torch.randn(16, 300).to(dtype).double()

        found = weight_format.dequantize(weight_format.quantize(weight.to(dtype)), slice(None), torch.float64)

        half = 1.0 if weight_format.name == "int4-g128" else 0.5  # at the side of a group that has no eighth step, it is a whole one
        assert ((found - weight).abs() <= half * step(weight_format, weight) + 2e-3 * weight.abs()).all()
        assert torch.allclose(found.abs().amax(1), weight.abs().amax(1), rtol=5e-3)  # as a fingerprint of the base needs it

    def test_rows_are_those_of_the_whole_in_every_dtype(self, weight_format: WeightFormat) -> None:
        tensors = weight_format.quantize(torch.randn(12, 300))
        for dtype in DTYPES:
            whole = weight_format.dequantize(tensors, slice(None), dtype)
            ids = torch.tensor([3, 0, 11, 3])
            assert whole.dtype is dtype
            assert torch.equal(weight_format.dequantize(tensors, ids, dtype), whole[ids])
            assert torch.equal(weight_format.dequantize(tensors, slice(2, 7), dtype), whole[2:7])
            assert torch.equal(StoredWeight(weight_format, tensors, 300, range(2, 7)).dequantize(dtype), whole[2:7])

    def test_rows_of_zeros_and_of_tiny_values_stay_so(self, weight_format: WeightFormat) -> None:
        weight = torch.tensor([0.0, 1e-12, 3e-8, 1.3e-5, 1e-3])[:, None] * torch.tensor([1.0, -1.0, 0.5, 0.0])

        found = weight_format.dequantize(weight_format.quantize(weight), slice(None), torch.float32)

        coarse = (1 + STEPS.get(weight_format.name, 0)) * 2**-24  # as exact as fp16's smallest scales allow
        assert ((found - weight).abs() <= 1.01 * step(weight_format, weight) + coarse).all()
        assert (found * weight).min() >= 0  # no sign has changed

    @pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf"), 1e30])
    def test_what_cannot_be_represented_shows_in_tensors_that_are_not_finite(self, weight_format: WeightFormat, number: float) -> None:
        tensors = weight_format.quantize(torch.tensor([[1.0, 2.0], [number, 1.0]]))
        stays = number == 1e30 and weight_format.name == "fp8"  # whose scales are fp32
        assert all(tensor[1].isfinite().all() for tensor in tensors.values()) == stays
        assert all(tensor[0].isfinite().all() for tensor in tensors.values())

    def test_chunks_give_the_same_result(self, weight_format: WeightFormat, monkeypatch: pytest.MonkeyPatch) -> None:
        weight = torch.randn(37, 8)
        expected = weight_format.quantize(weight)
        monkeypatch.setattr("imprint.quant.weight_format.CHUNK_WEIGHTS", 40)

        assert all(torch.equal(tensor, expected[name]) for name, tensor in weight_format.quantize(weight).items())

    def test_a_block_is_quantized_in_it_or_not_at_all(self, weight_format: WeightFormat) -> None:
        for count in (1, 2, 28):
            formats = [weight_format.for_block(index, count) for index in range(count)]
            assert set(formats) - {None} == {weight_format}
            assert None not in formats or weight_format.name == "fp8"

    def test_it_says_which_widths_it_cannot_store(self, weight_format: WeightFormat) -> None:
        for columns in (2, 8, 130):
            assert weight_format.width_problem(columns) is None
        if problem := weight_format.width_problem(7):
            assert problem.english.startswith("is odd, but")
            assert problem.chinese.startswith("是奇数")


def test_a_tensor_of_a_format_without_a_dtype_has_that_of_the_weight() -> None:
    assert FormatTensor((3, 2), None).nbytes(torch.float32) == 24
    assert FormatTensor((3, 2), torch.float16).nbytes(torch.float32) == 12
    assert FormatTensor((3, 2), None).empty().dtype is torch.float16
