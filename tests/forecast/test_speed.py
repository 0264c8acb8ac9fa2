from collections import Counter

import pytest

from imprint.forecast.cards import find_card
from imprint.forecast.speed import KERNEL_SECONDS, LAUNCH_SECONDS, PRODUCT_SHARE, kernel_seconds, update_seconds

H200 = find_card("H200")


def test_a_large_product_takes_as_long_as_its_arithmetic_and_shorter_rows_take_less() -> None:
    operations = 10**13
    seconds = kernel_seconds(Counter({(operations, 10**6): 1}), H200)
    assert seconds == pytest.approx(operations / (H200.tflops * 1e12 * PRODUCT_SHARE))
    assert kernel_seconds(Counter({(operations, 10**6): 1}), H200, 0.5) == pytest.approx(seconds / 2)


def test_many_small_kernels_take_as_long_as_their_launches() -> None:
    assert KERNEL_SECONDS < LAUNCH_SECONDS
    assert kernel_seconds(Counter({(0, 1000): 500}), H200) == pytest.approx(500 * LAUNCH_SECONDS)
    assert kernel_seconds(Counter({(0, 1000): 500}), H200, graphs=True) == pytest.approx(500 * KERNEL_SECONDS)


def test_weights_that_a_product_reads_do_not_shrink_with_the_rows() -> None:
    kernels = Counter({(10**6, 10**10): 1})
    assert kernel_seconds(kernels, H200, 0.1) == kernel_seconds(kernels, H200)


def test_an_update_of_16_bit_weights_moves_more_bytes() -> None:
    assert update_seconds(10**9, 2 * 10**9, H200) > update_seconds(10**9, 4 * 10**9, H200)
    assert update_seconds(10**9, 2 * 10**9, H200, split=True) < update_seconds(10**9, 4 * 10**9, H200)
