import asyncio
import json
import math
import threading
from typing import Any

import pytest

from imprint.serve.generation.job import Alternative, Ended, Generation, TextDelta, TokenPiece
from imprint.serve.web.answers import AnswerBuffer, AnswerSet
from imprint.serve.web.json_pieces import json_pieces
from imprint.serve.web.metrics import Metrics
from imprint.serve.web.openai_form import AnswerForm, Kind, _formed
from imprint.serve.web.services import Services
from imprint.serve.web.settings import WebSettings
from tests.serve.web.scripted import ScriptedBackend, ScriptedStore

HALF = TokenPiece(1, b"\xe4\xbd", -0.1, "", (Alternative(1, b"\xe4\xbd", -0.1),))


def written(form: AnswerForm, tokens: tuple[TokenPiece, ...], offset: int) -> Any:
    """The log-probabilities of a chunk."""
    return json.loads(form.chunk([form.part(0, "", tokens, offset)])[6:])["choices"][0]["logprobs"]


def test_a_token_that_is_part_of_a_character_is_named_by_its_bytes() -> None:
    form = AnswerForm("chat", "base", logprobs=True, usage=False, queue=False)
    assert written(form, (HALF,), 0)["content"][0] == {
        "token": "bytes:\\xe4\\xbd",
        "logprob": -0.1,
        "bytes": [0xE4, 0xBD],
        "top_logprobs": [{"token": "bytes:\\xe4\\xbd", "logprob": -0.1, "bytes": [0xE4, 0xBD]}],
    }


def test_a_completion_has_offsets_of_its_tokens() -> None:
    form = AnswerForm("text", "base", logprobs=True, usage=False, queue=False)
    tokens = (TokenPiece(1, b"ab", -1.0, "ab"), TokenPiece(2, b"c", -2.0, "c"))
    assert written(form, tokens, 4) == {
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


@pytest.mark.parametrize("kind", ["chat", "text"])
def test_many_log_probabilities_are_written_piece_by_piece_beside_the_event_loop(kind: Kind) -> None:
    top = tuple(Alternative(number, b"ab", -math.inf) for number in range(20))
    answer = AnswerBuffer(Generation(1), keeps_tokens=True)
    answer.take(TextDelta("ab" * 300, tuple(TokenPiece(1, b"ab", -1.0, "ab", top) for _ in range(300))))
    answer.take(Ended("length", 1, 300))
    form = AnswerForm(kind, "base", logprobs=True, usage=False, queue=False)
    backend = ScriptedBackend()
    answers = AnswerSet(Services(backend, ScriptedStore().as_store(), WebSettings(), Metrics(backend)), None, "")
    answers.answers.append(answer)
    threads = []

    def write() -> bytes:
        threads.append(threading.current_thread())
        return form.complete(answers)

    body = asyncio.run(_formed(answers, answer.kept_tokens, write))
    asyncio.run(_formed(answers, answer.kept_tokens[:3], write))
    assert [thread is threading.main_thread() for thread in threads] == [False, True]
    logprobs = json.loads(body)["choices"][0]["logprobs"]
    assert {name: len(values) for name, values in logprobs.items()} == dict.fromkeys(logprobs, 300)
    assert b"Infinity" not in body
    assert max(map(len, json_pieces(form._choice(0, answer)))) < 2000
