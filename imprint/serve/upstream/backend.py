"""The backend whose answers come from other servers: the queue, the fairness between owners and the limits are those of this service."""

import asyncio
import logging
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from imprint.files.reading import read_bounded
from imprint.messages import Bilingual, UserError
from imprint.serve.generation.fair_queue import FairQueue
from imprint.serve.generation.job import (
    STOPPING,
    Ended,
    Generation,
    Job,
    ModelInfo,
    RefusedError,
    Statistics,
    TextDelta,
    Waiting,
    context_exceeded,
    no_such_model,
)
from imprint.serve.generation.waiting import IncomingJobs, Times, moved_up, refuse_if_full
from imprint.serve.upstream.client import Client, Timeouts
from imprint.serve.upstream.faults import FAULTS, FaultError, fault_of_exception
from imprint.serve.upstream.form import Api, answer_body, check_job, estimated_tokens, least_tokens, prompt_body, read_delta
from imprint.serve.upstream.section import UpstreamSection
from imprint.serve.upstream.servers import Server, Servers

KEY_VARIABLE: Final = "IMPRINT_UPSTREAM_KEY"
MAX_KEY_BYTES: Final = 4096
RETRY_SECONDS: Final = 5.0
MAX_EVENTS_A_TOKEN: Final = 8
"""Most events that a token may have, on average over an answer and some more: some servers send single letters."""
MAX_BYTES_A_TOKEN: Final = 512
"""Most bytes of text that a token may have, likewise."""
MAX_WIRE_BYTES_A_TOKEN: Final = 8192
"""Most bytes that a token may take on its way, with all that a server writes around it, and again for each alternative to it."""
MORE_TOKENS: Final = 16
"""Tokens added to that bound, for events that begin, end or say how many tokens were used."""


@dataclass(frozen=True)
class UpstreamLimits:
    """How much at a time."""

    slots: int = 64
    """Most answers of each server at a time."""
    waiting: int = 256
    """Most jobs in the queue."""


