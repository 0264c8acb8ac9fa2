import pytest
import torch

from imprint.quant.group_int4 import GroupInt4
from imprint.quant.row_int import RowInt
from imprint.quant.weight_format import SCALE, WEIGHT

FORMAT = GroupInt4()


def exact(weight: torch.Tensor) -> torch.Tensor:
    """The numbers that the format stands for, group by group in float64."""
    out = torch.zeros_like(weight, dtype=torch.float64)
    for row in range(len(weight)):
        for first in range(0, weight.shape[1], 128):
            group = weight[row, first : first + 128].double()
            scale = float((group[group.abs().argmax()].float() / -8).half())
            integers = (group.float() / scale).round().clamp(-8, 7)
            out[row, first : first + 128] = integers.double() * scale
    return out


@pytest.mark.parametrize("columns", [8, 128, 256, 300])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_each_group_has_its_own_scale(columns: int, dtype: torch.dtype) -> None:
    torch.manual_seed(columns)
    weight = (torch.randn(9, columns) * torch.logspace(-3, 0, columns)).to(dtype)

    tensors = FORMAT.quantize(weight)

    assert tensors[SCALE].shape == (9, -(-columns // 128))
    assert tensors[WEIGHT].shape == (9, columns // 2)
    for computed in (torch.float32, torch.float16, torch.bfloat16):
        assert torch.equal(FORMAT.dequantize(tensors, slice(None), computed), exact(weight).to(computed))


def test_the_first_of_two_columns_lies_in_the_high_half_and_the_largest_is_minus_eight() -> None:
    tensors = FORMAT.quantize(torch.tensor([[8.0, -1.0, -7.0, 2.0], [-8.0, 7.0, 1.0, 0.0]]))

    assert tensors[SCALE].tolist() == [[-1.0], [1.0]]
    assert [number & 0xFF for number in tensors[WEIGHT].flatten().tolist()] == [0x81, 0x7E, 0x87, 0x10]


def test_it_is_closer_to_the_weight_than_one_scale_a_row() -> None:
    torch.manual_seed(0)
    weight = torch.randn(64, 1024)

    def error(weight_format: RowInt | GroupInt4) -> float:
        found = weight_format.dequantize(weight_format.quantize(weight), slice(None), torch.float32)
        return float((found - weight).square().mean())

    assert error(FORMAT) < 0.62 * error(RowInt(4))


def test_one_large_number_spoils_its_own_group_only() -> None:
    torch.manual_seed(0)
    weight = torch.randn(4, 256)
    weight[:, 3] = 1000.0

    difference = (FORMAT.dequantize(FORMAT.quantize(weight), slice(None), torch.float32) - weight).abs()

    assert float(difference[:, 128:].max()) < 0.6
    assert float(difference[:, :128].max()) > 1


def test_its_fields_are_those_where_other_programs_look_and_refuse() -> None:
    assert FORMAT.fields == {"quantization_config": {"quant_method": "imprint", "format": "int4-g128", "bits": 4, "group_size": 128}}
    assert (FORMAT.name, FORMAT.title, FORMAT.label.english) == ("int4-g128", "int4-g128", "int4-g128")
    assert FORMAT.with_scales_like_weights() is FORMAT
