"""Each protocol says what it counts, and does as it says."""

from dataclasses import fields
from typing import get_args

import pytest

from imprint.evaluate.section import EvaluateSection
from imprint.messages import UserError
from imprint.metrics.means import score
from imprint.metrics.protocols import PROTOCOLS, Protocol, ProtocolName, get_protocol


def test_the_knob_of_an_evaluation_takes_every_protocol() -> None:
    assert get_args(ProtocolName) == tuple(PROTOCOLS)
    assert [EvaluateSection(protocol=name).protocol for name in PROTOCOLS] == list(PROTOCOLS)


@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=lambda protocol: protocol.name)
def test_a_protocol_says_what_it_counts_in_both_languages(protocol: Protocol) -> None:
    assert (
        f"BLEU-4 over {protocol.bleu_tokens}" in protocol.description.english
        or "BLEU-4 and ROUGE over jieba words" in protocol.description.english
        or ("BLEU-4 over jieba words" in protocol.description.english and protocol.bleu_tokens == "words")
    )
    assert ("按字" in protocol.description.chinese) == (protocol.bleu_tokens == "characters")
    assert (
        ("left out of the mean" in protocol.description.english)
        == (protocol.empties == "dropped")
        == ("不计入均值" in protocol.description.chinese)
    )
    assert (
        ("cuts the references" in protocol.description.english)
        == (protocol.references == "cut")
        == ("截断参考答案" in protocol.description.chinese)
    )
    assert protocol.description.english.endswith(".")
    assert all(getattr(protocol, field.name) != "" for field in fields(protocol))


def test_an_unknown_protocol_names_the_known_ones() -> None:
    with pytest.raises(UserError, match=r'no metric protocol "bleu"\. Allowed: chatglm-6b, words, llamafactory, swift\.'):
        score(["好"], ["好"], protocol="bleu")


def test_a_mistyped_protocol_is_suggested() -> None:
    with pytest.raises(UserError, match=r'Did you mean "llamafactory"\?'):
        get_protocol("LLaMA-Factory")
