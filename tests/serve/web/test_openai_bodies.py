from typing import Any

import pytest
from pydantic import ValidationError

from imprint.inference.section import DecodingSection
from imprint.serve.generation.job import Job
from imprint.serve.web.errors import ApiError
from imprint.serve.web.openai_bodies import REFUSED, AnswerBody, ChatBody, CompletionBody, LegacyBody, TokenizeBody

CHAT = {"model": "base", "messages": [{"role": "user", "content": "hi"}]}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("presence_penalty", 0.5),
        ("frequency_penalty", -1),
        ("logit_bias", {"50256": -100}),
        ("response_format", {"type": "json_object"}),
        ("functions", [{}]),
        ("guided_json", {}),
        ("best_of", 2),
        ("echo", True),
        ("min_p", 0.1),
    ],
)
def test_a_field_that_would_change_the_answer_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(ApiError) as caught:
        ChatBody.model_validate({**CHAT, name: value})
    assert (caught.value.code, caught.value.param) == ("unsupported_value", name)
    assert name in caught.value.message.chinese


def test_no_knob_of_decoding_is_ignored() -> None:
    understood = AnswerBody.model_fields.keys() & Job.__dataclass_fields__.keys()
    assert DecodingSection.model_fields.keys() - understood - REFUSED.keys() == set()


def test_such_a_field_is_taken_with_the_value_that_changes_nothing() -> None:
    for name, values in REFUSED.items():
        for value in values:
            assert ChatBody.model_validate({**CHAT, name: value}).model == "base"


def test_a_truth_value_is_no_zero() -> None:
    with pytest.raises(ApiError):
        ChatBody.model_validate({**CHAT, "presence_penalty": False})


def test_fields_that_change_no_answer_are_ignored() -> None:
    assert ChatBody.model_validate({**CHAT, "user": "u", "store": False, "metadata": {}, "service_tier": "auto"}).model == "base"


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": -0.1},
        {"temperature": 2.1},
        {"top_p": 0},
        {"top_p": 1.01},
        {"top_k": -2},
        {"repetition_penalty": 0},
        {"repetition_penalty": -1},
        {"repetition_penalty": 100},
        {"max_tokens": 0},
        {"max_tokens": 2**31 + 1},
        {"n": 10**6},
        {"n": 0},
        {"seed": 2**63},
        {"seed": 1.5},
        {"stop": ["x"] * 5},
        {"stop": ["x" * 65]},
        {"stop": ""},
        {"top_logprobs": 21, "logprobs": True},
        {"top_logprobs": 2},
        {"max_tokens": 3, "max_completion_tokens": 4},
        {"messages": [{"role": "assistant", "content": None}]},
        {"messages": [{"role": "user", "content": {"a": 1}}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}]}]},
        {"messages": [{"role": "user", "content": "x"}] * 10_000},
        {"stream": "yes"},
    ],
)
def test_values_out_of_bounds_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ChatBody.model_validate({**CHAT, **fields})


def test_values_at_the_bounds_are_taken() -> None:
    body = ChatBody.model_validate(
        {**CHAT, "temperature": 0, "top_p": 1, "top_k": -1, "seed": -(2**63), "stop": ["x"] * 4, "n": 4, "max_completion_tokens": 9}
    )
    assert (body.length, body.stops, body.answers) == (9, ("x",) * 4, 4)
    assert ChatBody.model_validate({**CHAT, "max_tokens": 3, "max_completion_tokens": 3}).length == 3


def test_a_prompt_is_one_text() -> None:
    assert CompletionBody.model_validate({"model": "base", "prompt": ["a"]}).text == "a"
    for prompt in (["a", "b"], [1, 2], [[1]], 7, None):
        with pytest.raises(ValidationError):
            CompletionBody.model_validate({"model": "base", "prompt": prompt})


def test_tokens_are_counted_of_one_thing() -> None:
    for fields in ({}, {"prompt": "a", "messages": CHAT["messages"]}):
        with pytest.raises(ValidationError):
            TokenizeBody.model_validate({"model": "base", **fields})


def test_the_form_of_2023_has_pairs() -> None:
    assert LegacyBody.model_validate({"prompt": "a", "history": [["b", "c"]]}).history == [["b", "c"]]
    with pytest.raises(ValidationError):
        LegacyBody.model_validate({"prompt": "a", "history": [["b"]]})


@pytest.mark.parametrize("wrong", [[1] * 1000, [{}] * 1000, [{"role": "user", "content": [1] * 1000}] * 2, [{"tool_calls": [{}] * 60}] * 9])
def test_the_errors_of_a_body_are_few_however_much_of_it_is_wrong(wrong: list[Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        ChatBody.model_validate({"model": "base", "messages": wrong})
    assert caught.value.error_count() <= 4
