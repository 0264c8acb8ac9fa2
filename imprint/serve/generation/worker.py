"""The backend that owns a model: one thread drives the decoder; requests join and leave between its steps.

The event loop and the thread share the queue, the cancelled answers and some numbers, under one lock that nobody holds during a step.
"""

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace

from imprint.inference.decoder import DEFAULT_SLOTS, Decoder
from imprint.inference.request import Request, Token
from imprint.messages import Bilingual, UserError
from imprint.serve.generation.answer import MountedModel, WorkerAnswer, count_of, request_for
from imprint.serve.generation.cache_room import has_room, make_room
from imprint.serve.generation.fair_queue import FairQueue
from imprint.serve.generation.gathering import Gathering
from imprint.serve.generation.job import (
    STOPPING,
    Ended,
    Event,
    Generation,
    Job,
    ModelInfo,
    RefusedError,
    Statistics,
    Waiting,
    no_such_model,
)
from imprint.serve.generation.waiting import IncomingJobs, Times, moved_up, refuse_if_full
from imprint.serve.generation.warm_up import needs_warm_up, probe_requests, warm_up_requests

FAILED = Bilingual(
    "the model failed while it wrote this answer, and is started again. Send the request again.",
    "生成回答时模型出错，正在重新启动：请再发一次请求。",
)
BROKEN = Bilingual(
    "the model fails again and again, so no request is taken. Tell whoever runs this service; its log says why.",
    "模型反复出错，暂不接受请求：请告知管理员，日志中有原因。",
)
HANGS = Bilingual(
    "the model has not moved for a long time, so this request ends here. Send it again later; if it stays so, tell whoever runs this "
    "service.",
    "模型长时间没有响应，此请求到此结束：请稍后再发；若仍如此，请告知管理员。",
)
MAX_FAILURES = 4
"""An answer that was in the decoder when so many steps failed, none of them by the fault of another, ends."""
PROBES = 3
"""After so many failures in a row, what waits is ended."""
LONGEST_PAUSE = 30.0
"""Most seconds between two tries to start again."""
STOP_SECONDS = 5.0
"""How long `close` waits for the step that runs."""


@dataclass(frozen=True)
class Limits:
    """How much at a time."""

    slots: int = DEFAULT_SLOTS
    """Most answers at a time."""
    kv_tokens: int = 2**17
    """Most tokens that the key-value cache has room for."""
    prefill_chunk_tokens: int = 512
    """Most tokens of prompts in one step: longer prompts are run in parts, so that the other answers go on."""
    waiting: int = 256
    """Most jobs in the queue."""
    hang_seconds: float = 120.0
    """A step that takes longer counts as hanging."""


@dataclass
class Counts:
    """Numbers that both sides see; under the lock."""

    kv_tokens: int = 0
    prompt_tokens: int = 0
    new_tokens: int = 0
    cancelled: int = 0
    failed: int = 0
    restarts: int = 0
    last_sign: float = field(default_factory=time.monotonic)
    """When the thread was last seen at work, in seconds of a monotonic clock."""
    times: Times = field(default_factory=Times)
    """How long answers take, and wait."""


