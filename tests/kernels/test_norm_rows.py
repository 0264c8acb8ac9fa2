import os
import subprocess
import sys
from importlib.util import find_spec

import pytest

SCRIPT = """
import sys
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from imprint.kernels import gate, norm_rows

def compile(function, types, constants, card):
    names = function.arg_names
    signature = {name: "constexpr" if name in constants else types.get(name, "i32") for name in names}
    values = {(names.index(name),): value for name, value in constants.items()}
    return triton.compile(ASTSource(function, signature, constexprs=values), target=GPUTarget("cuda", card, 32)).metadata.shared

card = int(sys.argv[1])
for number in ("fp16",) if card < 80 else ("bf16", "fp16"):
    types = {name: "*" + number for kernel in (norm_rows.norm_gradient_kernel, gate.gated_gradient_kernel) for name in kernel.arg_names}
    types = {name: kind for name, kind in types.items() if name not in ("rows", "gate_row", "up_row", "grad_row")}
    types |= {"bias": "*" + number, "factor": "fp32", "eps": "fp32"}
    for columns, rows in ((4096, 1), (128, 16)):
        shape = dict(C=columns, BLOCK_C=columns, ROWS=rows)
        for centred, offset in ((True, 0.0), (False, 1.0)):
            own = dict(CENTRED=centred, OFFSET=offset)
            print(compile(norm_rows.norm_kernel, types, shape | own | dict(HAS_BIAS=centred), card))
            print(compile(norm_rows.norm_gradient_kernel, types, shape | own | dict(HAS_RESIDUAL=centred, HAS_SUM=True), card))
    for gelu in (True, False):
        constants = dict(F=13696, BLOCK=1024, GELU=gelu)
        print(compile(gate.gated_kernel, types, constants, card), compile(gate.gated_gradient_kernel, types, constants, card), sep=chr(10))
"""


@pytest.mark.long
@pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")
@pytest.mark.parametrize("card", [75, 80, 86, 89, 90, 120])
def test_norms_and_gates_compile_for_a_card_within_48_kib(card: int) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(card)], capture_output=True, encoding="utf-8", check=True, env=environment)

    assert all(int(line) <= 48 * 1024 for line in done.stdout.split())
