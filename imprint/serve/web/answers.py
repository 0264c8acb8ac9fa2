"""From a request to answers: rights and quota, the jobs, their events, and what becomes of both when the client leaves."""

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Coroutine, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

from starlette.requests import Request

from imprint.messages import Bilingual
from imprint.serve.generation.job import Ended, Event, Generation, Job, ModelInfo, RefusedError, TextDelta, TokenPiece
from imprint.serve.store.errors import StoreError
from imprint.serve.store.principal import Principal
from imprint.serve.store.quota import Usage
from imprint.serve.web.errors import REFUSALS, ApiError, log_store
from imprint.serve.web.services import ENDED, ENDING, Services, address_of, sender_of, services_of

T = TypeVar("T")
TEMPERATURE = 0.95
TOP_P = 0.7
"""The sampling of `imprint chat`, where a request says none."""
SHARED_SECONDS = 0.02
"""Tokens that come within this time share an event."""
TOO_LONG = Bilingual(
    "Very many of your prompts were too long for the model; wait a moment, and shorten them.",
    "你的提示大多过长，超出模型上下文；请稍候，并缩短提示。",
)
TOO_LONG_SECONDS = 10.0
CANCELLED = Bilingual("The answer was cancelled.", "回答已被取消。")


@dataclass
class AnswerBuffer:
    """What has come so far of one answer."""

    generation: Generation
    """Its events."""
    text: str = ""
    """What has come so far."""
    keeps_tokens: bool = False
    """Whether the tokens are asked for, beside the text."""
    kept_tokens: list[TokenPiece] = field(default_factory=list)
    """The tokens so far, if they are."""
    new_tokens: int = 0
    """How many came so far."""
    ended: Ended | None = None
    """How it ended."""

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the prompt; 0 where the answer has ended before it was run."""
        return self.generation.prompt_tokens if self.ended is None else self.ended.prompt_tokens

    @property
    def tokens(self) -> int:
        """Tokens of prompt and answer so far."""
        return self.prompt_tokens + (self.new_tokens if self.ended is None else self.ended.new_tokens)

    def take(self, event: Event) -> None:
        """Add an event."""
        if isinstance(event, TextDelta):
            self.text += event.text
            self.new_tokens += event.new_tokens
            if self.keeps_tokens:
                self.kept_tokens += event.tokens
        elif isinstance(event, Ended):
            self.ended = event


class AnswerSet:
    """The answers of one request: started together, cancelled together, and counted against the quota at their end."""

    def __init__(self, services: Services, principal: Principal | None, address: str, *, least_tokens: int = 0) -> None:
        self.services = services
        self.principal = principal
        self.address = address
        self.least_tokens = least_tokens
        """As how many tokens they count once they have begun, whatever becomes of them: for what is kept of them."""
        self.answers: list[AnswerBuffer] = []
        self.disconnected = False
        """Whether the client has left before the end."""
        self.keeps_tokens = False
        """Whether the answers keep their tokens, beside their text."""
        self._started_at = time.monotonic()
        self._has_text = False
        self._reservation: Any = None

    async def start(self, jobs: Sequence[Job]) -> None:
        """Reserve what the jobs may take of the quota, and let them begin. Raises ApiError and RefusedError, and then none goes on."""
        await self.prepare(jobs)
        try:
            self.begin()
        except BaseException:
            await self.end(begun=False)
            raise

    def begin(self) -> None:
        """Let the models work for what was prepared. Where this raises ApiError or RefusedError, call `end`: some may have begun."""
        if self not in self.services.live:
            raise ApiError("invalid_session", ENDED)
        for answer in self.answers:
            answer.generation.begin()

    async def prepare(self, jobs: Sequence[Job]) -> None:
        """Reserve what the jobs may take of the quota; no model works for them yet. Raises ApiError and RefusedError, and none is left."""
        self.services.check_open()
        if self.principal is not None:
            self.principal = self.principal.needing(job.model for job in jobs)
        self.services.live.add(self)  # before its rights are asked for once more, so that they cannot end unnoticed
        models = {model.id: model for model in self.services.backend.models()}
        tokens, held = 0, list[Generation]()
        try:
            for job in await self._within_quota(jobs):
                held.append(generation := await self._read(self.services.backend.submit(job, held=True)))
                tokens += generation.prompt_tokens + _most_new_tokens(job, models[job.model], generation.prompt_tokens)
            if self.principal is not None:
                reserve = partial(self._reserve, self.principal, max(tokens, self.least_tokens))
                self._reservation = await self.services.reservations.call(reserve)
            if self not in self.services.live:
                raise ApiError("invalid_session", ENDED)
            for generation in held:
                generation.spacing = SHARED_SECONDS
                self.answers.append(AnswerBuffer(generation, keeps_tokens=self.keeps_tokens))
        except BaseException:
            for generation in held:
                generation.cancel()
            await self.end(begun=False)
            raise

    async def _read(self, reading: Coroutine[Any, Any, T]) -> T:
        """What the backend makes of a job's prompt: its length, or the job, held until it is paid for.

        Raises ApiError where many prompts of this visitor did not fit of late: each of them takes time and costs no token.
        """
        sender = sender_of(self.principal, self.address)
        if self.services.too_long.count(sender) >= self.services.too_long.most:
            reading.close()
            raise ApiError("rate_limited", TOO_LONG, retry_after=TOO_LONG_SECONDS)
        try:
            return await reading
        except RefusedError as refusal:
            if refusal.kind == "context_length_exceeded":
                self.services.too_long.take(sender)
            raise

    def _reserve(self, principal: Principal, tokens: int) -> Any:
        """Set the tokens aside, in a thread. Raises ApiError where the right to them has ended since it was checked."""
        self.services.refuse_ended(principal)
        return self.services.store.quota.reserve(principal, self.address, tokens)

    async def _within_quota(self, jobs: Sequence[Job]) -> Sequence[Job]:
        """The jobs, where they say no length with one that what is left of the day's tokens allows: the answer then ends by "length"."""
        fixed = [job.max_new_tokens is not None and not job.may_be_shorter for job in jobs]
        if self.principal is None or all(fixed):
            return jobs
        remaining = (await self._quota_usage(self.principal)).remaining
        longest = max((model.max_length for model in self.services.backend.models()), default=0)
        if remaining >= longest * len(jobs):
            return jobs
        room = remaining // len(jobs) - await self._read(self.services.backend.count(jobs[0]))
        return [
            job if is_fixed else replace(job, max_new_tokens=max(1, min(room, job.max_new_tokens or room)))
            for job, is_fixed in zip(jobs, fixed, strict=True)
        ]

    async def _quota_usage(self, principal: Principal) -> Usage:
        """What is used of the day's tokens, and what remains."""
        return await self.services.reads.call(partial(self.services.store.quota.usage, principal, self.address))

    def on_disconnect(self) -> None:
        """The client has left: nobody waits for the answers any more."""
        if not self.disconnected and any(not answer.generation.ended for answer in self.answers):
            self.services.metrics.disconnects.inc()
        self.disconnected = True
        self.cancel()

    def cancel(self) -> None:
        """End all answers where they are."""
        self.services.live.discard(self)
        for answer in self.answers:
            answer.generation.cancel()

    async def events(self) -> AsyncGenerator[tuple[int, Event]]:
        """The events of all answers as they come, each with the number of its answer; the last of each is `Ended`."""
        try:
            if len(self.answers) == 1:
                async for event in self.answers[0].generation:
                    yield 0, self._taken(0, event)
            else:
                async with aclosing(_merged([answer.generation for answer in self.answers])) as merged:
                    async for number, event in merged:
                        yield number, self._taken(number, event)
        finally:
            await self.end()

    async def collect(self) -> list[AnswerBuffer]:
        """All answers, when the last has ended. Raises ApiError if one has failed."""
        async with aclosing(self.events()) as events:
            async for _ in events:
                pass
        for answer in self.answers:
            if (problem := self.problem(answer)) is not None:
                raise problem
        return self.answers

    def problem(self, answer: AnswerBuffer) -> ApiError | None:
        """Why an answer is not whole, if it is not."""
        ended = answer.ended
        assert ended is not None
        if ended.reason == "error":
            if ended.kind == "unavailable" and self.services.draining:
                return self._shutting_down()
            code = REFUSALS.get(ended.kind or "", "server_error")
            return ApiError(code, ended.error or CANCELLED)
        if ended.reason == "cancelled" and not self.disconnected:
            return self._shutting_down() if self.services.draining else None
        return None

    def _shutting_down(self) -> ApiError:
        return ApiError("shutting_down", ENDING, retry_after=self.services.settings.grace)

    async def limit_headers(self) -> dict[str, str]:
        """Headers that tell the tokens of a day: most, what is left now, and after how many seconds a new day begins."""
        if self.principal is None:
            return {}
        if self._reservation is not None:
            usage = self._reservation.usage
        else:
            usage = await self._quota_usage(self.principal)
        return {
            "X-RateLimit-Limit-Tokens": str(usage.limit),
            "X-RateLimit-Remaining-Tokens": str(usage.remaining),
            "X-RateLimit-Reset-Tokens": f"{max(0, math.ceil(usage.resets_at - time.time()))}s",
        }

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the prompt, which all answers share."""
        return max(answer.prompt_tokens for answer in self.answers)

    @property
    def new_tokens(self) -> int:
        """Tokens of all answers."""
        return sum(answer.ended.new_tokens for answer in self.answers if answer.ended is not None)

    def usage(self) -> dict[str, int]:
        """The tokens, as OpenAI counts them."""
        new = self.new_tokens
        return {"prompt_tokens": self.prompt_tokens, "completion_tokens": new, "total_tokens": self.prompt_tokens + new}

    def _taken(self, number: int, event: Event) -> Event:
        answer = self.answers[number]
        answer.take(event)
        if isinstance(event, TextDelta) and not self._has_text:
            self._has_text = True
            self.services.metrics.first_token_seconds.observe(time.monotonic() - self._started_at)
        if isinstance(event, Ended) and answer.generation.seconds_a_token is not None:
            self.services.metrics.token_seconds.observe(answer.generation.seconds_a_token)
        return event

    async def end(self, *, begun: bool = True) -> None:
        """End all answers where they are, and count what they took: nothing, where not all have `begun`.

        A disk that cannot say it spoils no answer: it is settled later.
        """
        self.cancel()
        if self._reservation is None:
            return
        reservation, self._reservation = self._reservation, None
        for answer in self.answers:
            async for event in answer.generation:  # the last event is there already: all have ended or been cancelled
                answer.take(event)
        tokens = max(self.least_tokens, sum(answer.tokens for answer in self.answers)) if begun else 0
        try:
            await self.services.settlements.call(partial(self.services.store.quota.settle, reservation, tokens))
        except StoreError as error:
            log_store(error)
            self.services.unsettled.append((reservation, tokens))


def _most_new_tokens(job: Job, model: ModelInfo, prompt_tokens: int) -> int:
    """Most tokens that an answer may have. Where prompts are estimated, what is asked for may fit though the estimate leaves no room."""
    room = max(0, model.max_length - prompt_tokens)
    if job.max_new_tokens is None:
        return room
    return min(job.max_new_tokens, room if model.counts_tokens else model.max_length)


async def _merged(generations: Sequence[Generation]) -> AsyncGenerator[tuple[int, Event]]:
    events: asyncio.Queue[tuple[int, Event]] = asyncio.Queue(maxsize=1)

    async def read(number: int) -> None:
        async for event in generations[number]:
            await events.put((number, event))

    tasks = [asyncio.create_task(read(number)) for number in range(len(generations))]
    waiting = len(tasks)
    try:
        while waiting:
            number, event = await events.get()
            waiting -= isinstance(event, Ended)
            yield number, event
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def answers_for(request: Request, principal: Principal | None, *, least_tokens: int = 0) -> AnswerSet:
    """An empty set for a request."""
    return AnswerSet(services_of(request), principal, address_of(request), least_tokens=least_tokens)
