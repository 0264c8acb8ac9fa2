"""The routes of answers that are being written: begin one of a single turn, look at one, end one."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Annotated, Any

from fastapi import Header
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from imprint.serve.generation.job import Job, RefusedError
from imprint.serve.web.access import SESSION, GuardedRoute
from imprint.serve.web.answers import TEMPERATURE, TOP_P, AnswerSet, answers_for
from imprint.serve.web.background_answers import BackgroundAnswer, BackgroundAnswers, Viewer, check_viewers
from imprint.serve.web.models import find_model
from imprint.serve.web.openapi import STREAMED
from imprint.serve.web.page_bodies import Sampling, SingleBody
from imprint.serve.web.services import address_of, in_reading_thread, principal_of, sender_of, services_of
from imprint.serve.web.sse import EventStream

GUEST_SHARE = 0.5
"""Share of the queue that all guests together may fill."""
SIDE_BY_SIDE = 2
"""Answers of a comparison that are written at the same time, whatever the account may have."""


def routes() -> list[GuardedRoute]:
    """All of them."""
    return [
        GuardedRoute("/api/generations", ask_once, SESSION, "Ask a single question, of which nothing is kept", "POST"),
        GuardedRoute(
            "/api/generations/{generation_id}/events",
            watch,
            SESSION,
            "The answer as it is written, after the event that Last-Event-ID names",
            responses=STREAMED,
        ),
        GuardedRoute("/api/generations/{generation_id}/cancel", cancel, SESSION, "End the answer where it is", "POST"),
    ]


def background_answers_of(request: Request) -> BackgroundAnswers:
    """All background answers of the application."""
    answers = request.app.state.background_answers
    assert isinstance(answers, BackgroundAnswers)
    return answers


def job_for(request: Request, body: Sampling, model: str, messages: tuple[Mapping[str, object], ...]) -> Job:
    """The job for an answer of the page. The answers of two models are written side by side, a guest's too."""
    principal = principal_of(request)
    return Job(
        find_model(services_of(request), principal, model).id,
        principal.owner,
        messages=messages,
        concurrency=max(principal.concurrency, min(len(set(body.models)), SIDE_BY_SIDE)),
        sender=sender_of(principal, address_of(request)),
        queue_share=GUEST_SHARE if principal.role == "guest" else 1.0,
        max_new_tokens=body.max_tokens,
        temperature=TEMPERATURE if body.temperature is None else body.temperature,
        top_p=TOP_P if body.top_p is None else body.top_p,
    )


async def prepare_fitting(answers: AnswerSet, job: Job, dropped: int = 0) -> int:
    """Prepare a job without as many of its oldest messages as it takes to fit into the context; how many were left out.

    `dropped`: so many at least. Raises what `AnswerSet.prepare` does where even the last message does not fit.
    """
    messages, step = job.messages or (), 2
    while True:
        try:
            await answers.prepare([replace(job, messages=messages[dropped:])])
        except RefusedError as refusal:
            if refusal.kind != "context_length_exceeded" or dropped >= len(messages) - 1:
                raise
            dropped = _next_question(messages, max(dropped + step, _first_fitting(messages, dropped, refusal.fitting)))
            step *= 2
        else:
            return dropped


def _next_question(messages: Sequence[Mapping[str, object]], first: int) -> int:
    """The first question from a place on, as an answer begins no conversation; at least the last message."""
    return next((place for place in range(first, len(messages) - 1) if messages[place]["role"] == "user"), len(messages) - 1)


def _first_fitting(messages: Sequence[Mapping[str, object]], first: int, share: float | None) -> int:
    """The message from which on the conversation has about this share of the characters that it has from `first` on."""
    sizes = [len(str(message["content"])) for message in messages]
    excess = sum(sizes[first:]) * (1.0 - (1.0 if share is None else share))
    while excess > 0 and first < len(messages):
        excess -= sizes[first]
        first += 1
    return first


@asynccontextmanager
async def ending_all_where_one_fails() -> AsyncIterator[list[AnswerSet]]:
    """A list for the answers of a request; where the block raises, none of them goes on, and none is counted."""
    prepared: list[AnswerSet] = []
    try:
        yield prepared
    except BaseException:
        for answers in prepared:
            await answers.end(begun=False)
        raise


async def ask_once(request: Request, body: SingleBody) -> Response:
    """Begin an answer of each model; nothing of them is stored."""
    principal = principal_of(request)
    begun: list[BackgroundAnswer] = []
    async with ending_all_where_one_fails() as prepared:
        for model in body.models:
            prepared.append(answers := answers_for(request, principal))
            await answers.prepare([job_for(request, body, model, ({"role": "user", "content": body.text},))])
            begun.append(BackgroundAnswer(answers, model, None, None))
        for answers in prepared:
            answers.begin()
    for answer in begun:
        background_answers_of(request).start(answer)
    return JSONResponse({"answers": [{"generation": answer.id, "model": answer.model} for answer in begun]}, status_code=201)


async def watch(request: Request, generation_id: str, last_event_id: Annotated[str | None, Header(max_length=20)] = None) -> Response:
    """Events `queue`, `text` and, as the last, `end`; the id of an event is how many characters there are with it."""
    answer = background_answers_of(request).find(principal_of(request), generation_id)
    text: Any = last_event_id or ""
    after = int(text) if text.isascii() and text.isdigit() else 0
    services, viewer = services_of(request), Viewer(answer, principal_of(request))

    def leave() -> None:
        services.live.discard(viewer)
        viewer.leave()

    check_viewers(services.live, principal_of(request).owner)
    services.live.add(viewer)
    try:
        may_go_on = partial(services.may_go_on, principal_of(request).needing(()))
        if not await in_reading_thread(services, principal_of(request), address_of(request), may_go_on):
            viewer.cancel()
    except BaseException:
        leave()
        raise
    return EventStream(answer.events(min(after, len(answer.text)), viewer), leave)


async def cancel(request: Request, generation_id: str) -> Response:
    """What there is of it is kept."""
    background_answers_of(request).find(principal_of(request), generation_id).cancel()
    return JSONResponse({"cancelled": True})
