"""Answers that do not belong to a request: they go on when the page is loaded again, and end some time after the last viewer left."""

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import aclosing
from contextvars import Context
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from imprint.messages import Bilingual
from imprint.serve.generation.job import TextDelta, Waiting
from imprint.serve.store.errors import StoreError
from imprint.serve.store.principal import Principal
from imprint.serve.web.answers import AnswerSet
from imprint.serve.web.errors import BUG, ApiError, log_store
from imprint.serve.web.log import log
from imprint.serve.web.services import in_writing_thread
from imprint.serve.web.sse import named_event

LINGER_SECONDS: Final = 60.0
"""How long an answer goes on without a viewer, and how long its end can be read."""
FLUSH_SECONDS: Final = 0.8
"""How often the text of an answer is written: with the next token and the disk, what a crash takes is less than a second of it."""
MAX_VIEWERS: Final = 32
"""Most streams of one owner at a time: far fewer than the service has connections."""
TOO_MANY_VIEWERS: Final = Bilingual("Your answers are shown in too many places; close some.", "你的回答已在太多窗口中打开，请关闭一些。")
NO_MORE: Final = Bilingual("The right to see this answer has ended; sign in again.", "查看此回答的权限已失效，请重新登录。")
UNKNOWN: Final = Bilingual("There is no such generation; it may have ended.", "没有这个生成任务，可能已结束。")


@dataclass(frozen=True)
class MessageWriter:
    """Writes the message of an answer into the store; each function says whether the message is still there."""

    write: Callable[[str], bool]
    """Write the text so far."""
    finish: Callable[..., bool]
    """Write the answer that has ended: text, and by keyword state, finish, prompt_tokens, new_tokens, error."""


class BackgroundAnswer:
    """One answer that goes on by itself."""

    def __init__(
        self, answers: AnswerSet, model: str, writer: MessageWriter | None, message_id: str | None, chat_id: str | None = None
    ) -> None:
        self.id = secrets.token_urlsafe(16)
        self.answers = answers
        self.model = model
        self.message_id = message_id
        """The message in the store; None for an answer that is not kept."""
        self.chat_id = chat_id
        """The chat of that message."""
        self.position: int | None = None
        self.viewers = 0
        self.final: dict[str, Any] | None = None
        """What the last event says, once it is there."""
        self._writer = writer
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
                self.notify_viewers()
        await self._finish()
        self.notify_viewers()

    def notify_viewers(self) -> None:
        """Wake all viewers."""
        self._changed.set()
        self._changed = asyncio.Event()

    def _flush(self) -> None:
        """Keep the text so far; viewers do not wait for it, nor for a disk that is slow."""
        is_writing = self._writing is not None and not self._writing.done()
        if self._writer is not None and not is_writing and time.monotonic() - self._flushed >= FLUSH_SECONDS:
            self._flushed = time.monotonic()
            self._writing = asyncio.create_task(self._write(self.text))

    async def _write(self, text: str) -> None:
        if not await self._stored(lambda writer: writer.write(text)):
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
        await self._stored(lambda writer: writer.finish(self.text, error=error, **fields))
        self.final = {
            "finish": ended.reason,
            "prompt_tokens": ended.prompt_tokens,
            "new_tokens": ended.new_tokens,
            "error": None if problem is None else problem.body(None)["error"],
        }

    async def _stored(self, store: Callable[[MessageWriter], bool]) -> bool:
        """Whether there is still something to keep; an error of the disk ends no answer."""
        if self._writer is None:
            return True
        try:
            return await in_writing_thread(self.answers.services, self.principal, self.answers.address, partial(store, self._writer))
        except StoreError as error:
            log_store(error, {"message": self.message_id})
            return True

    async def events(self, after: int, viewer: "Viewer") -> AsyncGenerator[bytes]:
        """What a viewer sees who has `after` characters already; the last event is `end`."""
        self._watch(1)
        try:
            position: int | None = None
            while not viewer.gone:
                changed, final = self._changed, self.final
                if self.position is not None and self.position != position:
                    position = self.position
                    yield named_event("queue", {"position": position})
                if after < len(self.text):
                    part, after = self.text[after:], len(self.text)
                    yield named_event("text", {"text": part}, identity=after)
                if final is not None and after >= len(self.text):
                    yield named_event("end", final)
                    return
                await changed.wait()
            if viewer.revoked:
                yield named_event("end", _failed(ApiError("invalid_session", NO_MORE)))
        finally:
            self._watch(-1)

    def _watch(self, viewers: int) -> None:
        self.viewers += viewers
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.viewers == 0 and self.final is None:
            self.cancel_in(LINGER_SECONDS)

    def cancel_in(self, seconds: float) -> None:
        """End the answer after this time, unless somebody looks before."""
        self._timer = asyncio.get_running_loop().call_later(seconds, self.cancel)


