from importlib.util import find_spec

import pytest

from tests.kernels.cards import numbers_of

SCRIPT = """
import sys
from imprint.kernels import gated_kernels as gated, norms_kernels as norms
from tests.kernels.cards import compile_for

def shared(function, types, constants, card):
    return compile_for(card, function, types, constants).metadata.shared

card = int(sys.argv[1])
for number in ("fp16",) if card < 80 else ("bf16", "fp16"):
    types = {name: "*" + number for kernel in (norms.norm_gradient_kernel, gated.gated_gradient_kernel) for name in kernel.arg_names}
    types = {name: kind for name, kind in types.items() if name not in ("rows", "gate_row", "up_row", "grad_row")}
    types |= {"bias": "*" + number, "factor": "fp32", "eps": "fp32"}
    for columns, rows in ((4096, 1), (128, 16)):
        shape = dict(C=columns, BLOCK_C=columns, ROWS=rows)
        for centred, offset in ((True, 0.0), (False, 1.0)):
            own = dict(CENTRED=centred, OFFSET=offset)
            print(shared(norms.norm_kernel, types, shape | own | dict(HAS_BIAS=centred), card))
            print(shared(norms.norm_gradient_kernel, types, shape | own | dict(HAS_RESIDUAL=centred, HAS_SUM=True), card))
    for gelu in (True, False):
        constants = dict(F=13696, BLOCK=1024, GELU=gelu)
        print(shared(gated.gated_kernel, types, constants, card), shared(gated.gated_gradient_kernel, types, constants, card), sep=chr(10))
"""


@pytest.mark.long
@pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")
@pytest.mark.parametrize("card", [75, 80, 86, 89, 90, 120])
def test_norms_and_gates_compile_for_a_card_within_48_kib(card: int) -> None:
    assert all(number <= 48 * 1024 for number in numbers_of(SCRIPT, card))
