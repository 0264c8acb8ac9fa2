import torch

from imprint.quant.nibbles import pack, scaled


def test_every_pair_of_integers_comes_back() -> None:
    numbers = torch.arange(-8, 8, dtype=torch.int8)
    pairs = torch.cartesian_prod(numbers, numbers)

    packed = pack(pairs)

    assert packed.unique().numel() == 256
    assert torch.equal(scaled(packed, torch.ones(256, 1), torch.float32), pairs.float())


def test_products_are_exact_and_rounded_once() -> None:
    torch.manual_seed(0)
    integers, factor = torch.randint(-8, 8, (64, 6), dtype=torch.int8), torch.randn(64, 1).half().float()

    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        found = scaled(pack(integers), factor, dtype)
        assert torch.equal(found, (integers.double() * factor.double()).to(dtype))
