from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from imprint.models import reference_attention
from imprint.models.cache import KVCache
from imprint.models.reference_attention import PaddedLayout, attend
from imprint.pack import Pack
from tests.cases import difference

HEADS, SIZE, PREFIX = 2, 8, 5
LENGTHS = ([4, 4, 4], [7, 1, 4], [3], [1, 1])


def causal_pack(lengths: list[int], *, context: int = 2) -> Pack:
    """Rows whose first tokens see each other in both directions; ids and positions do not matter here."""
    column = torch.cat([torch.arange(length) for length in lengths])
    row = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    seen = torch.tensor([min(context, length) for length in lengths])[row]
    visible = torch.where(column < seen, seen, column + 1)
    nothing = torch.empty(0, dtype=torch.long)
    return Pack(column, torch.stack((column, column)), row, column, visible, tuple(lengths), nothing, nothing)


def draw(lengths: list[int], *, prefix: int = PREFIX, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Query, key, value and the prefix's keys and values, large enough that the softmax is far from even."""
    torch.manual_seed(0)
    tokens = sum(lengths)
    shapes = [(tokens, HEADS, SIZE)] * 3 + [(prefix, HEADS, SIZE)] * 2
    return [(2 * torch.randn(shape, dtype=torch.float64)).to(dtype).requires_grad_() for shape in shapes]


def naive(
    pack: Pack, query: Tensor, key: Tensor, value: Tensor, prefix: tuple[Tensor, Tensor] | None, slopes: Tensor | None = None
) -> Tensor:
    """Row by row and head by head: a softmax over the prefix and the keys that a token may see, lowered by their distance."""
    out = torch.empty_like(query)
    for token in range(len(query)):
        mine = (pack.seq_ids == pack.seq_ids[token]) & (pack.offsets < pack.num_visible[token])
        for head in range(HEADS):
            keys, values = key[mine, head], value[mine, head]
            if prefix is not None:
                keys, values = torch.cat((prefix[0][:, head], keys)), torch.cat((prefix[1][:, head], values))
            scores = keys @ query[token, head] / SIZE**0.5
            if slopes is not None:
                scores = scores - slopes[head] * (pack.offsets[token] - torch.arange(len(keys)) + len(keys) - int(mine.sum()))
            weights = scores.softmax(0)
            out[token, head] = weights @ values
    return out


def attended(pack: Pack, tensors: list[Tensor], *, with_prefix: bool, score_scale: float = 1.0, slopes: Tensor | None = None) -> Tensor:
    prefix = (tensors[3], tensors[4]) if with_prefix else None
    return attend(tensors[0], tensors[1], tensors[2], PaddedLayout.from_pack(pack), prefix=prefix, score_scale=score_scale, slopes=slopes)


def compare(lengths: list[int], *, with_prefix: bool, score_scale: float = 1.0, slopes: Tensor | None = None) -> float:
    """The largest relative difference from the naive computation in fp64, over the output and every gradient."""
    pack = causal_pack(lengths)
    single, double = draw(lengths), draw(lengths, dtype=torch.float64)
    used = 5 if with_prefix else 3
    actual = attended(pack, single, with_prefix=with_prefix, score_scale=score_scale, slopes=slopes)
    expected = naive(pack, double[0], double[1], double[2], (double[3], double[4]) if with_prefix else None, slopes)
    torch.manual_seed(1)
    upstream = torch.randn(expected.shape, dtype=torch.float64)
    pairs = [(actual, expected)]
    pairs += zip(
        torch.autograd.grad(actual, single[:used], upstream.float()), torch.autograd.grad(expected, double[:used], upstream), strict=True
    )
    return max(float(((a.double() - b).abs().max() / b.abs().max()).detach()) for a, b in pairs)


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_output_and_gradients_are_those_of_a_naive_softmax(lengths: list[int]) -> None:
    assert compare(lengths, with_prefix=False) < 1e-5


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_with_a_prefix_they_are_those_of_prefix_and_row_side_by_side(lengths: list[int]) -> None:
    assert compare(lengths, with_prefix=True) < 1e-5


@pytest.mark.parametrize("score_scale", [2.0, 28.0])
def test_the_scale_of_the_scores_changes_no_result(score_scale: float) -> None:
    assert compare([7, 1, 4], with_prefix=True, score_scale=score_scale) < 1e-5
    assert compare([7, 1, 4], with_prefix=False, score_scale=score_scale) < 1e-5


@pytest.mark.parametrize("with_prefix", [False, True])
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_with_slopes_a_key_counts_less_the_farther_it_is_and_the_prefix_stands_before_the_row(
    lengths: list[int],
    with_prefix: bool,  # noqa: FBT001
) -> None:
    assert compare(lengths, with_prefix=with_prefix, slopes=torch.tensor([0.5, 0.06])) < 1e-5
    assert compare(lengths, with_prefix=with_prefix, slopes=torch.tensor([0.5, 0.06]), score_scale=3.0) < 1e-5


def test_damping_keeps_half_precision_finite() -> None:
    pack = causal_pack([3])
    query, key, value = (torch.full((3, HEADS, SIZE), size, dtype=torch.float16) for size in (160.0, 160.0, 1.0))
    layout = PaddedLayout.from_pack(pack)

    plain = attend(query, key, value, layout, prefix=None)
    scaled = attend(query, key, value, layout, prefix=None, score_scale=28.0)

    assert not plain.isfinite().all()  # 160 * 160 * sqrt(8) is beyond 65504
    assert difference(scaled, value) < 1e-3


@pytest.mark.parametrize("score_scale", [1.0, 3.0])
@pytest.mark.parametrize("with_prefix", [False, True])
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_queries_that_share_keys_are_as_with_their_own(lengths: list[int], with_prefix: bool, score_scale: float) -> None:  # noqa: FBT001
    pack, (_, *shared) = causal_pack(lengths), draw(lengths)
    query = torch.randn(sum(lengths), 3 * HEADS, SIZE, requires_grad=True)
    tensors = [query, *(shared if with_prefix else shared[:2])]

    actual = attended(pack, [query, *shared], with_prefix=with_prefix, score_scale=score_scale)
    expected = attended(pack, [query, *(one.repeat_interleave(3, 1) for one in shared)], with_prefix=with_prefix, score_scale=score_scale)

    assert actual.shape == query.shape
    assert difference(actual, expected) < 1e-5
    upstream = torch.randn_like(actual)
    for one, other in zip(torch.autograd.grad(actual, tensors, upstream), torch.autograd.grad(expected, tensors, upstream), strict=True):
        assert difference(one, other) < 1e-4


@pytest.mark.parametrize("scores", [1, 2 * 7 * 7, 2 * 2 * 7 * 7])
def test_pieces_together_are_the_whole(monkeypatch: pytest.MonkeyPatch, scores: int) -> None:
    monkeypatch.setattr(reference_attention, "MAX_SCORES", scores)

    assert compare([7, 1, 4], with_prefix=True) < 1e-5


def test_a_token_that_may_see_nothing_of_its_row_but_itself_has_a_result() -> None:
    pack = causal_pack([5, 1], context=0)
    tensors = draw([5, 1])

    out = attended(pack, tensors, with_prefix=False)

    assert difference(out[0], tensors[2][0]) < 1e-5
    assert difference(out[5], tensors[2][5]) < 1e-5


def test_only_asked_gradients_flow() -> None:
    tensors = draw([4, 2])
    for frozen in tensors[:3]:
        frozen.requires_grad_(False)

    attended(causal_pack([4, 2]), tensors, with_prefix=True).sum().backward()

    assert [tensor.grad is not None for tensor in tensors] == [False, False, False, True, True]


class Sizes(TorchDispatchMode):
    """Notes the bytes of whatever memory the operations inside write to or look at."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, Tensor):
                self.largest = max(self.largest, tensor.untyped_storage().nbytes())
        return out


@contextmanager
def saved_shapes() -> Iterator[list[tuple[int, ...]]]:
    """Collects the shapes of what autograd keeps for the backward pass."""
    shapes: list[tuple[int, ...]] = []

    def note(tensor: Tensor) -> Tensor:
        shapes.append(tuple(tensor.shape))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        yield shapes


def test_the_prefix_is_never_copied_for_each_row() -> None:
    rows, prefix = 16, 64
    lengths = [1] * rows
    tensors = draw(lengths, prefix=prefix)
    expanded_bytes = rows * prefix * HEADS * SIZE * 4

    with Sizes() as sizes:
        attended(causal_pack(lengths), tensors, with_prefix=True).sum().backward()

    assert tensors[3].nelement() * 4 <= sizes.largest < expanded_bytes


def test_no_scores_are_kept_for_the_backward_pass() -> None:
    lengths, prefix = [6, 6, 6], 64
    with saved_shapes() as shapes:
        attended(causal_pack(lengths), draw(lengths, prefix=prefix), with_prefix=True)

    assert (HEADS, prefix, SIZE) in shapes  # the prefix itself
    assert all(shape[-1] != prefix and shape.count(prefix) <= 1 for shape in shapes)
    floats = [shape for shape in shapes if shape[-2:] == (6, 6)]
    assert floats == [(3, 1, 6, 6)]  # what is masked: one bit a pair, shared by the heads


def test_padding_keeps_only_its_index_for_the_backward_pass() -> None:
    layout = PaddedLayout.from_pack(causal_pack([7, 1, 4]))
    query = draw([7, 1, 4])[0]
    with saved_shapes() as shapes:
        layout.pad(query * 2)
    assert set(shapes) <= {(12,), ()}


def test_a_cache_gives_what_one_pass_gives() -> None:
    lengths = [5, 3]
    pack, tensors = causal_pack(lengths), draw(lengths)
    whole = attended(pack, tensors, with_prefix=True)
    cache = KVCache.empty(layers=1, slots=2, capacity=6, heads=HEADS, head_dim=SIZE, dtype=torch.float32, device=torch.device("cpu"))
    nothing = torch.empty(0, dtype=torch.long)

    with torch.no_grad():
        last = torch.tensor([4, 7])
        first = torch.tensor([0, 1, 2, 3, 5, 6])
        out = torch.empty_like(whole)
        for used, places, counts in ((4, first, (4, 2)), (5, last, (1, 1))):
            cache.length = used
            part = Pack(
                pack.ids[places],
                pack.positions,
                pack.seq_ids[places],
                pack.offsets[places],
                pack.num_visible[places],
                counts,
                nothing,
                nothing,
            )
            query, key, value = (tensor[places] for tensor in tensors[:3])
            keys, values = cache.update(0, part, key, value)
            out[places] = attend(query, keys, values, PaddedLayout.from_pack(part, cache.length), prefix=(tensors[3], tensors[4]))

    assert difference(out, whole) < 1e-5
