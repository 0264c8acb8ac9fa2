from importlib.util import find_spec

import pytest

from tests.kernels.cards import numbers_of

SCRIPT = """
import sys
from imprint.kernels import cross_entropy
from imprint.kernels.cross_entropy_kernels import cross_entropy_kernel
from tests.kernels.cards import compile_for

def shared(number, constants, card):
    types = {"logits": "*" + number, "labels": "*i64", "weights": "*fp32", "losses": "*fp32", "cap": "fp32", "row_stride": "i32"}
    aligned = [name for name in types if name != "cap"]
    return compile_for(card, cross_entropy_kernel, types, constants, aligned, num_warps=cross_entropy.WARPS).metadata.shared

card = int(sys.argv[1])
for number in ("fp16",) if card < 80 else ("bf16", "fp16"):
    for size in (130_528, 262_144):
        for capped in (False, True):
            constants = dict(V=size, BLOCK_V=cross_entropy.BLOCK, CAPPED=capped, WEIGHTED=capped, GRADIENT=True)
            print(shared(number, constants, card))
"""


@pytest.mark.long
@pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")
@pytest.mark.parametrize("card", [75, 80, 86, 89, 90, 120])
def test_it_compiles_for_a_card_within_48_kib(card: int) -> None:
    assert all(number <= 48 * 1024 for number in numbers_of(SCRIPT, card))
