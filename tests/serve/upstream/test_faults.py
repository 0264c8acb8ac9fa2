import json

import pytest

from imprint.serve.upstream.faults import FAULTS, fault_of_error, fault_of_status, is_about_context, read_json

WORDS = [
    "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens",
    "Input length (5000) exceeds model's maximum context length (4096).",
    "Requested token count exceeds the model's maximum context length of 4096 tokens.",
    "The decoder prompt (length 5000) is longer than the maximum model length of 4096.",
    "the request exceeds the available context size, try increasing the context window",
    "prompt is too long",
]


@pytest.mark.parametrize("words", WORDS)
def test_servers_say_in_many_ways_that_a_prompt_does_not_fit(words: str) -> None:
    for body in ({"error": {"message": words}}, {"object": "error", "message": words}, {"detail": words}, {"error": words}):
        assert is_about_context(body)
        assert fault_of_status(400, json.dumps(body).encode()).name == "context"


def test_other_refusals_are_not_about_the_context() -> None:
    for words in ("temperature must be at most 2", "Conversation roles must alternate user/assistant", ""):
        assert fault_of_status(400, json.dumps({"error": {"message": words}}).encode()).name == "invalid"


def test_every_status_is_a_fault_whatever_the_body_is() -> None:
    for body in (b"", b"<html>", b"\xff", b'"text"', b"[]", b'{"error": null}'):
        assert {fault_of_status(status, body).name for status in range(201, 600)} <= FAULTS.keys()


def test_a_part_of_an_answer_is_no_error() -> None:
    assert fault_of_error({"choices": [], "error": None}) is None
    assert fault_of_error({"choices": []}) is None
    for error in ({"error": "x"}, {"error": {"code": "500"}}, {"object": "error"}, {"error": [1]}):
        assert fault_of_error(error) is not None


def test_what_is_no_json_is_none() -> None:
    assert [read_json(text) for text in ("", "{", "NaN", "[" * 100_000, b"\xff", '{"a": 1}')] == [None] * 5 + [{"a": 1}]
    assert read_json("9" * 10_000) is None
