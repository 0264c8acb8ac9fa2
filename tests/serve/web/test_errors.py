import asyncio
import logging
from typing import Any

import pytest
from fastapi.exceptions import RequestValidationError
from pydantic import TypeAdapter, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request

from imprint.messages import Bilingual
from imprint.serve.generation.job import RefusedError
from imprint.serve.store.errors import StoreError
from imprint.serve.web.errors import CODES, REFUSALS, STORE_CODES, ApiError, answer_error, error_of, validation_error
from imprint.serve.web.openai_bodies import ChatBody

SAID = Bilingual("Too much.", "太多。")


def problems(value: object) -> ApiError:
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(ChatBody).validate_python(value)
    return validation_error([{**error, "loc": ("body", *error["loc"])} for error in caught.value.errors()])


def test_every_error_has_the_one_shape_in_both_languages() -> None:
    error = ApiError("queue_full", SAID, param="messages", retry_after=2.4)
    assert error.body("req-1") == {
        "error": {
            "message": "Too much. / 太多。",
            "type": "rate_limit_error",
            "param": "messages",
            "code": "queue_full",
            "request_id": "req-1",
        }
    }
    response = error.response("req-1")
    assert (response.status_code, response.headers["retry-after"]) == (429, "3")


def test_a_missing_credential_says_which_kind_is_wanted() -> None:
    assert ApiError("missing_credentials", SAID).response(None).headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    ("problem", "status", "code"),
    [
        (RefusedError("queue_full", SAID), 429, "queue_full"),
        (RefusedError("context_length_exceeded", SAID), 400, "context_length_exceeded"),
        (RefusedError("model_not_found", SAID), 404, "model_not_found"),
        (RefusedError("unavailable", SAID), 503, "engine_unavailable"),
        (RefusedError("invalid", SAID), 400, "invalid_value"),
        (StoreError("quota_exceeded", SAID, retry_after=9), 429, "quota_exceeded"),
        (StoreError("credentials", SAID), 401, "wrong_password"),
        (HTTPException(404), 404, "not_found"),
        (HTTPException(405), 405, "method_not_allowed"),
        (HTTPException(418), 400, "invalid_value"),
        (RequestValidationError([]), 400, "invalid_value"),
        (ValueError("a secret"), 500, "server_error"),
    ],
)
def test_each_problem_has_its_status(problem: Exception, status: int, code: str) -> None:
    error = error_of(problem)
    assert (error.status, error.code) == (status, code)
    assert "secret" not in error.message.line


def test_where_the_database_is_and_what_is_wrong_with_it_is_told_in_the_log_alone(caplog: pytest.LogCaptureFixture) -> None:
    problem = StoreError(
        "unavailable", Bilingual("/srv/data/service.db: the database: no space is left.", "/srv/data/service.db：空间不足。")
    )
    request = Request({"type": "http", "state": {"request_id": "req-1"}})
    with caplog.at_level("WARNING", "imprint.serve"):
        logging.getLogger("imprint.serve").addHandler(caplog.handler)
        answer = asyncio.run(answer_error(request, problem))
        logging.getLogger("imprint.serve").removeHandler(caplog.handler)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "10")
    assert b"/srv" not in bytes(answer.body)
    assert caplog.records[0].fields == {  # type: ignore[attr-defined]
        "problem": "unavailable",
        "reason": "/srv/data/service.db: the database: no space is left.",
        "request_id": "req-1",
    }


def test_all_refusals_have_a_code() -> None:
    assert {*REFUSALS.values(), *STORE_CODES.values()} <= CODES.keys()


def test_all_errors_that_may_pass_say_when_to_try_again_and_no_others_do() -> None:
    passing = {code for code, (status, _) in CODES.items() if status in (429, 503)}
    assert {code for code in CODES if "Retry-After" in ApiError(code, SAID).headers} == passing
    assert error_of(RefusedError("unavailable", SAID, retry_after=0.2)).headers["Retry-After"] == "1"


@pytest.mark.parametrize(
    ("changes", "param", "said"),
    [
        ({"temperature": "1"}, "temperature", "must be a number"),
        ({"temperature": 2.0001}, "temperature", "must be at most 2.0"),
        ({"n": True}, "n", "must be an integer"),
        ({"max_tokens": 16.0}, "max_tokens", "must be an integer"),
        ({"stop": ["a", ""]}, "stop", "must be 1 to 64 characters each"),
        ({"messages": []}, "messages", "must have at least 1 items"),
        ({"messages": [{"role": "king", "content": "x"}]}, "messages[0].role", "must be one of"),
        ({"messages": [{"role": "user"}]}, "messages[0]", "must have content"),
        ({"model": 1}, "model", "must be text"),
    ],
)
def test_a_wrong_field_is_named_with_what_is_allowed(changes: dict[str, Any], param: str, said: str) -> None:
    error = problems({"model": "base", "messages": [{"role": "user", "content": "hi"}]} | changes)
    assert error.param == param
    assert f"{param} {said}" in error.message.english
    assert param in error.message.chinese


def test_an_error_never_repeats_a_large_field() -> None:
    error = problems({"model": "base", "messages": [{"role": "x" * 100_000, "content": 7, "y" * 100_000: 1}] * 50})
    assert len(error.response("r").body) < 8192
    assert b"xxx" not in error.response("r").body
