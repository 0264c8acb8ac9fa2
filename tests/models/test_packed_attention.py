import random
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from imprint.inference.decode_batch import DecodeBatch, SinglePrefixAdapters
from imprint.inference.prefill import Prefill
from imprint.models.attention import NO_ADAPTER, ForwardContext, RowAdapters
from imprint.models.packed_attention import PackedAttention, attend_rows
from imprint.models.reference_attention import ReferenceAttention
from imprint.pack import Pack, pack
from tests.cases import difference, small_chatglm2, small_network
from tests.kernels.quantized_weights import DEVICE, needs_triton
from tests.reference_models import prefix_of

HEADS, HEAD_DIM = 4, 24
PREFIX = 20


def rows() -> Pack:
    """Four rows, one of them a single context, attended to in both directions as a prefix language model does."""
    rng, network = random.Random(0), small_network()
    special_ids = network.config.special_ids
    lengths = [(20, 12), (1, 0), (9, 3), (14, 0)]
    ids = [[*rng.choices(range(30), k=first), special_ids.gmask, special_ids.sop, *rng.choices(range(30), k=n)] for first, n in lengths]
    return pack(ids, network).to(DEVICE)


def leaves(*shapes: tuple[int, ...]) -> list[Tensor]:
    return [torch.randn(shape, device=DEVICE, requires_grad=True) for shape in shapes]


@needs_triton
@pytest.mark.parametrize("groups", [4, 2, 1])
@pytest.mark.parametrize("alibi", [False, True])
@pytest.mark.parametrize("prefixes", ["none", "one", "of each row"])
def test_values_and_gradients_are_those_of_the_reference(groups: int, alibi: bool, prefixes: str) -> None:  # noqa: FBT001
    torch.manual_seed(0)
    batch = rows()
    tokens = batch.ids.numel()
    query, key, value = inputs = leaves((tokens, HEADS, HEAD_DIM), (tokens, groups, HEAD_DIM), (tokens, groups, HEAD_DIM))
    slopes = torch.rand(groups, device=DEVICE) / 10 if alibi else None
    adapters = RowAdapters()
    if prefixes != "none":
        pair = leaves(*[(PREFIX, groups, HEAD_DIM)] * 2)
        masked = torch.rand(batch.num_seqs, PREFIX, device=DEVICE) > 0.5 if prefixes == "of each row" else None
        adapters = RowAdapters([(pair[0], pair[1])], masked, None if masked is None else torch.arange(-30, -30 + PREFIX, device=DEVICE))
        inputs += pair

    found = attend_rows(0, query, key, value, ForwardContext(batch, [PackedAttention()], adapters), slopes)
    reference = ReferenceAttention()
    context = ForwardContext(batch, [reference], adapters)
    expected = reference.attend(0, query, key, value, context, score_scale=1.0, slopes=slopes)
    direction = torch.randn_like(found)

    assert difference(found, expected) < 1e-5
    for gradient, of_reference in zip(
        torch.autograd.grad(found, inputs, direction), torch.autograd.grad(expected, inputs, direction), strict=True
    ):
        assert difference(gradient, of_reference) < 1e-5


class Everywhere(PackedAttention):
    """Takes what PackedAttention takes on a GPU, wherever Triton runs."""

    def supports(self, context: ForwardContext) -> bool:
        return context.cache is None or context.pack.is_start

    @staticmethod
    def computes(head_dim: int, device: torch.device, dtype: torch.dtype) -> bool:
        return True


@needs_triton
def test_prompts_run_by_the_kernel_fill_the_cache_and_are_answered_as_by_the_reference() -> None:
    network = small_chatglm2().to(DEVICE)  # its prompts can be run in parts
    prompts, prefix = [[5, 6, 7, 8, 9, 10, 11], [12, 13], [14]], [(key.to(DEVICE), value.to(DEVICE)) for key, value in prefix_of(network)]
    found = []
    for backends in ((Everywhere(), ReferenceAttention()), (ReferenceAttention(),)):
        network.attention_backends = backends
        batch = DecodeBatch(network, SinglePrefixAdapters(prefix))
        first = batch.join(prompts, 4)
        part = Prefill(network, prompts[0], NO_ADAPTER)
        adapters = batch.adapters.row_adapters([NO_ADAPTER])
        last = [part.advance(3, adapters), part.advance(4, adapters)][-1]
        assert last is not None
        batch.join_prefilled(part, 4)
        found.append(torch.cat((first, last, *[batch.step(torch.tensor([1, 2, 3, 4], device=DEVICE)) for _ in range(2)])))

    assert difference(found[0], found[1]) < 1e-5


@pytest.mark.parametrize(("cached", "is_start", "taken"), [(False, True, True), (True, True, True), (True, False, False)])
def test_a_pass_that_reads_a_cache_is_left_to_others(*, cached: bool, is_start: bool, taken: bool) -> None:
    on_gpu = SimpleNamespace(is_start=is_start, ids=SimpleNamespace(is_cuda=True))
    context: Any = SimpleNamespace(cache=object() if cached else None, pack=on_gpu)

    assert PackedAttention().supports(context) is taken


def test_passes_on_a_cpu_are_left_to_others() -> None:
    network = small_network()

    context = ForwardContext(pack([[1, 2]], network), network.attention_backends)

    assert isinstance(context.backend, ReferenceAttention)
    assert network.packing_problem is not None


def test_heads_of_256_fit_and_larger_ones_do_not() -> None:
    assert [PackedAttention.fits(head_dim) for head_dim in (128, 256, 257)] == [True, True, False]


def test_plain_pytorch_alone_depends_on_lengths_wherever_kernels_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PackedAttention, "problem", staticmethod(lambda *_: None))
    network = small_network()

    found = []
    for choice in ("auto", "plain"):
        network.use_kernels(choice)
        found.append(network.packing_problem is None)

    assert found == [True, False]
