from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from imprint.messages import UserError
from imprint.models import loss, vocabulary
from imprint.models.chatglm import ChatGLM
from imprint.models.network import Network
from imprint.models.vocabulary import reduce_vocabulary_memory, refuse_missing_weights
from imprint.pack import Pack, pack
from imprint.quant.row_int import RowInt
from imprint.tune.fingerprint import fingerprint
from imprint.tune.section import FullSection, PrefixSection
from imprint.tune.tuner import build_tuner
from tests.cases import difference, prompt, small_chatglm2, small_network

BASES: dict[str, Callable[[], Network]] = {"tied": small_network, "untied": small_chatglm2}


def base(kind: str, *, quantized: bool = True) -> Network:
    network = BASES[kind]()
    network.weight_format = RowInt(8) if quantized else None  # the blocks stay as they are: only the vocabulary matters here
    return network


def batch(network: Network) -> Pack:
    start = prompt(network) if isinstance(network, ChatGLM) else []
    rows = [[1, 2, 3, *start, 4, 5], [6, 9, *start, 7]]
    return pack(rows, network, [[-100] * (len(row) - 2) + row[-2:] for row in rows])


def computed(network: Network) -> list[Tensor]:
    """Hidden states, logits and losses, and the gradient of a prefix."""
    torch.manual_seed(0)
    section = PrefixSection(length=3, start="random", prefix_dropout=0.0)
    tuner = build_tuner(network, section, lambda _: [1], checkpointing=False).train()
    one = batch(network)
    value = tuner(one)
    gradients = torch.autograd.grad(value, list(tuner.trainable_parameters().values()))
    with torch.no_grad():
        hidden = network(one)
        return [hidden, network.logits(hidden), network.token_losses(hidden[one.targets], one.labels), value.detach(), *gradients]


@pytest.fixture(autouse=True)
def _a_device_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vocabulary, "has_own_memory", lambda _: True)
    monkeypatch.setattr(loss, "HEAD_ROWS", 7)


@pytest.mark.parametrize("kind", BASES)
@pytest.mark.parametrize("on_host", [False, True])
def test_a_quantized_head_computes_what_its_dequantized_weight_does(kind: str, on_host: bool) -> None:  # noqa: FBT001
    network, plain = base(kind), base(kind)
    reduce_vocabulary_memory(network, quantize_head=True, embedding_on_host=on_host)
    assert network.quantized_head is not None
    own = plain.head_weight
    original = own.detach().clone()
    dequantized = network.quantized_head.dequantize(torch.float32)
    assert 0 < difference(dequantized, original) < 0.02 * float(original.abs().max())

    found = computed(network)
    if kind == "tied" and on_host:  # the rows of the embedding are the original's
        hidden = computed(plain)[0]
        assert torch.equal(found[0], hidden)
        assert difference(found[1], hidden @ dequantized.t()) < 1e-4
        return
    with torch.no_grad():
        own.copy_(dequantized)
    expected = computed(plain)

    assert all(difference(one, other) < 2e-5 * max(1.0, float(other.abs().max())) for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize("kind", BASES)
def test_on_a_cpu_the_same_is_computed_as_on_a_gpu(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    found = []
    for own_memory in (True, False):
        monkeypatch.setattr(vocabulary, "has_own_memory", lambda _, own=own_memory: own)
        network = base(kind)
        reduce_vocabulary_memory(network, quantize_head=True, embedding_on_host=True)
        assert (network.host_rows is not None) == own_memory
        assert fingerprint(network) == fingerprint(base(kind))
        with pytest.raises(UserError, match="quantize_head=false"):
            refuse_missing_weights(network)
        found.append(computed(network))

    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_an_embedding_in_main_memory_computes_the_same() -> None:
    network, plain = base("untied", quantized=False), base("untied", quantized=False)
    reduce_vocabulary_memory(network, quantize_head=False, embedding_on_host=True)

    for one, other in zip(computed(network), computed(plain), strict=True):
        assert torch.equal(one, other)
    assert len(list(network.parameters())) == len(list(plain.parameters())) - 1
    assert not network.replays_steps


@pytest.mark.parametrize("kind", BASES)
def test_an_adapter_still_knows_its_base(kind: str) -> None:
    network, plain = base(kind), base(kind)
    reduce_vocabulary_memory(network, quantize_head=True, embedding_on_host=True)

    assert fingerprint(network) == fingerprint(plain)


@pytest.mark.parametrize(
    ("kind", "quantized", "head", "on_host", "message"),
    [
        ("untied", False, True, False, "quantize_head: the head takes the format of the blocks"),
        ("tied", True, False, True, "embedding_on_host: the embedding of this base is its LM head too"),
    ],
)
def test_what_cannot_be_is_refused_by_name(kind: str, quantized: bool, head: bool, on_host: bool, message: str) -> None:  # noqa: FBT001
    with pytest.raises(UserError, match=message):
        reduce_vocabulary_memory(base(kind, quantized=quantized), quantize_head=head, embedding_on_host=on_host)


def test_what_is_not_there_is_not_trained() -> None:
    network = base("untied", quantized=False)
    reduce_vocabulary_memory(network, quantize_head=False, embedding_on_host=True)

    with pytest.raises(UserError, match="embedding_on_host=false"):
        build_tuner(network, FullSection(method="full"), lambda _: [1], checkpointing=False)
