import torch

from imprint.kernels.split import joined, split


def test_no_bit_of_a_number_is_lost() -> None:
    torch.manual_seed(0)
    bits = torch.randint(-(2**31), 2**31, (100_000,)).to(torch.int32)
    numbers = bits.view(torch.float32)
    numbers = numbers[numbers.abs() < 3e38]

    assert torch.equal(joined(*split(numbers)), numbers)


def test_the_upper_half_is_rounded_to_nearest_and_halves_away_from_zero() -> None:
    torch.manual_seed(0)
    numbers = torch.randn(10_000)
    whole = numbers.view(torch.int32) & 0xFFFF != 0x8000
    assert torch.equal(split(numbers)[0][whole], numbers.bfloat16()[whole])
    halves = torch.tensor([1 + 2**-8, -1 - 2**-8, 1 + 3 * 2**-8])

    assert split(halves)[0].tolist() == [1 + 2**-7, -1 - 2**-7, 1 + 2**-6]
