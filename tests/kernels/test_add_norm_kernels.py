from importlib.util import find_spec

import pytest

from tests.kernels.cards import numbers_of

SCRIPT = """
import sys
from imprint.kernels import add_norm_kernels as kernels
from tests.kernels.cards import compile_for

def shared(function, types, constants, card):
    return compile_for(card, function, types, constants).metadata.shared

card = int(sys.argv[1])
for number in ("fp16",) if card < 80 else ("bf16", "fp16"):
    tensors = {name: "*" + number for name in ("x", "y", "weight", "bias", "total", "out")}
    for centred in (True, False):
        constants = dict(C=4096, BLOCK_C=4096, CENTRED=centred, HAS_BIAS=centred)
        print(shared(kernels.add_norm_kernel, tensors | {"factor": "fp32", "eps": "fp32"}, constants, card))
"""


@pytest.mark.long
@pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")
@pytest.mark.parametrize("card", [75, 80, 86, 89, 90, 120])
def test_they_compile_for_a_card_within_48_kib(card: int) -> None:
    assert all(number <= 48 * 1024 for number in numbers_of(SCRIPT, card))
