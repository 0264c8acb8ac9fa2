from typing import Any, Final, get_args

import pytest

from imprint.serve.generation.job import Job, RefusedError
from imprint.serve.upstream.faults import FaultError
from imprint.serve.upstream.form import Api, answer_body, check_job, estimated_tokens, read_delta
from tests.inference.decoding_knobs import CHANGED
from tests.serve.upstream.fakes import job_of

API_NAMES: Final[tuple[Api, ...]] = get_args(Api)


def part_of(choice: Any, job: Job | None = None, **more: Any) -> Any:
    return read_delta({"choices": [choice], **more}, job or job_of(), "demo")


def refusal_of(job: Job, api: Api) -> str:
    with pytest.raises(RefusedError) as caught:
        check_job(job, api)
    return caught.value.message.english


def test_all_that_changes_an_answer_is_passed_on() -> None:
    job = job_of(temperature=0.5, top_p=0.6, top_k=7, repetition_penalty=1.2, seed=3, stop=("终",))

    assert answer_body(job, "theirs", 5, "vllm") == {
        "model": "theirs",
        "messages": [{"role": "user", "content": "颜色"}],
        "stream": True,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        "max_tokens": 5,
        "temperature": 0.5,
        "top_p": 0.6,
        "top_k": 7,
        "repetition_penalty": 1.2,
        "min_p": 0.0,
        "seed": 3,
        "stop": ["终"],
    }


def test_what_says_nothing_is_said_so_that_no_default_of_a_server_holds() -> None:
    body = answer_body(job_of(messages=None, text="从前", top_logprobs=0), "demo", None, "vllm")
    assert (body["prompt"], body["top_k"], body["repetition_penalty"], body["logprobs"]) == ("从前", -1, 1.0, 0)
    assert {"seed", "stop", "max_tokens", "messages"} & body.keys() == set()


def test_a_server_of_openai_gets_no_field_of_vllm() -> None:
    body = answer_body(job_of(top_logprobs=2), "demo", 5, "openai")
    assert {"top_k", "repetition_penalty", "min_p"} & body.keys() == set()
    assert (body["stream_options"], body["logprobs"], body["top_logprobs"]) == ({"include_usage": True}, True, 2)


@pytest.mark.parametrize("api", API_NAMES)
def test_every_knob_of_decoding_is_passed_on_or_refused_by_name(api: Api) -> None:
    plain = answer_body(job_of(), "demo", 5, api)
    for name in CHANGED.keys() & Job.__dataclass_fields__.keys():
        job = job_of(**{name: CHANGED[name]})
        assert answer_body(job, "demo", 5, api) != plain or refusal_of(job, api).startswith(f"{name}:"), name


@pytest.mark.parametrize(
    ("job", "words"),
    [
        (job_of(text="both"), "either messages or a text"),
        (job_of(messages=None), "either messages or a text"),
        (job_of("\ud800"), "surrogate"),
        (job_of(messages=({"role": "user", "content": [{"type": "image_url"}]},)), "messages:"),
        (job_of(messages=({"role": "assistant", "content": "{}", "metadata": "tool"},)), "messages:"),
        (job_of(top_k=3), "top_k:"),
        (job_of(repetition_penalty=1.5), "repetition_penalty:"),
    ],
)
def test_what_cannot_be_passed_on_is_refused(job: Job, words: str) -> None:
    with pytest.raises(RefusedError, match=words) as caught:
        check_job(job, "openai")
    assert caught.value.kind == "invalid"


def test_the_tokens_of_a_part_are_those_that_somebody_counted() -> None:
    usage = {"prompt_tokens": 9, "completion_tokens": 5}
    counted = part_of({"delta": {"content": "白"}}, usage=usage)
    assert (counted.prompt_tokens, counted.tokens_after(3)) == (9, 2)
    assert [part_of({"delta": {"content": text}}).tokens_after(3) for text in ("a", "白", "白色的", "")] == [1, 1, 3, 0]
    assert part_of({"delta": {}}).tokens_after(3) == 0
    wrong: Any
    for wrong in ({"prompt_tokens": -1}, {"prompt_tokens": True}, {"prompt_tokens": 2**40}, {"prompt_tokens": "9"}, [], "x"):
        assert part_of({"delta": {}}, usage=wrong).prompt_tokens is None


def test_the_tokens_of_a_continued_text_come_in_columns() -> None:
    columns = {"tokens": ["白", "色"], "token_logprobs": [-0.5, -1], "top_logprobs": [{"白": -0.5}, None], "text_offset": [0, 1]}
    part = part_of({"text": "白色", "logprobs": columns}, job_of(messages=None, text="x", top_logprobs=1))
    assert [(token.text, token.log_prob, len(token.top)) for token in part.tokens] == [("白", -0.5, 1), ("色", -1.0, 0)]


@pytest.mark.parametrize(
    "logprobs",
    [
        {"content": [{"token": "白"}]},
        {"content": [{"token": 5, "logprob": -1}]},
        {"content": [{"token": "白", "logprob": 10**400}]},
        {"content": [{"token": "白", "logprob": True}]},
        {"content": [{"token": "白", "logprob": -1, "bytes": 10**12}]},
        {"content": [{"token": "白", "logprob": -1, "bytes": [300]}]},
        {"content": [{"token": "\ud800", "logprob": -1}]},
        {"content": 5},
        {"tokens": ["白"], "token_logprobs": []},
        [],
        5,
    ],
)
def test_tokens_that_are_none_are_a_fault(logprobs: Any) -> None:
    with pytest.raises(FaultError):
        part_of({"delta": {"content": "白"}, "logprobs": logprobs}, job_of(top_logprobs=1))


def test_a_hosted_model_may_answer_by_the_name_of_its_version() -> None:
    assert read_delta({"model": "demo-2026-01-31", "choices": []}, job_of(), "demo").text == ""
    with pytest.raises(FaultError, match="wrong_model"):
        read_delta({"model": "other", "choices": []}, job_of(), "demo")


@pytest.mark.parametrize("other", ["demo2", "demo-lora", "demo-latex", "demo/2"])
def test_a_model_whose_name_begins_alike_is_another_one(other: str) -> None:
    with pytest.raises(FaultError, match="wrong_model"):
        read_delta({"model": other, "choices": []}, job_of(), "demo")


def test_a_prompt_has_about_a_token_for_three_bytes() -> None:
    assert estimated_tokens(job_of(messages=None, text="一二三")) == 4
