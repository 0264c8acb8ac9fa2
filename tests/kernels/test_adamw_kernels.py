from importlib.util import find_spec

import pytest

from tests.kernels.cards import numbers_of

SCRIPT = """
import sys
from imprint.kernels.adamw_kernels import adamw_kernel
from imprint.kernels.tiles import UPDATE
from tests.kernels.cards import compile_for

names = adamw_kernel.arg_names
halves, moments = dict.fromkeys(("weight", "low", "gradient"), "*i16"), dict.fromkeys(("mean", "square"), "*fp32")
types = {name: "fp32" for name in names} | halves | moments | {"N": "i32"}
constants = {"BLOCK": UPDATE.columns}
made = compile_for(int(sys.argv[1]), adamw_kernel, types, constants, names[:6], num_warps=UPDATE.warps)
loads = [line for line in made.asm["ptx"].splitlines() if "ld.global" in line]
print(made.metadata.shared, len(loads), sum(".v4" in line or ".v2" in line for line in loads))
"""


@pytest.mark.long
@pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")
@pytest.mark.parametrize("card", [80, 86, 89, 90, 120])
def test_it_compiles_for_a_card_and_reads_many_elements_at_a_time(card: int) -> None:
    shared, loads, wide = numbers_of(SCRIPT, card)
    assert shared <= 48 * 1024
    assert loads == wide > 0
