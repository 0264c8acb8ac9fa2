import pytest
import torch
from torch import Tensor

from imprint.models.attention import AttentionBackend, ForwardContext, RowAdapters
from imprint.models.cache import KVCache
from imprint.models.decode_attention import DecodeAttention
from imprint.models.reference_attention import ReferenceAttention
from imprint.pack import Pack
from tests.cases import difference
from tests.interpreted import use_interpreter

CAPACITY = 34
SHAPES = ((1, 2, 1, 8), (5, 1, 1, 12), (9, 1, 4, 16), (3, 2, 3, 12))
"""(sequences, heads of keys, query heads that share each, head size)."""
LENGTHS = (3, 33, 1)
"""Of three prefixes."""


def step_pack(visible: Tensor) -> Pack:
    """One new token for each sequence."""
    rows, nothing = len(visible), torch.empty(0, dtype=torch.long)
    ids = torch.zeros(rows, dtype=torch.long)
    return Pack(ids, ids[None], torch.arange(rows), visible - 1, visible, (1,) * rows, nothing, nothing)


def adapters_for(kind: str, rows: int, heads: int, size: int, dtype: torch.dtype) -> RowAdapters:
    """No prefix, one for all, or three of which a row uses one or none."""
    keys = {"none": 0, "shared": 7, "each": sum(LENGTHS)}[kind]
    pair = tuple(torch.randn(keys, heads, size).to(dtype) for _ in range(2))
    if kind == "none":
        return RowAdapters()
    if kind == "shared":
        return RowAdapters([(pair[0], pair[1])])
    owners = torch.tensor([owner for owner, length in enumerate(LENGTHS) for _ in range(length)])
    offsets = torch.tensor([offset for length in LENGTHS for offset in range(-length, 0)])
    return RowAdapters([(pair[0], pair[1])], owners != torch.randint(-1, 3, (rows,))[:, None], offsets)


def compare(shape: tuple[int, int, int, int], kind: str, dtype: torch.dtype, *, slopes: bool = False) -> float:
    """The largest difference from the reference; the caches agree."""
    rows, heads, group, size = shape
    query = torch.randn(rows, heads * group, size).to(dtype)
    _, key, value = torch.randn(rows, heads, 3 * size).to(dtype).chunk(3, -1)
    caches = [KVCache.empty(layers=1, slots=rows + 1, capacity=CAPACITY, heads=heads, head_dim=size, dtype=dtype, device=query.device)]
    for tensor in (*caches[0].keys, *caches[0].values):
        tensor.normal_()
    caches.append(KVCache([caches[0].keys[0].clone()], [caches[0].values[0].clone()]))
    pack = step_pack(torch.randint(1, CAPACITY + 1, (rows,)))
    adapters = adapters_for(kind, rows, heads, size, dtype)
    slope = torch.rand(heads) if slopes else None
    backends: tuple[AttentionBackend, ...] = (DecodeAttention(), ReferenceAttention())
    results = [
        backend.attend(
            0, query, key, value, ForwardContext(pack, (), adapters, cache.view(0, rows, CAPACITY)), score_scale=2.0, slopes=slope
        )
        for backend, cache in zip(backends, caches, strict=True)
    ]
    assert torch.equal(caches[0].keys[0], caches[1].keys[0])
    assert torch.equal(caches[0].values[0], caches[1].values[0])
    return difference(results[0], results[1])


@pytest.fixture(autouse=True)
def _interpreter() -> None:
    use_interpreter()
    torch.manual_seed(0)


def take_processors(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """Let the device have so many; with none, no keys are shared among programs."""
    from imprint.kernels import attend_step

    monkeypatch.setattr(attend_step, "processors", lambda device: count)


@pytest.mark.parametrize("kind", ["none", "shared", "each"])
@pytest.mark.parametrize("processors", [0, 8], ids=["one split", "several splits"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_it_gives_what_the_reference_gives(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int, int, int], processors: int, kind: str
) -> None:
    take_processors(monkeypatch, processors)

    assert compare(shape, kind, torch.float32) < 1e-5


@pytest.mark.parametrize("processors", [0, 8], ids=["one split", "several splits"])
@pytest.mark.parametrize("kind", ["none", "shared", "each"])
def test_with_slopes_too(monkeypatch: pytest.MonkeyPatch, kind: str, processors: int) -> None:
    take_processors(monkeypatch, processors)

    assert compare((5, 2, 1, 8), kind, torch.float32, slopes=True) < 1e-5


@pytest.mark.parametrize(
    ("shape", "dtype"), [((5, 2, 1, 8), torch.float16), ((3, 1, 4, 16), torch.float16), ((1, 2, 1, 8), torch.bfloat16)]
)
def test_in_16_bits_up_to_rounding(shape: tuple[int, int, int, int], dtype: torch.dtype) -> None:
    assert compare(shape, "each", dtype) < 0.02


def test_what_is_not_finite_beyond_a_sequence_does_not_matter() -> None:
    cache = KVCache([torch.full((1, 1, 8, 16), float("nan"))], [torch.full((1, 1, 8, 16), float("nan"))])
    query, key, value = torch.randn(3, 1, 1, 16).unbind(0)
    context = ForwardContext(step_pack(torch.tensor([1])), (), RowAdapters(), cache.view(0, 1, 8))

    out = DecodeAttention().attend(0, query, key, value, context, score_scale=1.0, slopes=None)

    assert difference(out, value) < 1e-6


@pytest.mark.parametrize("processors", [0, 8], ids=["one split", "several splits"])
@pytest.mark.parametrize(("group", "size", "distance"), [(1, 16, 4), (3, 12, 1)])
def test_queries_and_new_keys_are_rotated_as_alone(
    monkeypatch: pytest.MonkeyPatch, group: int, size: int, distance: int, processors: int
) -> None:
    from imprint.kernels.attend_step import KeyRanges, Rotation, attend_step
    from imprint.models.rotary import rotate

    take_processors(monkeypatch, processors)
    rows, heads = 9, 2
    query, key, value = torch.randn(rows, heads * group, size), *torch.randn(2, rows, heads, size)
    cos, sin = torch.randn(2, rows, size)
    keys, values = torch.randn(2, 40, heads, size)
    prefix = KeyRanges(keys, values, torch.zeros(rows).long(), torch.full((rows,), 40), torch.arange(rows))
    visible = torch.randint(1, CAPACITY + 1, (rows,))
    caches = [torch.randn(2, rows, heads, CAPACITY, size)] * 2
    caches = [cache.clone() for cache in caches]

    found = attend_step(query, (key, value), (caches[0][0], caches[0][1]), visible, prefix=prefix, rotation=Rotation(cos, sin, distance))

    turned = [rotate(tensor, cos, sin, distance) for tensor in (query, key)]
    wanted = attend_step(turned[0], (turned[1], value), (caches[1][0], caches[1][1]), visible, prefix=prefix)
    assert difference(found, wanted) < 1e-5
    assert difference(caches[0], caches[1]) < 1e-6
