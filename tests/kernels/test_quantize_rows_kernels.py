import pytest

from tests.kernels.cards import numbers_of
from tests.kernels.quantized_weights import needs_triton

SCRIPT = """
import sys
from imprint.kernels.quantize_rows_kernels import quantize_rows_kernel
from imprint.kernels.quantize_rows import SMALLEST
from tests.kernels.cards import compile_for

card = int(sys.argv[1])
types = {"x": "*bf16", "pre_activation": "*bf16", "factors": "*fp32", "out": "*fp8e4nv", "scales": "*fp32"}
for features, way in ((4096, (False, False, False)), (16384, (True, False, False)), (13696, (False, True, True))):
    block = 1 << (features - 1).bit_length()
    constants = dict(zip(("ACTIVATE", "DERIVATIVE", "HAS_FACTORS"), way), F=features, BLOCK=block, MOST=448.0, LEAST=SMALLEST)
    made = compile_for(card, quantize_rows_kernel, types, constants, [*types, "x_row", "pre_activation_row"], num_warps=block // 1024)
    print(made.metadata.shared, int("e4m3x2" in made.asm["ptx"]), int(".v4.b32" in made.asm["ptx"]))
"""


@needs_triton
@pytest.mark.parametrize("card", [89, 90, 120])
def test_it_compiles_for_the_cards_that_multiply_fp8_and_uses_their_rounding(card: int) -> None:
    numbers = numbers_of(SCRIPT, card)

    assert max(numbers[::3]) < 2**14
    assert numbers[1::3] == numbers[2::3] == [1, 1, 1]
