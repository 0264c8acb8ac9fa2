import os
import subprocess
import sys
from importlib.util import find_spec

import pytest

SCRIPT = """
import sys
from triton import compile
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from imprint.kernels import choice as kernels

def shared(function, types, constants, card):
    names = function.arg_names
    signature = {name: "constexpr" if name in constants else types.get(name, "i32") for name in names}
    values = {(names.index(name),): value for name, value in constants.items()}
    return compile(ASTSource(function, signature, constexprs=values), target=GPUTarget("cuda", card, 32)).metadata.shared

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
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(card)], capture_output=True, encoding="utf-8", check=True, env=environment)

    assert all(int(line) <= 48 * 1024 for line in done.stdout.split())
