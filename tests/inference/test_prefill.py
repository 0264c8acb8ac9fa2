from pathlib import Path

import pytest
import torch

import imprint
from imprint.inference import Decoder, Request
from imprint.inference.decode_batch import DecodeBatch, SinglePrefixAdapters
from imprint.inference.prefill import Prefill
from imprint.models.attention import NO_ADAPTER
from tests.bases import FAMILIES, base_of
from tests.cases import difference, prompt, small_network
from tests.inference.reference import log_probabilities, prefix_for


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tokens", [1, 5, 1000])
def test_a_prompt_in_parts_is_the_prompt_at_once_in_every_family(family: str, tokens: int, tmp_path: Path) -> None:
    model = imprint.load(base_of(family, tmp_path / "base"), device="cpu")
    network, long = model.network, model.prompt("这件上衣的颜色是白色，版型很宽松，你好")
    whole, parts = DecodeBatch(network), DecodeBatch(network)
    beside = model.prompt("你好")
    whole.join([beside, long], 9)
    parts.join([beside], 9)
    prefill, logits, passes = Prefill(network, long, NO_ADAPTER), None, 0
    while logits is None:
        logits = prefill.advance(tokens, parts.adapters.row_adapters([NO_ADAPTER]))
        passes += 1
    parts.join_prefilled(prefill, 9)

    after_first = len(long) - max(tokens, prefill.span.bidirectional_length)
    assert passes == 1 + max(0, -(-after_first // tokens))
    for _ in range(9):
        expected, found = (batch.step(torch.tensor([7, 9])) for batch in (whole, parts))
        assert difference(found, expected) < 1e-4


def test_it_sees_a_prefix() -> None:
    network = small_network()
    prefix, ids = prefix_for(network), prompt(network, 5, 6, 7)
    adapters = SinglePrefixAdapters(prefix).row_adapters([NO_ADAPTER])
    prefill = Prefill(network, ids, NO_ADAPTER)

    assert prefill.advance(1, adapters) is None  # all but the last token, which sees them and is seen by none of them
    logits = prefill.advance(1, adapters)

    assert logits is not None
    assert difference(logits[0].log_softmax(-1), log_probabilities(network, ids, prefix)) < 1e-4


def test_running_requests_get_a_token_between_the_parts(tmp_path: Path) -> None:
    model = imprint.load(base_of("BLOOM", tmp_path / "base"), device="cpu")
    decoder = Decoder(model, prefill_chunk_tokens=4)
    short, long = model.prompt("好")[:4], (model.prompt("这件上衣的颜色是白色，版型很宽松，你好") * 3)[:24]
    first = decoder.admit(Request(short, 20))
    decoder.step()
    second = decoder.admit(Request(long, 3))
    steps = [{token.request for token in decoder.step()} for _ in range(6)]

    assert steps == [{first}] * 5 + [{first, second}]


def test_a_request_that_is_cancelled_in_the_middle_leaves_nothing(tmp_path: Path) -> None:
    model = imprint.load(base_of("BLOOM", tmp_path / "base"), device="cpu")
    decoder = Decoder(model, prefill_chunk_tokens=2)
    long = model.prompt("这件上衣的颜色是白色，版型很宽松，你好")
    number = decoder.admit(Request(long, 3))

    assert decoder.step() == []
    decoder.cancel(number)

    assert (len(decoder), decoder.step()) == (0, [])
