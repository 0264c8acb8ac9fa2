"""Answers in the form of OpenAI's API: objects of the complete form, and chunks of the streaming one.

Source: https://platform.openai.com/docs/api-reference/chat/object and .../chat/streaming.
"""

import secrets
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from itertools import accumulate, chain, islice
from typing import Any, Final, Literal, TypeVar

from anyio import to_thread
from starlette.requests import Request
from starlette.responses import Response

from imprint.serve.generation.job import Alternative, Ended, Job, RefusedError, TextDelta, TokenPiece, Waiting
from imprint.serve.store.errors import StoreError
from imprint.serve.web.answers import AnswerBuffer, AnswerSet
from imprint.serve.web.errors import error_of
from imprint.serve.web.json_pieces import json_bytes
from imprint.serve.web.sse import DONE, ENCODER, EventStream, comment, data_event, watching
from imprint.serve.web.tools import ToolUse, as_tool_calls

Kind = Literal["chat", "text"]
T = TypeVar("T")
TOO_MANY: Final = 429
FEW_LOGPROBS: Final = 1000
"""So many are written on the event loop, which takes some milliseconds; more in a thread."""
LEAST_LOGPROB: Final = -9999.0
"""Stands for minus infinity, which JSON has not; vLLM writes the same."""
PLACEHOLDER: Final = "\0"
"""Stands for the text of a chunk: no model has a name with it."""
OBJECTS: Final[Mapping[Kind, tuple[str, str]]] = {
    "chat": ("chat.completion", "chat.completion.chunk"),
    "text": ("text_completion", "text_completion"),
}


class AnswerForm:
    """How the answers of one request are written."""

    def __init__(self, kind: Kind, model: str, *, logprobs: bool, usage: bool, queue: bool, tools: ToolUse | None = None) -> None:
        self.kind = kind
        self.model = model
        self.logprobs = logprobs
        self.usage = usage
        """Whether a stream ends with a chunk of the tokens used."""
        self.queue = queue
        """Whether a stream tells the place in the queue."""
        self.tools = tools
        self.id = f"{'chatcmpl' if kind == 'chat' else 'cmpl'}-{secrets.token_hex(12)}"
        self.created = int(time.time())
        self._frames: dict[int, tuple[bytes, bytes]] = {}
        """Number of an answer -> what stands before and after the text in its chunks."""

    def complete(self, answers: AnswerSet) -> bytes:
        """The JSON of the complete form."""
        choices = (self._choice(number, answer) for number, answer in enumerate(answers.answers))
        return json_bytes({**self._head(0), "choices": choices, "usage": answers.usage()})

    def chunk(self, choices: Sequence[Mapping[str, Any]], usage: Mapping[str, int] | None = None) -> bytes:
        """One event of a stream."""
        tokens = {"usage": usage} if self.usage else {}
        return b"data: " + json_bytes({**self._head(1), "choices": iter(choices), **tokens}) + b"\n\n"

    def delta_chunk(self, number: int, delta: TextDelta, offset: int) -> bytes:
        """One event of a stream, with a part of an answer; without log-probabilities all but its text is made once."""
        if self.logprobs:
            return self.chunk([self.part(number, delta.text, delta.tokens, offset)])
        frame = self._frames.get(number)
        if frame is None:
            before, _, after = self.chunk([self.part(number, PLACEHOLDER, (), 0)]).rpartition(ENCODER.encode(PLACEHOLDER).encode())
            frame = self._frames[number] = before, after
        return frame[0] + ENCODER.encode(delta.text).encode() + frame[1]

    def _head(self, streamed: Literal[0, 1]) -> dict[str, Any]:
        return {"id": self.id, "object": OBJECTS[self.kind][streamed], "created": self.created, "model": self.model}

    def _choice(self, number: int, answer: AnswerBuffer) -> dict[str, Any]:
        assert answer.ended is not None
        calls = as_tool_calls(answer.text, self.tools)
        reason = "tool_calls" if calls else answer.ended.reason
        logprobs = self._logprobs(answer.kept_tokens, 0)
        if self.kind == "text":
            return {"index": number, "text": answer.text, "logprobs": logprobs, "finish_reason": reason}
        message: dict[str, Any] = {"role": "assistant", "content": None if calls else answer.text, "refusal": None}
        message |= {"tool_calls": calls} if calls else {}
        return {"index": number, "message": message, "logprobs": logprobs, "finish_reason": reason}

    def part(self, number: int, text: str, tokens: Sequence[TokenPiece], offset: int, reason: str | None = None) -> dict[str, Any]:
        """A choice of a chunk."""
        logprobs = self._logprobs(tokens, offset) if tokens else None
        if self.kind == "text":
            return {"index": number, "text": text, "logprobs": logprobs, "finish_reason": reason}
        delta = {} if reason is not None else {"content": text}
        return {"index": number, "delta": delta, "logprobs": logprobs, "finish_reason": reason}

    def _logprobs(self, tokens: Sequence[TokenPiece], offset: int) -> dict[str, Any] | None:
        if not self.logprobs:
            return None
        if self.kind == "chat":
            return {"content": ({**_named(token), "top_logprobs": [_named(one) for one in token.top]} for token in tokens)}
        return {
            "tokens": map(_text, tokens),
            "token_logprobs": map(_log_prob, tokens),
            "top_logprobs": ({_text(one): _log_prob(one) for one in token.top} for token in tokens),
            "text_offset": islice(accumulate((len(token.text) for token in tokens), initial=offset), len(tokens)),
        }


