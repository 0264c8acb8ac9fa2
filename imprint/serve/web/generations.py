"""Answers as jobs that do not belong to a request: they go on when the page is loaded again, and end some time after nobody looks."""

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any, Final

from starlette.concurrency import run_in_threadpool

from imprint.messages import Bilingual
from imprint.serve.generation.job import TextDelta, Waiting
from imprint.serve.store.errors import StoreError
from imprint.serve.store.principal import Principal
from imprint.serve.web.answers import AnswerSet
from imprint.serve.web.errors import BUG, ApiError, log_store
from imprint.serve.web.log import log
from imprint.serve.web.sse import named_event

LINGER_SECONDS: Final = 60.0
"""How long a job goes on without a viewer, and how long its end can be read."""
FLUSH_SECONDS: Final = 1.0
"""Most seconds for which a text is kept in memory alone."""
MAX_VIEWERS: Final = 32
"""Most streams of one owner at a time: far fewer than the service has connections."""
CROWDED: Final = Bilingual("Your answers are shown in too many places; close some.", "你的回答已在太多窗口中打开，请关闭一些。")
NO_MORE: Final = Bilingual("The right to see this answer has ended; sign in again.", "查看此回答的权限已失效，请重新登录。")
UNKNOWN: Final = Bilingual("There is no such generation; it may have ended.", "没有这个生成任务，可能已结束。")


@dataclass(frozen=True)
class Kept:
    """Where the answer of a job is stored."""

    write: Callable[[str], bool]
    """Keep the text so far."""
    finish: Callable[..., bool]
    """Keep the answer that has ended: text, and by keyword state, finish, prompt_tokens, new_tokens, error."""


class GenerationJob:
    """One answer that goes on by itself."""

    def __init__(self, answers: AnswerSet, model: str, kept: Kept | None, message_id: str | None) -> None:
        self.id = secrets.token_urlsafe(16)
        self.answers = answers
        self.model = model
        self.message_id = message_id
        """The message in the store; None for an answer that is not kept."""
        self.position: int | None = None
        self.viewers = 0
        self.final: dict[str, Any] | None = None
        """What the last event says, once it is there."""
        self._kept = kept
        self._changed = asyncio.Event()
        self._flushed = time.monotonic()
        self._writing: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def principal(self) -> Principal | None:
        """Whose it is."""
        return self.answers.principal

    @property
    def text(self) -> str:
        """What has come so far."""
        return self.answers.answers[0].text

    def cancel(self) -> None:
        """End the answer where it is; what there is of it is kept."""
        self.answers.cancel()

    async def run(self) -> None:
        """Take the answer until it has ended, and keep it at least once a second."""
        async with aclosing(self.answers.events()) as events:
            async for _, event in events:
                if isinstance(event, Waiting):
                    self.position = event.position
                elif isinstance(event, TextDelta):
                    self.position = None
                    self._flush()
                self.tell()
        await self._finish()
        self.tell()

    def tell(self) -> None:
        """Wake all viewers."""
        self._changed.set()
        self._changed = asyncio.Event()

    def _flush(self) -> None:
        """Keep the text so far; viewers do not wait for it, nor for a disk that is slow."""
        is_writing = self._writing is not None and not self._writing.done()
        if self._kept is not None and not is_writing and time.monotonic() - self._flushed >= FLUSH_SECONDS:
            self._flushed = time.monotonic()
            self._writing = asyncio.create_task(self._write(self.text))

    async def _write(self, text: str) -> None:
        if not await self._stored(lambda kept: kept.write(text)):
            self.cancel()  # its chat was deleted

    async def _finish(self) -> None:
        if self._writing is not None:
            await self._writing
        answer = self.answers.answers[0]
        ended = answer.ended
        assert ended is not None
        problem = self.answers.problem(answer)
        error = problem.message if problem is not None else None
        state = "done" if problem is None else "interrupted" if problem.code == "shutting_down" else "error"
        fields = {"state": state, "finish": ended.reason, "prompt_tokens": ended.prompt_tokens, "new_tokens": ended.new_tokens}
        await self._stored(lambda kept: kept.finish(self.text, error=error, **fields))
        self.final = {
            "finish": ended.reason,
            "prompt_tokens": ended.prompt_tokens,
            "new_tokens": ended.new_tokens,
            "error": None if problem is None else problem.body(None)["error"],
        }

    async def _stored(self, store: Callable[[Kept], bool]) -> bool:
        """Whether there is still something to keep; an error of the disk ends no answer."""
        if self._kept is None:
            return True
        try:
            return await run_in_threadpool(store, self._kept)
        except StoreError as error:
            log_store(error, {"message": self.message_id})
            return True

    async def events(self, after: int, viewer: "Viewer") -> AsyncGenerator[bytes]:
        """What a viewer sees who has `after` characters already; the last event is `end`."""
        self._watch(1)
        try:
            place: int | None = None
            while not viewer.gone:
                changed, final = self._changed, self.final
                if self.position is not None and self.position != place:
                    place = self.position
                    yield named_event("queue", {"position": place})
                if after < len(self.text):
                    part, after = self.text[after:], len(self.text)
                    yield named_event("text", {"text": part}, identity=after)
                if final is not None and after >= len(self.text):
                    yield named_event("end", final)
                    return
                await changed.wait()
            if viewer.may_not:
                yield named_event("end", _failed(ApiError("invalid_session", NO_MORE)))
        finally:
            self._watch(-1)

    def _watch(self, viewers: int) -> None:
        self.viewers += viewers
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.viewers == 0 and self.final is None:
            self.leave_in(LINGER_SECONDS)

    def leave_in(self, seconds: float) -> None:
        """End the answer after this time, unless somebody looks before."""
        self._timer = asyncio.get_running_loop().call_later(seconds, self.cancel)


