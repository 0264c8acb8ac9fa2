import json

import pytest

from imprint.serve.generation.job import Alternative, Ended, Generation, TextDelta, TokenPiece
from imprint.serve.web.answers import AnswerBuffer
from imprint.serve.web.openai_form import AnswerForm, Kind

HALF = TokenPiece(1, b"\xe4\xbd", -0.1, "", (Alternative(1, b"\xe4\xbd", -0.1),))


def test_a_token_that_is_part_of_a_character_is_named_by_its_bytes() -> None:
    form = AnswerForm("chat", "base", logprobs=True, usage=False, queue=False)
    part = form.part(0, "", (HALF,), 0)
    assert part["logprobs"]["content"][0] == {
        "token": "bytes:\\xe4\\xbd",
        "logprob": -0.1,
        "bytes": [0xE4, 0xBD],
        "top_logprobs": [{"token": "bytes:\\xe4\\xbd", "logprob": -0.1, "bytes": [0xE4, 0xBD]}],
    }


def test_a_completion_has_offsets_of_its_tokens() -> None:
    form = AnswerForm("text", "base", logprobs=True, usage=False, queue=False)
    tokens = (TokenPiece(1, b"ab", -1.0, "ab"), TokenPiece(2, b"c", -2.0, "c"))
    assert form.part(0, "abc", tokens, 4)["logprobs"] == {
        "tokens": ["ab", "c"],
        "token_logprobs": [-1.0, -2.0],
        "top_logprobs": [{}, {}],
        "text_offset": [4, 6],
    }


def test_a_chunk_has_a_place_for_usage_where_it_was_asked_for() -> None:
    with_usage = AnswerForm("chat", "base", logprobs=False, usage=True, queue=False)
    without = AnswerForm("chat", "base", logprobs=False, usage=False, queue=False)
    assert json.loads(with_usage.chunk([])[6:])["usage"] is None
    assert "usage" not in json.loads(without.chunk([])[6:])
    assert json.loads(without.chunk([])[6:])["object"] == "chat.completion.chunk"


@pytest.mark.parametrize("kind", ["chat", "text"])
def test_a_part_of_an_answer_is_written_as_any_chunk_is(kind: Kind) -> None:
    for usage in (True, False):
        form = AnswerForm(kind, 'a "model"', logprobs=False, usage=usage, queue=False)
        for number in (0, 3, 0):
            for text in ("你好", 'a "quoted"\n\\ line', "\0", "", "😀</script>"):
                assert form.delta_chunk(number, TextDelta(text), 7) == form.chunk([form.part(number, text, (), 0)])


def test_an_answer_that_ended_is_a_choice() -> None:
    answer = AnswerBuffer(Generation(1))
    answer.take(TextDelta("hi", ()))
    answer.take(Ended("length", 1, 1))
    form = AnswerForm("text", "base", logprobs=False, usage=False, queue=False)
    assert form._choice(0, answer) == {"index": 0, "text": "hi", "logprobs": None, "finish_reason": "length"}
