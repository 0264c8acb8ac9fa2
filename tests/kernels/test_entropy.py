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
from imprint.kernels import cross_entropy
from imprint.kernels.entropy import cross_entropy_kernel

def shared(number, constants, card):
    names = cross_entropy_kernel.arg_names
    types = {"logits": "*" + number, "labels": "*i64", "weights": "*fp32", "losses": "*fp32", "cap": "fp32", "row_stride": "i32"}
    signature = {name: "constexpr" if name in constants else types[name] for name in names}
    aligned = {(names.index(name),): [["tt.divisibility", 16]] for name in types if name != "cap"}
    values = {(names.index(name),): value for name, value in constants.items()}
    source = ASTSource(cross_entropy_kernel, signature, constexprs=values, attrs=aligned)
    options = {"num_warps": cross_entropy.WARPS}
    return triton.compile(source, target=GPUTarget("cuda", card, 32), options=options).metadata.shared

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
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(card)], capture_output=True, encoding="utf-8", check=True, env=environment)

    assert all(int(line) <= 48 * 1024 for line in done.stdout.split())
