from importlib.util import find_spec

import pytest

from tests.kernels.cards import numbers_of

CARDS = {75: 64, 80: 163, 86: 99, 89: 99, 90: 227, 120: 99}
"""Compute capability -> KiB of shared memory that a program may have."""

SCRIPT = """
import itertools, sys
from imprint.kernels import attend_step_kernels as kernels
from imprint.kernels.attend_step import GROUPED, SHARED_KEYS, SINGLE
from tests.kernels.cards import compile_for

def shared(function, number, constants, card, warps=4):
    pointers = {name: "*" + number for name in ("query", "new_keys", "new_values", "cached_keys", "cached_values", "prefix_keys",
                "prefix_values", "out", "cos", "sin")}
    pointers |= {name: "*i64" for name in ("visible", "begins", "lengths", "order")}
    pointers |= {"state_sums": "*fp32", "state_stats": "*fp32", "scale": "fp32"}
    return compile_for(card, function, pointers, constants, num_warps=warps).metadata.shared

card, largest = int(sys.argv[1]), 0
for number in ("fp16",) if card < 80 else ("bf16", "fp16"):  # other numbers are left to PyTorch
    sizes = dict(D=128, BLOCK_D=128, slopes=None, SLOPES=False, DISTANCE=32)
    for heads, group in ((32, 1), (8, 4), (2, 16)):
        for splits, own, started in ((16, True, False), (1, False, True)):
            block, tile = (1, SINGLE) if group == 1 else (16, GROUPED)
            constants = dict(G=heads, Q=group, BLOCK_Q=block, BLOCK_N=tile.keys, S=splits, PREFIX=own, STARTED=started, DOT=group > 1)
            largest = max(largest, shared(kernels.attend_rows_kernel, number, constants | sizes, card, tile.warps))
    for heads, group in ((32, 1), (8, 4)):
        constants = dict(G=heads, Q=group, GROUP=group, BLOCK_R=16 // group, BLOCK_N=SHARED_KEYS, S=1)
        largest = max(largest, shared(kernels.attend_prefixes_kernel, number, constants | sizes, card))
    largest = max(largest, shared(kernels.merge_states_kernel, number, dict(D=128, BLOCK_D=128, S=16), card))
print(largest)
"""


@pytest.mark.long
@pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")
@pytest.mark.parametrize("card", CARDS)
def test_they_compile_for_a_card_within_its_shared_memory(card: int) -> None:
    assert numbers_of(SCRIPT, card)[0] <= 1024 * CARDS[card]
