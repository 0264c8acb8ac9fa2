import torch

from imprint.quant.fp8 import ONES, TRANSPOSED, Fp8
from imprint.quant.weight_format import SCALE, WEIGHT


def test_the_largest_of_a_row_is_448_times_its_scale() -> None:
    tensors = Fp8().quantize(torch.tensor([[-448.0, 1.0, 0.0625, 17.0], [1.0, 0.5, 0.0, -0.25]]))

    assert tensors[SCALE].tolist() == [1, 1 / torch.tensor(448.0)]
    assert tensors[WEIGHT].view(torch.float8_e4m3fn).tolist() == [[-448, 1, 0.0625, 16], [448, 224, 0, -112]]  # 17 is between 16 and 18


def test_along_the_other_axis_are_the_same_numbers() -> None:
    tensors = Fp8().quantize(torch.randn(6, 8))

    others = Fp8().gradient_tensors(tensors)

    assert torch.equal(others[TRANSPOSED], tensors[WEIGHT].t())
    assert others[TRANSPOSED].is_contiguous()
    assert torch.equal(others[ONES], torch.ones(8))