class UpstreamAnswer:
    """A job that was taken."""

    def __init__(self, job: Job, max_tokens: int | None, context: int) -> None:
        self.job = job
        self.owner, self.turn, self.gives_way = job.owner, job.turn, job.gives_way
        self.concurrency = max(1, job.concurrency)
        self.max_tokens = max_tokens
        """Most new tokens: what the job asks for, or what fits where a server has counted its prompt; None leaves it to the server."""
        self.context = context
        """Most tokens of prompt and answer in any case."""
        self.position: int | None = None
        self.queued_at = self.started_at = time.monotonic()
        """When it began to wait, and left the queue, in seconds of a monotonic clock."""
        self.server: Server | None = None
        """The server that writes it; None while it waits."""
        self.new_tokens = 0
        self.has_output = False
        """Whether its reader was sent text or tokens."""
        self.tried: set[Server] = set()
        """Servers that did nothing for it."""
        self.error: FaultError | None = None
        """Why the last one did not."""
        self.waits_again = False
        """Whether the others have no room now, so that it goes back into the queue."""
        self.task: asyncio.Task[None] | None = None
        self.generation: Generation
        """Its events."""

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the prompt; 0 before a server was asked."""
        return 0 if self.task is None else self.generation.prompt_tokens

    def end(self, error: FaultError) -> None:
        """End it by a fault of a server."""
        self.end_with(error.fault.message, error)

    def end_with(self, message: Bilingual, error: FaultError | None = None) -> None:
        """End it by an error of our own, or of a server."""
        kind = "unavailable" if error is None else error.fault.kind
        self.generation.push(Ended("error", self.prompt_tokens, self.new_tokens, message, kind))


class UpstreamBackend:
    """Answers jobs by asking servers. See Backend; all of it belongs to the event loop on which it is first used."""

    def __init__(
        self,
        addresses: Sequence[str],
        *,
        key: str | None = None,
        names: Mapping[str, str] | None = None,
        api: Api = "vllm",
        max_length: int | None = None,
        limits: UpstreamLimits | None = None,
        timeouts: Timeouts | None = None,
    ) -> None:
        self._servers = Servers([Server(address, max_length) for address in addresses], names or {})
        self._api: Api = api
        self._key = key
        self._limits = limits or UpstreamLimits()
        self._timeouts = timeouts or Timeouts()
        self._client: Client | None = None
        self._watching: list[asyncio.Task[None]] = []
        self._queue: FairQueue[UpstreamAnswer] = FairQueue()
        self._open: set[UpstreamAnswer] = set()
        """All answers that a server writes."""
        self._incoming = IncomingJobs()
        """Jobs whose tokens are being counted."""
        self._times = Times()
        self._closing = False
        self._prompt_tokens = self._new_tokens = self._cancelled = self._failed = 0

    def models(self) -> Sequence[ModelInfo]:
        """See Backend; also those whose servers do not answer now."""
        return self._servers.models()

    def ready(self) -> bool:
        """See Backend: whether a server answers."""
        self._begin()
        return not self._closing and self._servers.usable > 0

    def statistics(self) -> Statistics:
        """See Backend."""
        usable = self._servers.usable
        return Statistics(
            waiting=len(self._queue),
            running=len(self._open),
            slots=self._limits.slots * usable,
            prompt_tokens=self._prompt_tokens,
            new_tokens=self._new_tokens,
            cancelled=self._cancelled,
            failed=self._failed,
            wait_p95_seconds=self._times.wait_p95(),
            servers=usable,
        )

    async def submit(self, job: Job, *, held: bool = False) -> Generation:
        """See Backend."""
        model = self._find(job)
        self._refuse_if_full(job)
        async with self._incoming.slot(job.turn):
            counted = await self._count(job)
        most = job.max_new_tokens
        if counted is None:
            if (least := least_tokens(job)) >= model.max_length:
                raise context_exceeded(least, model.max_length, about=least)
            most = most and min(most, model.max_length)
        else:
            if counted >= model.max_length:
                raise context_exceeded(counted, model.max_length)
            room = model.max_length - counted
            most = min(most or room, room)
        answer = UpstreamAnswer(job, most, model.max_length)
        tokens = counted or estimated_tokens(job)
        answer.generation = Generation(tokens, lambda: self._cancel(answer), lambda: self._enqueue(answer))
        if not held:
            answer.generation.begin()
        return answer.generation

    def _enqueue(self, answer: UpstreamAnswer) -> None:
        """Put an answer into the queue. Raises RefusedError where no further job of its owner is taken."""
        self._refuse_if_full(answer.job)
        answer.queued_at = time.monotonic()
        self._queue.push(answer)
        self._dispatch()

    async def count(self, job: Job) -> int:
        """See Backend; an estimate where no server counts."""
        self._find(job)
        self._refuse_if_full(job)
        async with self._incoming.slot(job.turn):
            counted = await self._count(job)
        return estimated_tokens(job) if counted is None else counted

    async def close(self, grace: float) -> None:
        """See Backend."""
        self._closing = True
        for answer in self._queue.clear():
            answer.end_with(STOPPING)
        tasks = [answer.task for answer in self._open if answer.task is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=grace)
        for answer in self._open:
            answer.end_with(STOPPING)
        for task in (*tasks, *self._watching):
            task.cancel()
        await asyncio.gather(*tasks, *self._watching, return_exceptions=True)
        if self._client is not None:
            await self._client.close()

    def _begin(self) -> Client:
        """The connections; the first call makes them, and begins to watch the servers."""
        if self._client is None:
            self._client = Client(self._key, self._timeouts)
            if not self._closing:
                self._watching = [asyncio.create_task(server.watch(self._client, self._dispatch)) for server in self._servers.all]
        return self._client

    def _find(self, job: Job) -> ModelInfo:
        """The model of a job that can be passed on. Raises RefusedError."""
        self._begin()
        models = {model.id: model for model in self._servers.models()}
        if job.model not in models:
            if not models:
                raise RefusedError("unavailable", FAULTS["unreachable"].message, retry_after=RETRY_SECONDS)
            raise no_such_model(job.model, models)
        check_job(job, self._api)
        if self._closing:
            raise RefusedError("unavailable", STOPPING, retry_after=RETRY_SECONDS)
        if self._servers.least_loaded(job.model, None) is None:
            raise RefusedError("unavailable", FAULTS["unreachable"].message, retry_after=RETRY_SECONDS)
        return models[job.model]

    def _refuse_if_full(self, job: Job) -> None:
        if self._closing:
            raise RefusedError("unavailable", STOPPING, retry_after=RETRY_SECONDS)
        seconds = self._times.until_free(len(self._queue), self._limits.slots * self._servers.usable)
        refuse_if_full(self._queue, job, self._limits.waiting, incoming=self._incoming, seconds=seconds)

    async def _count(self, job: Job) -> int | None:
        """The tokens of a prompt; None where no server counts them."""
        server = self._servers.least_loaded(job.model, None)
        if server is None or not server.counts_tokens:
            return None
        try:
            return await server.count(self._begin(), prompt_body(job, self._servers.id_of(job.model)))
        except FaultError:
            return None  # the server refuses it again, with its reason, when it shall answer

    def _cancel(self, answer: UpstreamAnswer) -> Ended:
        """End an answer; its last event, as far as its server has counted. The server sees that the connection is closed."""
        self._cancelled += 1
        if not self._queue.remove(answer) and answer.task is not None:
            answer.task.cancel()
        self._dispatch()
        return Ended("cancelled", answer.prompt_tokens, answer.new_tokens)

    def _dispatch(self) -> None:
        """Hand jobs to servers as long as these have room, and send the others their positions."""
        waiting = self._queue.in_order()
        without = {name for name in {answer.job.model for answer in waiting} if self._servers.least_loaded(name, None) is None}
        for answer in waiting:
            if answer.job.model in without or self._servers.least_loaded(answer.job.model, None, answer.tried) is None:
                self._queue.remove(answer)
                self._failed += 1
                answer.end(answer.error or FaultError("unreachable"))
        slots = self._limits.slots * self._servers.usable
        while (next_one := self._queue.take(self._has_room, slots=slots, strict=False)) is not None:
            self._start(next_one)
        for answer, position in moved_up(self._queue):
            answer.generation.push(Waiting(position))

    def _has_room(self, answer: UpstreamAnswer) -> bool:
        return self._with_room(answer) is not None

    def _with_room(self, answer: UpstreamAnswer) -> Server | None:
        """The server that may write an answer now."""
        return self._servers.least_loaded(answer.job.model, self._limits.slots, answer.tried, answer.owner)

    def _start(self, answer: UpstreamAnswer) -> None:
        answer.started_at = time.monotonic()
        self._times.note_wait(answer.started_at - answer.queued_at)
        self._open.add(answer)
        self._move(answer, self._with_room(answer))
        answer.task = asyncio.create_task(self._answer(answer))
        answer.task.add_done_callback(lambda _: self._leave(answer))

    def _move(self, answer: UpstreamAnswer, server: Server | None) -> None:
        """Note which server writes an answer."""
        if answer.server is not None:
            answer.server.running -= 1
        answer.server = server
        if server is not None:
            server.running += 1

    def _leave(self, answer: UpstreamAnswer) -> None:
        """Note that no server writes an answer any more, and see to it that it has ended."""
        self._move(answer, None)
        self._open.discard(answer)
        self._queue.ended(answer)
        if answer.waits_again and not answer.generation.ended:
            self._wait_again(answer)
            return
        self._times.note_answer(time.monotonic() - answer.started_at)
        self._prompt_tokens += answer.generation.prompt_tokens
        self._new_tokens += answer.new_tokens
        if not answer.generation.ended:
            self._failed += 1
            answer.end(FaultError("unexpected"))
        if not self._closing:
            self._dispatch()

    def _wait_again(self, answer: UpstreamAnswer) -> None:
        """Put an answer back into the queue that was begun, and for which no server did anything."""
        answer.waits_again, answer.task = False, None
        answer.queued_at = time.monotonic()
        self._queue.push(answer)
        self._dispatch()

    async def _answer(self, answer: UpstreamAnswer) -> None:
        """Ask the answer's server, and others where that one does nothing, as soon as they have room."""
        try:
            while (server := answer.server) is not None:
                answer.tried.add(server)
                try:
                    answer.generation.push(await self._events(answer, server))
                    server.answered()
                    return
                except Exception as exception:
                    error = fault_of_exception(exception)
                    server.failed(error, self._begin(), answer.owner)
                    if server.rests_for:
                        asyncio.get_running_loop().call_later(server.rests_for, self._dispatch)
                    is_over = answer.has_output or not error.fault.retry_elsewhere
                    if is_over or self._servers.least_loaded(answer.job.model, None, answer.tried) is None:
                        self._failed += 1
                        answer.end(error)
                        return
                    answer.error, other = error, self._with_room(answer)
                    if other is None:
                        answer.waits_again = True
                        return
                    self._move(answer, other)
        except Exception:
            logging.getLogger(__name__).exception("an answer could not be passed on")

    async def _events(self, answer: UpstreamAnswer, server: Server) -> Ended:
        """Pass an answer on as it comes; returns its last event. Raises FaultError."""
        job, generation, model = answer.job, answer.generation, self._servers.id_of(answer.job.model)
        url = f"{server.address}/v1/{'chat/completions' if job.text is None else 'completions'}"
        body = answer_body(job, model, answer.max_tokens, self._api)
        most = (answer.max_tokens or answer.context) + MORE_TOKENS
        most_bytes = MAX_BYTES_A_TOKEN * most * (2 + (job.top_logprobs or 0))
        most_wire_bytes = MAX_WIRE_BYTES_A_TOKEN * most * (1 + (job.top_logprobs or 0))
        reason, size, events, named, unsent = None, 0, 0, 0, 0
        answer.new_tokens = 0
        async with aclosing(self._begin().stream(url, body, most_wire_bytes)) as stream:
            async for payload in stream:
                delta = read_delta(payload, job, model)
                events, size, named = events + 1, size + delta.size, named + len(delta.tokens)
                is_overcounted = max(delta.new_tokens or 0, named) > most
                if (delta.prompt_tokens or 0) > answer.context or (is_overcounted and answer.max_tokens is None):
                    raise FaultError("context")  # the server takes more than it is given here
                if is_overcounted or events > MAX_EVENTS_A_TOKEN * most or size > most_bytes:
                    raise FaultError("oversized")
                reason = delta.reason or reason
                generation.prompt_tokens = delta.prompt_tokens or generation.prompt_tokens
                new = delta.tokens_after(answer.new_tokens)
                if delta.new_tokens is None and not delta.tokens:  # an estimate counts no more than may be written
                    new = min(new, max(0, most - MORE_TOKENS - answer.new_tokens))
                answer.new_tokens = answer.new_tokens + new if delta.new_tokens is None else delta.new_tokens
                unsent += new - len(delta.tokens)
                if delta.text or delta.tokens:
                    answer.has_output = True
                    generation.push(TextDelta(delta.text, delta.tokens, unsent))
                    unsent = 0
        if reason is None:
            raise FaultError("unfinished")
        return Ended(reason, generation.prompt_tokens, answer.new_tokens)


def open_upstream(section: UpstreamSection, limits: UpstreamLimits, max_length: int | None) -> UpstreamBackend:
    """The backend over the servers of a section. Raises UserError for a key that is none."""
    return UpstreamBackend(
        section.upstream,
        key=read_key(section.upstream_key_file),
        names=section.upstream_models,
        api=section.upstream_api,
        max_length=max_length,
        limits=limits,
    )


def read_key(path: str | None) -> str | None:
    """The key of the servers, from a file or the environment; None where there is none. Raises UserError, which does not quote it."""
    source = KEY_VARIABLE if path is None else f"upstream_key_file={path}"
    if path is None:
        key = os.environ.get(KEY_VARIABLE, "")
        if not key:
            return None
    else:
        try:
            key = read_bounded(Path(path), MAX_KEY_BYTES).decode("ascii", "replace").strip()
        except OSError as error:
            raise UserError(
                Bilingual(f"{source}: cannot be read ({error.strerror}).", f"{source}：无法读取（{error.strerror}）。")
            ) from error
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise UserError(
            Bilingual(
                f"{source}: must hold a key alone, of letters, digits and signs, without spaces.",
                f"{source}：须只含一个密钥，由字母、数字、符号组成，不含空格。",
            )
        )
    return key
