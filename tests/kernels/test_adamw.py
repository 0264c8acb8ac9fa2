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
from imprint.kernels.adamw import adamw_kernel
from imprint.kernels.tiles import UPDATE

names = adamw_kernel.arg_names
halves, moments = dict.fromkeys(("weight", "low", "gradient"), "*i16"), dict.fromkeys(("mean", "square"), "*fp32")
signature = {name: "fp32" for name in names} | halves | moments | {"N": "i32", "BLOCK": "constexpr"}
attrs = {(index,): [["tt.divisibility", 16]] for index in range(6)}
source = ASTSource(adamw_kernel, signature, constexprs={(names.index("BLOCK"),): UPDATE.columns}, attrs=attrs)
made = triton.compile(source, target=GPUTarget("cuda", int(sys.argv[1]), 32), options={"num_warps": UPDATE.warps})
loads = [line for line in made.asm["ptx"].splitlines() if "ld.global" in line]
print(made.metadata.shared, len(loads), sum(".v4" in line or ".v2" in line for line in loads))
"""


@pytest.mark.long
@pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")
@pytest.mark.parametrize("card", [80, 86, 89, 90, 120])
def test_it_compiles_for_a_card_and_reads_many_elements_at_a_time(card: int) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(card)], capture_output=True, encoding="utf-8", check=True, env=environment)

    shared, loads, wide = map(int, done.stdout.split())
    assert shared <= 48 * 1024
    assert loads == wide > 0
