"""The routes of OpenAI's API: models, chat completions, completions, and a count of tokens."""

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from imprint.messages import Bilingual
from imprint.serve.generation.job import Job, ModelInfo
from imprint.serve.store.principal import Principal
from imprint.serve.web.access import KEY, GuardedRoute
from imprint.serve.web.answers import TEMPERATURE, TOP_P, answers_for
from imprint.serve.web.errors import ApiError
from imprint.serve.web.models import describe_model, find_model, usable_models
from imprint.serve.web.openai_bodies import AnswerBody, ChatBody, CompletionBody, TokenizeBody
from imprint.serve.web.openai_form import AnswerForm, answer_request
from imprint.serve.web.openapi import STREAMED
from imprint.serve.web.services import principal_of, services_of
from imprint.serve.web.tools import as_messages, tool_use

MAX_LOGPROBS = 200_000
"""Log-probabilities of the tokens and alternatives of all answers of a request, each of which takes some 300 bytes until it is sent."""
NO_COUNT = Bilingual("The server behind this model counts no tokens.", "该模型的后端服务器不支持统计词元数。")


def routes() -> list[GuardedRoute]:
    """All of them."""
    return [
        GuardedRoute("/v1/models", list_models, KEY, "List the models"),
        GuardedRoute("/v1/models/{model:path}", show_model, KEY, "One model"),
        GuardedRoute("/v1/chat/completions", chat_completions, KEY, "Answer a conversation", "POST", responses=STREAMED),
        GuardedRoute("/v1/completions", completions, KEY, "Continue a text", "POST", responses=STREAMED),
        GuardedRoute("/v1/tokenize", tokenize, KEY, "Count the tokens of a prompt", "POST"),
    ]


async def list_models(request: Request) -> Response:
    """The models that this key may use: the base and the runs on it."""
    models = usable_models(services_of(request), principal_of(request))
    return JSONResponse({"object": "list", "data": [describe_model(model) for model in models]})


async def show_model(request: Request, model: str) -> Response:
    """One of them."""
    return JSONResponse(describe_model(find_model(services_of(request), principal_of(request), model)))


async def chat_completions(request: Request, body: ChatBody) -> Response:
    """Answer a conversation, whole or as a stream. Unknown fields are ignored; those that would change the answer are refused by name."""
    principal = principal_of(request)
    model = find_model(services_of(request), principal, body.model)
    tools = tool_use(body, model)
    messages = as_messages(body.messages, body.tools or ())
    top = (body.top_logprobs or 0) if body.logprobs else None
    length = _length(body, model, body.length, top)
    jobs = [
        _job(body, principal, number, length=length, top=top, may_be_shorter=body.length is None, messages=messages)
        for number in range(body.answers)
    ]
    form = AnswerForm("chat", model.id, logprobs=bool(body.logprobs), usage=_usage(body), queue=body.queue_events, tools=tools)
    return await answer_request(request, answers_for(request, principal), jobs, form, stream=bool(body.stream))


async def completions(request: Request, body: CompletionBody) -> Response:
    """Continue a text without a chat template, whole or as a stream. No text becomes a special token."""
    principal = principal_of(request)
    model = find_model(services_of(request), principal, body.model)
    length = _length(body, model, body.max_tokens or 16, body.logprobs)
    jobs = [_job(body, principal, number, length=length, top=body.logprobs, text=body.text) for number in range(body.answers)]
    form = AnswerForm("text", model.id, logprobs=body.logprobs is not None, usage=_usage(body), queue=body.queue_events)
    return await answer_request(request, answers_for(request, principal), jobs, form, stream=bool(body.stream))


async def tokenize(request: Request, body: TokenizeBody) -> Response:
    """How many tokens a conversation, with its template, or a text has."""
    services, principal = services_of(request), principal_of(request)
    model = find_model(services, principal, body.model)
    if not model.counts_tokens:
        raise ApiError("unsupported_value", NO_COUNT, param="model")
    messages = None if body.messages is None else as_messages(body.messages)
    count = await services.backend.count(Job(model.id, principal.owner, messages=messages, text=body.prompt))
    return JSONResponse({"count": count, "max_model_len": model.max_length})


def _usage(body: AnswerBody) -> bool:
    return body.stream_options is not None and body.stream_options.include_usage


def _length(body: AnswerBody, model: ModelInfo, length: int | None, top: int | None) -> int | None:
    """Most new tokens of an answer: without a length, with which there might be too many log-probabilities, as many as have room.

    Raises ApiError for a length with which there would be too many.
    """
    most = model.max_length if top is None else MAX_LOGPROBS // (body.answers * (1 + top))
    if min(length or most, model.max_length) <= most:
        return length or (None if model.max_length <= most else most)
    raise ApiError(
        "invalid_value",
        Bilingual(
            f"max_tokens must be at most {most:,} with {body.answers} answers and {top} alternatives for each token: a request may have "
            f"{MAX_LOGPROBS:,} log-probabilities. Ask for fewer answers (n), tokens or alternatives (top_logprobs).",
            f"{body.answers} 个回答、每个词元 {top} 个候选时，max_tokens 最大为 {most:,}：一次请求最多 {MAX_LOGPROBS:,} 个对数概率。"
            "请减少回答数（n）、词元数或候选数（top_logprobs）。",
        ),
        param="max_tokens",
    )


def _job(
    body: AnswerBody,
    principal: Principal,
    number: int,
    *,
    length: int | None,
    top: int | None,
    may_be_shorter: bool = False,
    messages: tuple[Any, ...] | None = None,
    text: str | None = None,
) -> Job:
    """The job for one of a request's answers; a seed gives each of them another sample."""
    return Job(
        body.model,
        principal.owner,
        messages=messages,
        text=text,
        concurrency=principal.concurrency,
        max_new_tokens=length,
        may_be_shorter=may_be_shorter,
        temperature=TEMPERATURE if body.temperature is None else body.temperature,
        top_p=TOP_P if body.top_p is None else body.top_p,
        top_k=max(body.top_k or 0, 0),
        repetition_penalty=1.0 if body.repetition_penalty is None else body.repetition_penalty,
        seed=None if body.seed is None else (body.seed + number) % 2**32,
        stop=body.stops,
        top_logprobs=top,
    )
