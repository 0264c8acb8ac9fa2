import pytest
import torch
from torch import Tensor

from imprint.kernels.attend_packed import attend_packed
from tests.cases import difference
from tests.kernels.packed_weights import DEVICE, needs_triton

ENDS = (3, 20, 21, 37)
"""Where the rows of the pack end: some inside a tile, one row of a single token."""


def exact(query: Tensor, key: Tensor, value: Tensor, prefix: tuple[Tensor, Tensor], first: Tensor, last: Tensor) -> Tensor:
    """The same in fp64, with all scores at once."""
    keys, values = torch.cat((prefix[0], key)), torch.cat((prefix[1], value))
    scores = torch.einsum("thd,khd->htk", query, keys) / query.shape[-1] ** 0.5
    own = torch.arange(len(key), device=DEVICE)
    visible = (own >= first[:, None]) & (own < last[:, None])
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
    first, row_end = starts[seq_ids], (starts + lengths)[seq_ids]
    last = torch.minimum(torch.maximum(torch.arange(tokens, device=DEVICE) + 1, first + 5), row_end)  # five tokens see each other
    shapes = [(tokens, 2, size)] * 3 + [(7, 2, size)] * 2
    inputs = [torch.randn(shape, device=DEVICE, requires_grad=True) for shape in shapes]
    doubles = [tensor.detach().double().requires_grad_() for tensor in inputs]
    ranges = (first.int(), last.int(), row_end.int(), seq_ids.int())

    found, log_sums = attend_packed(*inputs, *ranges, None, torch.arange(-7, 0, device=DEVICE).int(), None)
    expected = exact(doubles[0], doubles[1], doubles[2], (doubles[3], doubles[4]), first, last)
    direction = torch.randn_like(found)

    assert log_sums.shape == (2, tokens)
    assert difference(found, expected) < 1e-5
    grads = torch.autograd.grad(found, inputs, direction), torch.autograd.grad(expected, doubles, direction.double())
    assert all(difference(one, of_exact) < 1e-5 for one, of_exact in zip(*grads, strict=True))