class Worker:
    """Answers jobs with the models of one base. See Backend; `close` must be called."""

    def __init__(self, mounted: Sequence[MountedModel], limits: Limits | None = None) -> None:
        self._mounted = {one.info.id: one for one in mounted}
        self._model = mounted[0].model
        self._limits = limits or Limits()
        self._lock = threading.Condition()
        self._queue: FairQueue[WorkerAnswer] = FairQueue()
        self._cancelled: list[WorkerAnswer] = []
        self._incoming = IncomingJobs()
        """Jobs whose prompt is being encoded."""
        self._closing = self._stopping = False
        """Whether no job is taken any more; whether what runs must end."""
        self._starting, self._broken, self._hangs = needs_warm_up(self._model.network), False, False
        """Whether the decoder is being made; whether that has failed several times; whether a step takes too long."""
        self._counts = Counts()
        self._open: set[WorkerAnswer] = set()
        """All answers that have not ended; only the event loop uses it."""
        self._running: dict[int, WorkerAnswer] = {}
        """The answers in the decoder by request id; only the thread changes it."""
        self._gathering = Gathering()
        """Under the lock."""
        self._retries: deque[WorkerAnswer] = deque()
        """Answers that were in the decoder when a step failed: they start again before all that wait; only the thread changes it."""
        self._is_full = False
        """Whether the next answer waits because the cache has no room for it; only the thread uses it."""
        self._suspect_under_test: WorkerAnswer | None = None
        """The retried answer that would be blamed if a step failed now; only the thread uses it."""
        self._decoder = self._new_decoder()
        self._encoder = ThreadPoolExecutor(1, "imprint-encode")
        self._thread = threading.Thread(target=self._run, name="imprint-decode", daemon=True)
        self._thread.start()
        self._closed = threading.Event()
        self._watch = threading.Thread(target=self._watch_steps, name="imprint-watch", daemon=True)
        self._watch.start()

    def models(self) -> Sequence[ModelInfo]:
        """See Backend."""
        return [one.info for one in self._mounted.values()]

    def ready(self) -> bool:
        """See Backend."""
        unavailable = self._closing or self._starting or self._broken or self._hangs or not self._thread.is_alive()
        return not unavailable and self.statistics().stalled_seconds < self._limits.hang_seconds

    def statistics(self) -> Statistics:
        """See Backend."""
        with self._lock:
            waiting, counts = len(self._queue), self._counts
            running = len(self._running) + len(self._retries)
            return Statistics(
                waiting=waiting,
                running=running,
                slots=self._limits.slots,
                kv_tokens=counts.kv_tokens,
                max_kv_tokens=self._limits.kv_tokens,
                prompt_tokens=counts.prompt_tokens,
                new_tokens=counts.new_tokens,
                cancelled=counts.cancelled,
                failed=counts.failed,
                restarts=counts.restarts,
                stalled_seconds=time.monotonic() - counts.last_sign if waiting or running else 0.0,
                wait_p95_seconds=counts.times.wait_p95(),
                full_share=counts.times.full_share(),
            )

    async def submit(self, job: Job, *, held: bool = False) -> Generation:
        """See Backend."""
        mounted = self._find(job.model)
        loop = asyncio.get_running_loop()
        with self._lock:
            self._refuse_if_full(job)
            expected = self._gathering.expect()
        try:
            async with self._incoming.slot(job.turn), self._incoming.turn_to_encode(job):
                request = await loop.run_in_executor(self._encoder, request_for, job, mounted)
        except BaseException:
            self._forget(expected)
            raise
        job = replace(job, messages=None, text=None)  # which may be a million characters, and are not needed again
        generation = Generation(
            len(request.ids), lambda: self._cancel(answer), lambda: self._begin(job, answer, expected), lambda: self._forget(expected)
        )
        answer = WorkerAnswer(job, mounted, request, generation, loop)
        if not held:
            generation.begin()
        return generation

    def _begin(self, job: Job, answer: WorkerAnswer, expected: object) -> None:
        """Put an answer into the queue. Raises RefusedError where no further job of its owner is taken."""
        with self._lock:
            self._gathering.forget(expected)
            self._refuse_if_full(job)
            answer.queued_at = time.monotonic()
            if not len(self._queue):
                self._gathering.begin()
            if not (len(self._queue) or self._running or self._retries):
                self._counts.last_sign = time.monotonic()
            self._queue.push(answer)
            self._open.add(answer)
            self._lock.notify()

    def _forget(self, expected: object) -> None:
        """Expect a job no longer that will not be queued."""
        with self._lock:
            self._gathering.forget(expected)

    async def count(self, job: Job) -> int:
        """See Backend."""
        mounted = self._find(job.model)
        with self._lock:
            self._refuse_if_full(job)
        async with self._incoming.slot(job.turn), self._incoming.turn_to_encode(job):
            return await asyncio.get_running_loop().run_in_executor(self._encoder, count_of, job, mounted)

    async def close(self, grace: float) -> None:
        """See Backend."""
        loop = asyncio.get_running_loop()
        with self._lock:
            self._closing = True
            self._lock.notify()
            waiting = self._queue.clear()
        _push([(answer, answer.ended_by(STOPPING, "unavailable")) for answer in waiting], self._open)
        await loop.run_in_executor(None, self._thread.join, grace)
        with self._lock:
            self._stopping = True
            self._lock.notify()
        await loop.run_in_executor(None, self._thread.join, STOP_SECONDS)
        self._closed.set()
        self._watch.join()
        self._encoder.shutdown(wait=False)
        await asyncio.sleep(0)  # what the thread sent last
        _push([(answer, answer.ended_by(STOPPING, "unavailable")) for answer in [*self._open]], self._open)

    def _find(self, name: str) -> MountedModel:
        """The model of this name. Raises RefusedError where there is none."""
        mounted = self._mounted.get(name)
        if mounted is None:
            raise no_such_model(name, self._mounted)
        return mounted

    def _refuse_if_full(self, job: Job) -> None:
        """Raise RefusedError where no further job of its owner is taken."""
        if self._closing or self._broken:
            raise RefusedError("unavailable", STOPPING if self._closing else BROKEN, retry_after=LONGEST_PAUSE)
        if self._hangs:
            raise RefusedError("unavailable", HANGS, retry_after=LONGEST_PAUSE)
        seconds = self._counts.times.until_free(len(self._queue), self._limits.slots)
        refuse_if_full(self._queue, job, self._limits.waiting, incoming=self._incoming, seconds=seconds)

    def _cancel(self, answer: WorkerAnswer) -> Ended:
        """End an answer, on the event loop; its last event, which tells what was computed by now."""
        self._open.discard(answer)
        with self._lock:
            self._counts.cancelled += 1
            if has_run := not self._queue.remove(answer):
                self._cancelled.append(answer)
            self._lock.notify()
            return answer.cancelled(has_run=has_run)

    def _watch_steps(self) -> None:
        """In a thread of its own: where a step hangs, end all answers, and those that come, until it comes back."""
        last_sign = 0.0
        while not self._closed.wait(min(self._limits.hang_seconds / 4, 1.0)):
            with self._lock:
                seen, last_sign = last_sign, self._counts.last_sign
                if seen != last_sign or self.statistics().stalled_seconds < self._limits.hang_seconds:
                    continue  # looked at twice, as the whole process may have been stopped in between
                if not self._hangs:
                    logging.getLogger(__name__).error("a decoding step hangs")
                self._hangs = True
                inside = [one for one in (*self._running.values(), *self._retries) if one not in self._cancelled]
                ended = [*inside, *self._queue.clear()]
                self._cancelled += inside  # they leave when the step comes back
                self._counts.failed += len(ended)
            self._publish([(answer, answer.ended_by(HANGS, "unavailable")) for answer in ended])

    # What follows runs in the decoding thread.

    def _new_decoder(self) -> Decoder:
        return Decoder(self._model, slots=self._limits.slots, prefill_chunk_tokens=self._limits.prefill_chunk_tokens)

    def _run(self) -> None:
        """Work until the service is stopped."""
        if self._starting and not self._starts(warm_up_requests([*self._mounted.values()], self._limits.prefill_chunk_tokens)):
            self._restart()
        self._starting = False
        while self._wait_for_work():
            if not self._try_step():
                self._restart()  # outside of the exception, which holds tensors
        for answer in [*self._running.values(), *self._retries]:
            self._end(answer, answer.ended_by(STOPPING, "unavailable"))
        with suppress(Exception):
            self._decoder.close()

    def _wait_for_work(self) -> bool:
        """Wait until there is something to do; False where there will be nothing any more."""
        with self._lock:
            self._hangs = False
            while not (self._running or self._retries or self._cancelled or self._closing):
                seconds = self._gathering.seconds_left() if len(self._queue) else None
                if seconds == 0.0:
                    break
                self._lock.wait(seconds)
            self._counts.last_sign = time.monotonic()
            return not self._stopping and not (self._closing and not self._running and not self._retries)

    def _try_step(self) -> bool:
        """Take a step; False after an error, whatever it is."""
        try:
            self._step()
        except Exception:
            logging.getLogger(__name__).exception("a decoding step failed")
            return False
        return True

    def _step(self) -> None:
        """Remove cancelled answers, start others, and take a step of the decoder."""
        self._remove_cancelled()
        self._start_answers()
        tokens = self._decoder.step() if self._running else []
        with self._lock:
            self._counts.new_tokens += len(tokens)
        self._publish([sent for token in tokens for sent in self._events(token)])

    def _remove_cancelled(self, *, works: bool = True) -> None:
        """Take out the answers that were cancelled; a decoder that does not work is not asked to cancel them."""
        with self._lock:
            cancelled, self._cancelled = self._cancelled, []
        for answer in cancelled:
            if answer in self._retries:
                self._leave(answer)
            elif answer.request_id is not None and self._running.get(answer.request_id) is answer:
                if works:
                    self._decoder.cancel(answer.request_id)
                self._leave(answer)
            # else it has ended; a decoder made since then gives its id to another answer

    def _events(self, token: Token) -> list[tuple[WorkerAnswer, Event]]:
        """The events of a token; an error in its text ends its answer alone."""
        answer = self._running[token.request]
        ended, failed = token.finish is not None, token.finish == "error"
        try:
            events = answer.events(token)
        except Exception:
            logging.getLogger(__name__).exception("a token could not be shown")
            events, failed = [answer.ended_by(FAILED)], True
            self._decoder.cancel(token.request)
        if ended or failed:
            self._leave(answer, failed=failed)
        elif answer is self._suspect_under_test and answer.is_past_replay:
            self._suspect_under_test = None
        return [(answer, event) for event in events]

    def _start_answers(self) -> None:
        """Hand jobs to the decoder as long as there is room, and send the others their positions."""
        self._is_full = False
        with self._lock:
            gathers = self._gathering.seconds_left() > 0
        while self._suspect_under_test is None and len(self._running) < self._limits.slots:
            with self._lock:
                answer = None if gathers and not self._retries else self._next()
            if answer is None:
                break
            self._start(answer)
        with self._lock:
            self._counts.times.note_full(full=self._is_full)
            moved = [] if gathers else [(answer, Waiting(position)) for answer, position in moved_up(self._queue)]
        self._publish(moved)

    def _next(self) -> WorkerAnswer | None:
        """The next answer to start, under the lock: a retried one, else the one whose turn it is in the queue."""
        if not self._retries:
            return self._queue.take(self._fits, slots=self._limits.slots)
        if not self._fits(self._retries[0]):
            return None
        return self._retries.popleft()

    def _fits(self, answer: WorkerAnswer) -> bool:
        """Whether the cache may become as large as this answer makes it; one alone always fits."""
        fits = has_room(self._decoder, self._running.values(), answer, self._limits.kv_tokens)
        self._is_full = not fits
        return fits

    def _start(self, answer: WorkerAnswer) -> None:
        make_room(self._decoder, self._running.values(), answer, self._limits.kv_tokens)
        try:
            answer.request_id = self._decoder.admit(answer.request)
        except Exception as error:
            with self._lock:
                self._queue.ended(answer)
                self._counts.failed += 1
            if not isinstance(error, UserError):
                self._publish([(answer, answer.ended_by(FAILED, "unavailable"))])
                raise
            self._publish([(answer, answer.ended_by(error.message, "invalid"))])
            return
        answer.started_at = time.monotonic()
        self._suspect_under_test = answer if answer.is_suspect else None
        with self._lock:
            self._running[answer.request_id] = answer
            if not answer.failures:
                self._counts.times.note_wait(answer.started_at - answer.queued_at)
            self._counts.kv_tokens += answer.max_tokens
            self._counts.prompt_tokens += answer.prompt_tokens

    def _leave(self, answer: WorkerAnswer, *, failed: bool = False) -> None:
        """Note that an answer has left the decoder."""
        if answer is self._suspect_under_test:
            self._suspect_under_test = None
        with self._lock:
            self._take_out(answer)
            self._queue.ended(answer)
            self._counts.failed += failed
            self._counts.times.note_answer(time.monotonic() - answer.started_at)

    def _take_out(self, answer: WorkerAnswer) -> None:
        """Under the lock: the answer is in the decoder no more, and will not be retried."""
        if answer in self._retries:
            self._retries.remove(answer)
        elif answer.request_id is not None:
            del self._running[answer.request_id]
            self._counts.kv_tokens -= answer.max_tokens

    def _end(self, answer: WorkerAnswer, event: Ended) -> None:
        self._leave(answer, failed=True)
        self._publish([(answer, event)])

    def _restart(self) -> None:
        """Make a new decoder, until one works, for the answers that were in the last one."""
        with self._lock:
            self._starting = True
            self._counts.restarts += 1
        self._blame()
        failures = 0
        while not self._stopping and not self._starts(probe_requests(self._model)):
            failures += 1
            with self._lock:
                self._broken = failures >= PROBES
                waiting = self._queue.clear() if self._broken else []
                self._counts.last_sign = time.monotonic()
            for answer in [*self._retries] if self._broken else ():
                self._end(answer, answer.ended_by(BROKEN, "unavailable"))
            self._publish([(answer, answer.ended_by(BROKEN, "unavailable")) for answer in waiting])
            with self._lock:
                if not self._stopping:
                    self._lock.wait(min(0.05 * 2**failures, LONGEST_PAUSE))
        with self._lock:
            self._starting = self._broken = False

    def _blame(self) -> None:
        """After a step that failed: end the answer that is to blame, as far as that is known, and retry the others.

        Suspects are retried one at a time, beside answers that are none: the one under test when a step fails is to blame.
        """
        self._remove_cancelled(works=False)
        suspect, self._suspect_under_test = self._suspect_under_test, None
        for answer in [*self._running.values()]:
            answer.failures += suspect is None
            if answer is suspect or answer.failures >= MAX_FAILURES:
                self._end(answer, answer.ended_by(FAILED, "unavailable"))
                continue
            with self._lock:
                self._take_out(answer)
                answer.restart()
                self._retries.append(answer)
        with self._lock:
            self._retries = deque(sorted(self._retries, key=lambda answer: answer.is_suspect))

    def _starts(self, requests: Iterable[Request]) -> bool:
        """Whether a new decoder answers requests that nobody waits for."""
        try:
            self._decoder.abandon()
            self._decoder = self._new_decoder()
            for request in requests:
                self._decoder.admit(request)
            while len(self._decoder) and not self._stopping:
                self._decoder.step()
        except Exception:
            logging.getLogger(__name__).exception("the decoder does not start")
            return False
        return True

    def _publish(self, events: Iterable[tuple[WorkerAnswer, Event]]) -> None:
        """Send events to the event loops of their generations."""
        by_loop: dict[asyncio.AbstractEventLoop, list[tuple[WorkerAnswer, Event]]] = {}
        for answer, event in events:
            by_loop.setdefault(answer.loop, []).append((answer, event))
        for loop, together in by_loop.items():
            with suppress(RuntimeError):  # a loop that is closed has no readers
                loop.call_soon_threadsafe(_push, together, self._open)


def _push(events: Sequence[tuple[WorkerAnswer, Event]], unfinished: set[WorkerAnswer]) -> None:
    """Hand events to their generations, on the event loop."""
    for answer, event in events:
        answer.generation.push(event)
        if isinstance(event, Ended):
            unfinished.discard(answer)
