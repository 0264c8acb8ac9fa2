import pytest
import torch

from imprint.kernels import available
from imprint.quant.fp8 import Fp8
from imprint.quant.linear import QuantizedLinear
from imprint.training.pack_sizes import FastestSizes, product_seconds, rounded_up
from tests.cases import small_network


def test_sizes_are_few_and_at_most_an_eighth_too_large() -> None:
    sizes = {rounded_up(count) for count in range(1, 100_000)}

    assert len(sizes) < 80
    assert all(rounded_up(count) <= max(count * 9 / 8 + 1, count + 127) for count in range(1, 100_000, 17))


def test_the_fastest_size_near_by_is_chosen() -> None:
    slow = {1552, 1664}

    def seconds(tokens: int) -> float:
        return tokens * (1.3 if tokens in slow else 1.0)

    sizes = FastestSizes(seconds)

    assert sizes(1537) == 1568
    assert sizes(1536) == 1536
    assert sizes(1650) == 1696
    assert sizes(5) == 16


def test_a_staircase_leads_to_few_sizes() -> None:
    def seconds(tokens: int) -> float:
        return -(-tokens // 256)  # tiles of 256 tokens

    sizes = FastestSizes(seconds)

    chosen = {sizes(count) for count in range(800, 2048)}

    assert all(sizes(count) >= count for count in range(800, 2048))
    assert len(chosen) < 25


@pytest.mark.gpu
def test_more_products_take_longer() -> None:
    network = small_network().cuda().bfloat16()
    wide = torch.nn.Linear(4096, 4096, bias=False, dtype=torch.bfloat16, device="cuda")
    network.add_module("wide", wide)

    state = torch.cuda.get_rng_state()

    assert product_seconds(network, 8192) > product_seconds(network, 64) > 0
    assert torch.equal(torch.cuda.get_rng_state(), state)  # the masks of a run's dropout are those of a run that measures nothing


@pytest.mark.gpu
def test_those_of_fp8_are_measured_where_they_are_computed() -> None:
    if (why := available.fp8_problem(0)) is not None:
        pytest.skip(why.english)
    network = small_network().cuda().bfloat16()
    wide = QuantizedLinear(8192, 8192, Fp8(), bias=False)
    wide.tensors = Fp8().quantize(torch.randn(8192, 8192))
    network.add_module("wide", wide.cuda())
    dequantized = product_seconds(network, 4096)
    wide.prepare_backward(torch.bfloat16)

    assert product_seconds(network, 4096) < 0.8 * dequantized
