from importlib.util import find_spec

import pytest

from tests.kernels.cards import numbers_of

SCRIPT = """
import sys
from imprint.kernels import most_probable_kernels as kernels
from tests.kernels.cards import compile_for

def shared(function, types, constants, card):
    return compile_for(card, function, types, constants).metadata.shared

card = int(sys.argv[1])
parts = {"largest": "*fp32", "ids": "*i32", "sums": "*fp32"}
for number in ("fp16",) if card < 80 else ("bf16", "fp16"):
    print(shared(kernels.part_kernel, parts | {"logits": "*" + number}, {"BLOCK_V": 2048, "S": 64}, card))
print(shared(kernels.join_kernel, parts | {"tokens": "*i64", "log_probs": "*fp32"}, {"S": 64, "BLOCK_S": 64}, card))
"""


@pytest.mark.long
@pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")
@pytest.mark.parametrize("card", [75, 80, 86, 89, 90, 120])
def test_they_compile_for_a_card_within_48_kib(card: int) -> None:
    assert all(number <= 48 * 1024 for number in numbers_of(SCRIPT, card))