def _text(token: Alternative) -> str:
    """The token's text; of a part of a character its bytes, as OpenAI writes them."""
    try:
        return token.utf8.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token.utf8)


def _log_prob(token: Alternative) -> float:
    return max(token.log_prob, LEAST_LOGPROB)


def _named(token: Alternative) -> dict[str, Any]:
    return {"token": _text(token), "logprob": _log_prob(token), "bytes": list(token.utf8)}


async def _formed(answers: AnswerSet, tokens: Iterable[TokenPiece], write: Callable[[], T]) -> T:
    """What `write` returns; with the log-probabilities of many tokens it is called in a thread, so that the others' answers go on."""
    if sum(1 + len(token.top) for token in tokens) <= FEW_LOGPROBS:
        return write()
    return await to_thread.run_sync(write, limiter=answers.services.forming)


async def answer_request(request: Request, answers: AnswerSet, jobs: Sequence[Job], form: AnswerForm, *, stream: bool) -> Response:
    """The response to a request for answers, in either form. Raises ApiError, which tells the quota, too, where it is about a limit."""
    answers.keeps_tokens = form.logprobs
    try:
        await answers.start(jobs)
    except (RefusedError, StoreError) as refused:
        problem = error_of(refused)
        if problem.status == TOO_MANY:
            problem.headers |= await _limits(answers)
        raise problem from None
    if stream:
        return EventStream(_chunks(request, answers, form), answers.on_disconnect, await _limits(answers))
    async with watching(request.receive, answers.on_disconnect):
        await answers.collect()
    if answers.disconnected:
        request.state.disconnected = True
    tokens = chain.from_iterable(answer.kept_tokens for answer in answers.answers)
    body = await _formed(answers, tokens, partial(form.complete, answers))
    return Response(body, headers=await _limits(answers), media_type="application/json")


async def _limits(answers: AnswerSet) -> dict[str, str]:
    """Headers that tell the quota; a disk that cannot say it spoils no answer."""
    try:
        return await answers.limit_headers()
    except StoreError:
        return {}
    except BaseException:
        await answers.end()
        raise


async def _chunks(request: Request, answers: AnswerSet, form: AnswerForm) -> AsyncGenerator[bytes]:
    """The events of a stream; the last is [DONE], or an error."""
    try:
        if form.kind == "chat":
            for number in range(len(answers.answers)):
                first = {"index": number, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
                yield form.chunk([first])
        async with aclosing(answers.events()) as events:
            async for number, event in events:
                answer = answers.answers[number]
                if isinstance(event, Waiting) and form.queue:
                    yield comment(f"queue {event.position}")
                elif isinstance(event, TextDelta) and form.tools is None and (event.text or (form.logprobs and event.tokens)):
                    tokens, offset = event.tokens if form.logprobs else (), len(answer.text) - len(event.text)
                    yield await _formed(answers, tokens, partial(form.delta_chunk, number, event, offset))
                elif isinstance(event, Ended):
                    problem = answers.problem(answer)
                    if problem is not None:
                        yield data_event(problem.body(request.state.request_id))
                        return
                    for chunk in await _formed(answers, answer.kept_tokens, partial(_last, form, number, answer)):
                        yield chunk
        if form.usage:
            yield form.chunk([], answers.usage())
        yield DONE
    finally:
        await answers.end()


def _last(form: AnswerForm, number: int, answer: AnswerBuffer) -> list[bytes]:
    """The chunks at the end of an answer. One with tools comes whole: only its end tells whether it is a call."""
    assert answer.ended is not None
    calls = as_tool_calls(answer.text, form.tools)
    chunks = []
    if calls:
        delta = {"tool_calls": [{"index": index, **call} for index, call in enumerate(calls)]}
        chunks.append(form.chunk([{"index": number, "delta": delta, "logprobs": None, "finish_reason": None}]))
    elif form.tools is not None and answer.text:
        chunks.append(form.chunk([form.part(number, answer.text, answer.kept_tokens, 0)]))
    reason = "tool_calls" if calls else answer.ended.reason
    return [*chunks, form.chunk([form.part(number, "", (), 0, reason)])]
