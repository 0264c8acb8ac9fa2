import pytest
import torch
from torch import Tensor

from imprint.kernels.attend_packed import attend_packed
from tests.cases import difference
from tests.kernels.cards import numbers_of
from tests.kernels.quantized_weights import DEVICE, needs_triton

ENDS = (3, 20, 21, 37)
"""Where the rows of the pack end: some inside a tile, one row of a single token."""


def exact(query: Tensor, key: Tensor, value: Tensor, prefix: tuple[Tensor, Tensor], first: Tensor, end: Tensor) -> Tensor:
    """The same in fp64, with all scores at once."""
    keys, values = torch.cat((prefix[0], key)), torch.cat((prefix[1], value))
    scores = torch.einsum("thd,khd->htk", query, keys) / query.shape[-1] ** 0.5
    own = torch.arange(len(key), device=DEVICE)
    visible = (own >= first[:, None]) & (own < end[:, None])
    seen = torch.cat((visible.new_ones(len(query), len(prefix[0])), visible), 1)
    return torch.einsum("htk,khd->thd", scores.masked_fill(~seen, float("-inf")).softmax(-1), values)


@needs_triton
@pytest.mark.parametrize("size", [16, 20])
def test_gradients_are_those_of_autograd_in_fp64(size: int) -> None:
    torch.manual_seed(0)
    tokens = ENDS[-1]
    starts = torch.tensor([0, *ENDS[:-1]], device=DEVICE)
    lengths = torch.tensor(ENDS, device=DEVICE) - starts
    seq_ids = torch.repeat_interleave(torch.arange(len(ENDS), device=DEVICE), lengths)
    first, seq_end = starts[seq_ids], (starts + lengths)[seq_ids]
    end = torch.minimum(torch.maximum(torch.arange(tokens, device=DEVICE) + 1, first + 5), seq_end)  # five tokens see each other
    shapes = [(tokens, 2, size)] * 3 + [(7, 2, size)] * 2
    inputs = [torch.randn(shape, device=DEVICE, requires_grad=True) for shape in shapes]
    doubles = [tensor.detach().double().requires_grad_() for tensor in inputs]
    ranges = (first.int(), end.int(), seq_end.int(), seq_ids.int())

    found, log_sums = attend_packed(*inputs, *ranges, None, torch.arange(-7, 0, device=DEVICE).int(), None)
    expected = exact(doubles[0], doubles[1], doubles[2], (doubles[3], doubles[4]), first, end)
    direction = torch.randn_like(found)

    assert log_sums.shape == (2, tokens)
    assert difference(found, expected) < 1e-5
    grads = torch.autograd.grad(found, inputs, direction), torch.autograd.grad(expected, doubles, direction.double())
    assert all(difference(one, of_exact) < 1e-5 for one, of_exact in zip(*grads, strict=True))


SCRIPT = """
import sys
from imprint.kernels import attend_packed_kernels as kernels, rotate_kernels
from imprint.kernels.attend_packed import choose_tiles
from imprint.kernels.tiles import power_of_two
from tests.kernels.cards import compile_for

card, memory, size = map(int, sys.argv[1:])
NUMBERS = dict.fromkeys(("first", "end", "seq_end", "seq_ids", "offsets"), "*i32") | {"masked": "*u8"}
NUMBERS |= dict.fromkeys(("log_sums", "deltas", "slopes"), "*fp32") | dict.fromkeys(("scale", "factor"), "fp32")

def shared(function, tensors, constants, options, **others):
    wanted = {name: value for name, value in constants.items() if name in function.arg_names}
    return compile_for(card, function, tensors | others | NUMBERS, wanted, **options).metadata.shared

largest = 0
for dtype in ("fp16",) if card < 80 else ("bf16", "fp16"):
    names = ("query", "key", "value", "prefix_key", "prefix_value", "out", "grad", "grad_query", "grad_key", "grad_value")
    tensors = dict.fromkeys(names, "*" + dtype)
    if card >= 80:  # attention is plain on older cards
        columns = power_of_two(size)
        tiles = choose_tiles(2 * columns, memory)
        options = dict(num_warps=tiles.warps, num_stages=tiles.stages)
        for group, masked, alibi in ((4, True, True),):
            constants = dict(GROUP=group, D=size, COLUMNS=columns, MASKED=masked, ALIBI=alibi, TILE=tiles.tokens, KEYS=tiles.keys)
            for function in (kernels.forward_kernel, kernels.query_gradient_kernel, kernels.key_gradient_kernel):
                largest = max(largest, shared(function, tensors, constants, options))
            sums = {"grad_key": "*fp32", "grad_value": "*fp32"}
            largest = max(largest, shared(kernels.prefix_gradient_kernel, tensors, constants, options, **sums))
    for distance in (1, 32) if size == 128 else ():
        constants = dict(D=128, COLUMNS=128, DISTANCE=distance, HEADS=8, BACK=True)
        types = dict.fromkeys(("x", "cos", "sin", "out"), "*" + dtype)
        largest = max(largest, shared(rotate_kernels.rotate_kernel, types, constants, dict(num_warps=4)))
        constants = dict(QUERIES=32, KEYS=2, D=128, PAIRS=64, DISTANCE=distance, HEADS=16, BACK=True)
        types = dict.fromkeys(("joint", "cos", "sin"), "*" + dtype)
        largest = max(largest, shared(rotate_kernels.rotate_joint_kernel, types, constants, dict(num_warps=4)))
print(largest)
"""
CARDS = {75: 65_536, 80: 166_912, 86: 101_376, 89: 101_376, 90: 232_448, 120: 101_376}
"""Compute capability -> bytes of shared memory that a program may have."""
USUAL = 128
HEAD_DIMS = (64, 80, USUAL, 256)
"""Of small models and BLOOM, of Phi and Pythia, of most others, and of Gemma; older cards have no such kernel, whatever the size."""


@pytest.mark.long
@needs_triton
@pytest.mark.parametrize(("card", "size"), [(card, size) for card in CARDS for size in HEAD_DIMS if card >= 80 or size == USUAL])
def test_they_compile_for_a_card_within_its_shared_memory(card: int, size: int) -> None:
    assert numbers_of(SCRIPT, card, CARDS[card], size)[0] <= CARDS[card]