class Viewer:
    """Somebody who looks at an answer."""

    def __init__(self, answer: BackgroundAnswer, principal: Principal) -> None:
        self.principal: Principal | None = principal.needing(())
        """Who looks, perhaps in another session than the one that asked. It needs no model: where the right to one ends, the answer ends,
        and the viewer still sees its end."""
        self.gone = False
        self.revoked = False
        """Whether the right to look has ended."""
        self._answer = answer

    def leave(self) -> None:
        """Stop looking; the answer goes on."""
        self.gone = True
        self._answer.notify_viewers()

    def cancel(self) -> None:
        """Send that the right to look has ended, and nothing more."""
        self.revoked = True
        self.leave()


def check_viewers(live: Iterable[object], owner: str) -> None:
    """Raise ApiError where an owner looks in very many places already."""
    found = sum(isinstance(one, Viewer) and one.principal is not None and one.principal.owner == owner for one in live)
    if found >= MAX_VIEWERS:
        raise ApiError("rate_limited", TOO_MANY_VIEWERS, retry_after=5)


def _owns(principal: Principal, answer: BackgroundAnswer) -> bool:
    return answer.principal is not None and answer.principal.owner == principal.owner


def _failed(error: ApiError) -> dict[str, Any]:
    """What a last event says that is no end of an answer."""
    return {"finish": "error", "prompt_tokens": 0, "new_tokens": 0, "error": error.body(None)["error"]}


class BackgroundAnswers:
    """All background answers that go on, and those that have just ended."""

    def __init__(self) -> None:
        self._answers: dict[str, BackgroundAnswer] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, answer: BackgroundAnswer) -> None:
        """Let it go on by itself."""
        self._answers[answer.id] = answer
        answer.cancel_in(LINGER_SECONDS)
        task = asyncio.create_task(self._run(answer), context=Context())  # what it has said is kept when the right to more has ended
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, answer: BackgroundAnswer) -> None:
        try:
            await answer.run()
        except Exception as error:
            if isinstance(error, StoreError):
                log_store(error, {"message": answer.message_id})
            else:
                log("generation", {"message": answer.message_id}, problem=error)
            answer.cancel()
            answer.final = answer.final or _failed(ApiError("server_error", BUG))
            answer.notify_viewers()
        finally:
            asyncio.get_running_loop().call_later(LINGER_SECONDS, self._answers.pop, answer.id, None)

    def find(self, principal: Principal, answer_id: str) -> BackgroundAnswer:
        """Somebody's own answer. Raises ApiError for another's, as for none."""
        answer = self._answers.get(answer_id)
        if answer is None or not _owns(principal, answer):
            raise ApiError("not_found", UNKNOWN)
        return answer

    def by_message(self, principal: Principal) -> Mapping[str, str]:
        """Id of a message -> id of the answer that writes it, of an owner's answers that go on."""
        return {
            answer.message_id: answer.id
            for answer in self._answers.values()
            if answer.message_id is not None and answer.final is None and _owns(principal, answer)
        }

    def cancel_chat(self, principal: Principal, chat_id: str) -> None:
        """End an owner's answers in a chat."""
        for answer in self._answers.values():
            if answer.chat_id == chat_id and _owns(principal, answer):
                answer.cancel()

    async def wait(self, seconds: float) -> None:
        """Wait until all have ended and are kept, for this time at most."""
        if self._tasks:
            await asyncio.wait(list(self._tasks), timeout=seconds)
