import torch

from imprint.quant.fp8 import ONES, TRANSPOSED, Fp8
from imprint.quant.weight_format import SCALE, WEIGHT


def test_the_largest_of_a_row_is_448_times_its_scale() -> None:
    tensors = Fp8().quantize(torch.tensor([[-448.0, 1.0, 0.0625, 17.0], [1.0, 0.5, 0.0, -0.25]]))

    assert tensors[SCALE].tolist() == [1, 1 / torch.tensor(448.0)]
    assert tensors[WEIGHT].view(torch.float8_e4m3fn).tolist() == [[-448, 1, 0.0625, 16], [448, 224, 0, -112]]  # 17 is between 16 and 18


def test_along_the_other_axis_are_the_same_numbers() -> None:
    tensors = Fp8().quantize(torch.randn(6, 8))

    others = Fp8().backward_tensors(tensors)

    assert torch.equal(others[TRANSPOSED], tensors[WEIGHT].t())
    assert others[TRANSPOSED].is_contiguous()
    assert torch.equal(others[ONES], torch.ones(8))


def test_the_first_and_the_last_block_keep_16_bits_where_there_are_more_than_a_few() -> None:
    def quantized(weight_format: Fp8, count: int) -> list[int]:
        return [index for index in range(count) if weight_format.for_block(index, count) is not None]

    assert quantized(Fp8(), 28) == list(range(1, 27))
    assert quantized(Fp8(), 5) == [1, 2, 3]
    assert quantized(Fp8(), 4) == [0, 1, 2, 3]
    assert quantized(Fp8(), 1) == [0]
    assert quantized(Fp8(plain_ends=0), 28) == list(range(28))