class Viewer:
    """Somebody who looks at a job."""

    def __init__(self, job: GenerationJob, principal: Principal) -> None:
        self.principal: Principal | None = replace(principal, models=frozenset())
        """Who looks, perhaps by another session than the one that asked. With the right to a model the answer ends, not the look."""
        self.gone = False
        self.may_not = False
        """Whether the right to look has ended."""
        self._job = job

    def leave(self) -> None:
        """Look no longer; the job goes on."""
        self.gone = True
        self._job.tell()

    def cancel(self) -> None:
        """Tell that the right to look has ended, and no more."""
        self.may_not = True
        self.leave()


def check_room(live: Iterable[object], owner: str) -> None:
    """Raise ApiError where an owner looks in very many places already."""
    found = sum(isinstance(one, Viewer) and one.principal is not None and one.principal.owner == owner for one in live)
    if found >= MAX_VIEWERS:
        raise ApiError("rate_limited", CROWDED, retry_after=5)


def _failed(error: ApiError) -> dict[str, Any]:
    """What a last event says that is no end of an answer."""
    return {"finish": "error", "prompt_tokens": 0, "new_tokens": 0, "error": error.body(None)["error"]}


class GenerationJobs:
    """All jobs that go on, and those that have just ended."""

    def __init__(self) -> None:
        self._jobs: dict[str, GenerationJob] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, job: GenerationJob) -> None:
        """Let it go on by itself."""
        self._jobs[job.id] = job
        job.leave_in(LINGER_SECONDS)
        task = asyncio.create_task(self._run(job))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, job: GenerationJob) -> None:
        try:
            await job.run()
        except Exception as error:
            if isinstance(error, StoreError):
                log_store(error, {"message": job.message_id})
            else:
                log("generation", {"message": job.message_id}, problem=error)
            job.cancel()
            job.final = job.final or _failed(ApiError("server_error", BUG))
            job.tell()
        finally:
            asyncio.get_running_loop().call_later(LINGER_SECONDS, self._jobs.pop, job.id, None)

    def find(self, principal: Principal, job_id: str) -> GenerationJob:
        """Somebody's own job. Raises ApiError for another's, as for none."""
        job = self._jobs.get(job_id)
        if job is None or job.principal is None or job.principal.owner != principal.owner:
            raise ApiError("not_found", UNKNOWN)
        return job

    def by_message(self, principal: Principal) -> Mapping[str, str]:
        """Message -> the job that writes it, of an owner's jobs that go on."""
        return {
            job.message_id: job.id
            for job in self._jobs.values()
            if job.message_id is not None and job.final is None and job.principal is not None and job.principal.owner == principal.owner
        }

    async def wait(self, seconds: float) -> None:
        """Wait until all have ended and are kept, for this time at most."""
        if self._tasks:
            await asyncio.wait(list(self._tasks), timeout=seconds)
