"""The form of 2023: what THUDM/ChatGLM-6B's api.py answered, and a stream in the same form.

Source: https://github.com/THUDM/ChatGLM-6B/blob/main/api.py: {prompt, history, max_length, top_p, temperature} ->
{response, history, status, time}. As there, `max_length` counts prompt and answer together, and history is pairs.
"""

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from imprint.messages import Bilingual
from imprint.serve.generation.job import Ended, Job, TextDelta
from imprint.serve.store.principal import Principal
from imprint.serve.web.access import LOCAL, GuardedRoute
from imprint.serve.web.answers import AnswerBuffer, AnswerSet, answers_for
from imprint.serve.web.errors import ApiError
from imprint.serve.web.models import usable_models
from imprint.serve.web.openai_bodies import LegacyBody
from imprint.serve.web.openapi import STREAMED
from imprint.serve.web.services import Services, services_of
from imprint.serve.web.sse import EventStream, data_event, watching

LOCAL_OWNER = "(this machine)"
NO_MODEL = Bilingual("There is no model that you may use.", "没有可用的模型。")


def routes() -> list[GuardedRoute]:
    """Both; only where they are asked for."""
    return [
        GuardedRoute("/", answer, LOCAL, "Answer, in the form of ChatGLM-6B's api.py", "POST"),
        GuardedRoute("/stream", stream, LOCAL, "The same as a stream", "POST", responses=STREAMED),
    ]


async def answer(request: Request, body: LegacyBody) -> Response:
    """The whole answer."""
    answers = answers_for(request, request.state.principal)
    await answers.start([await _job(services_of(request), answers.principal, body)])
    async with watching(request.receive, answers.on_disconnect):
        await answers.collect()
    return JSONResponse(_whole_result(body, answers.answers[0]))


async def stream(request: Request, body: LegacyBody) -> Response:
    """The answer so far, again and again; the last event has the history, which may be long, the status 200 and `finish: true`."""
    answers = answers_for(request, request.state.principal)
    await answers.start([await _job(services_of(request), answers.principal, body)])
    return EventStream(_events(request, answers, body), answers.on_disconnect)


async def _events(request: Request, answers: AnswerSet, body: LegacyBody) -> AsyncGenerator[bytes]:
    answer = answers.answers[0]
    async with aclosing(answers.events()) as events:
        async for _, event in events:
            if isinstance(event, TextDelta) and event.text:
                yield data_event({**_result(answer), "finish": False})
            elif isinstance(event, Ended):
                problem = answers.problem(answer)
                last = {**_whole_result(body, answer), "finish": True}
                yield data_event(last if problem is None else problem.body(request.state.request_id))


async def _job(services: Services, principal: Principal | None, body: LegacyBody) -> Job:
    """The job: the tuned model where one is served, as the demo of 2023 had one."""
    models = usable_models(services, principal)
    if not models:
        raise ApiError("model_not_found", NO_MODEL, param="model")
    model = next((model for model in models if model.parent is not None), models[0])
    messages: list[dict[str, object]] = []
    for question, reply in body.history:
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": reply}]
    messages.append({"role": "user", "content": body.prompt})
    owner = LOCAL_OWNER if principal is None else principal.owner
    job = Job(model.id, owner, messages=tuple(messages), temperature=body.temperature, top_p=body.top_p)
    room = body.max_length - await services.backend.count(job)
    if room < 1:
        raise ApiError(
            "context_length_exceeded",
            Bilingual(
                f"The prompt has {body.max_length - room:,} tokens; max_length allows {body.max_length:,} with the answer.",
                f"输入有 {body.max_length - room:,} 个词元；max_length 含回答最多 {body.max_length:,} 个。",
            ),
            param="prompt",
        )
    concurrency = 2 if principal is None else principal.concurrency
    return replace(job, max_new_tokens=room, concurrency=concurrency)


def _result(answer: AnswerBuffer) -> dict[str, Any]:
    return {"response": answer.text, "status": 200, "time": time.strftime("%Y-%m-%d %H:%M:%S")}


def _whole_result(body: LegacyBody, answer: AnswerBuffer) -> dict[str, Any]:
    return {**_result(answer), "history": [*body.history, [body.prompt, answer.text]]}
