"""The models of a service in OpenAI's form, such as `imprint serve`, over HTTP. Nothing that a service sends is trusted or unbounded."""

import json
import re
import threading
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

import httpx2

from imprint import __version__
from imprint.chat.answerer import AnswerSummary, dropped_note
from imprint.chat.conversation import BASE, ChatRequest
from imprint.chat.section import RemoteSamplingSection
from imprint.inference.section import DecodingSection
from imprint.messages import Bilingual, UserError

TIMEOUT: Final = httpx2.Timeout(120.0, connect=10.0)
"""Seconds without a byte; `imprint serve` sends one every ten seconds."""
MAX_SECONDS: Final = 300.0
"""Until an answer begins, and for one that is no stream until its end: each byte may come in time, and the whole never."""
MAX_LINE_BYTES: Final = 1 << 20
MAX_STREAM_BYTES: Final = 1 << 28
"""Most bytes of one streamed answer, those of comments and of events without text included. A text of MAX_ANSWER_CHARACTERS fits with 250
bytes of JSON for each character."""
MAX_BODY_BYTES: Final = 1 << 20
MAX_ANSWER_CHARACTERS: Final = 1_000_000
MAX_MODELS: Final = 1000
MAX_NAME: Final = 256
MAX_SAID: Final = 600
"""Most characters of an error of the service that are shown."""
NO_LIST: Final = frozenset({404, 405, 501})
"""How a service answers that lists no models."""
SAYS_WHEN: Final = re.compile(r"\b(?:try|send it) again\b|\bwait until\b", re.IGNORECASE)
"""In a sentence that needs no hint when to try again."""
BROKEN_OFF: Final = Bilingual(
    "broke the answer off; the conversation is kept, /retry asks again", "回答中断；对话已保留，可用 /retry 重新提问"
)
ALWAYS_SENT: Final = frozenset({"temperature", "top_p"})
"""Knobs for which a service may have any default. Others are sent only where they change answers: not every service knows them."""
ENDINGS: Final = {
    "length": Bilingual("ended by the limit of tokens", "达到长度上限"),
    "content_filter": Bilingual("cut by a filter of the service", "被服务的内容过滤截断"),
    "tool_calls": Bilingual("a call of a tool, which a chat has not", "模型要求调用工具，本对话不支持"),
    "cancelled": Bilingual("cancelled by the service", "被服务取消"),
}


class ServiceError(UserError):
    """A service that cannot be reached, or that refuses."""

    def __init__(self, message: Bilingual, status: int = 0, code: str = "") -> None:
        super().__init__(message)
        self.status = status
        """The HTTP status; 0 without an answer."""
        self.code = code
        """What the service calls the error."""


@dataclass(frozen=True)
class RemoteModelInfo:
    """A model that a service lists."""

    id: str
    """What it is asked by."""
    licence: str
    """Its licence; empty where the service says none."""
    note: str
    """What whoever uses it has to know; empty where the service says nothing."""


@dataclass(frozen=True)
class Service:
    """A service, and the key to it."""

    url: str
    """Its address, up to and with /v1."""
    key: str | None = field(repr=False)
    """The API key, which nothing shows."""
    is_near: bool
    """Whether it is on this machine: then no proxy of the environment is asked."""

    def models(self) -> list[RemoteModelInfo]:
        """The models that the key may use; none where the service lists none. Raises ServiceError."""
        try:
            with self._exchange("GET", "/models") as response:
                entries = _at(_json(self._whole(response)), "data")
        except ServiceError as error:
            if error.status in NO_LIST:
                return []
            raise
        found = []
        for entry in entries[:MAX_MODELS] if isinstance(entries, list) else ():
            if name := _text(entry, "id"):
                found.append(RemoteModelInfo(name[:MAX_NAME], _text(entry, "licence")[:MAX_NAME], _text(entry, "note")[:MAX_SAID]))
        return found

    @contextmanager
    def events(self, body: object) -> Iterator[Iterator[object]]:
        """The events of a streamed answer. Raises ServiceError; leaving the block cancels the answer."""
        with self._exchange("POST", "/chat/completions", body) as response:
            if not response.headers.get("content-type", "").startswith("text/event-stream"):
                raise self._error(Bilingual("answers without streaming", "没有以流式返回"))
            yield self._events(response)

    def _events(self, response: httpx2.Response) -> Iterator[object]:
        for line in self._lines(response):
            if not line.startswith(b"data:"):
                continue
            data = line[5:].strip()
            if data == b"[DONE]":
                return
            event = _json(data)
            if event is None:
                raise self._error(Bilingual("sends an event that is no JSON", "发来的事件不是 JSON"))
            if _at(event, "error") is not None:
                raise self._refusal(0, event)
            yield event
        raise self._error(BROKEN_OFF)

    def _lines(self, response: httpx2.Response) -> Iterator[bytes]:
        waiting, size = bytearray(), 0
        for part in response.iter_raw():
            size += len(part)
            if size > MAX_STREAM_BYTES:
                raise self._error(Bilingual(f"sends more than {MAX_STREAM_BYTES:,} bytes for one answer", "一个回答的内容过长"))
            *lines, rest = part.split(b"\n")
            for line in lines:
                yield bytes(waiting + line)
                waiting.clear()
            waiting += rest
            if len(waiting) > MAX_LINE_BYTES:
                raise self._error(Bilingual(f"sends a line of more than {MAX_LINE_BYTES:,} bytes", "发来的一行过长"))

    @contextmanager
    def _exchange(self, method: str, path: str, body: object = None) -> Iterator[httpx2.Response]:
        has_begun = False
        headers = {"Accept-Encoding": "identity", "User-Agent": f"imprint/{__version__}"}
        if self.key is not None:
            headers["Authorization"] = f"Bearer {self.key}"
        try:
            with (
                httpx2.Client(timeout=TIMEOUT, trust_env=not self.is_near) as client,
                _closed_when_late(client) as clock,
                client.stream(method, self.url + path, json=body, headers=headers) as response,
            ):
                if response.headers.get("content-encoding", "identity") != "identity":
                    raise self._error(Bilingual("sends a compressed answer", "返回了压缩的内容"))
                if response.status_code != 200:
                    raise self._refusal(response.status_code, _json(self._whole(response)), response.headers)
                if has_begun := body is not None:  # a stream lasts as long as its answer
                    clock.cancel()
                yield response
        except httpx2.ConnectError as error:
            raise self._error(
                Bilingual(
                    f"cannot be reached ({_clipped(str(error))}). Is it running there? `imprint serve runs/demo` starts one",
                    f"无法连接（{_clipped(str(error))}）。请确认服务已启动，例如 imprint serve runs/demo",
                )
            ) from None
        except httpx2.TimeoutException:
            raise self._error(BROKEN_OFF if has_begun else Bilingual("does not answer in time", "响应超时")) from None
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            why = _clipped(str(error)) or type(error).__name__
            raise self._error(BROKEN_OFF if has_begun else Bilingual(f"the connection failed ({why})", f"连接出错（{why}）")) from None

    def _whole(self, response: httpx2.Response) -> bytes:
        body = bytearray()
        for part in response.iter_raw():
            body += part
            if len(body) > MAX_BODY_BYTES:
                raise self._error(Bilingual(f"sends more than {MAX_BODY_BYTES:,} bytes", "返回的内容过长"))
        return bytes(body)

    def _refusal(self, status: int, body: object, headers: Mapping[str, str] = MappingProxyType({})) -> ServiceError:
        """The service's own sentence, in both languages where it has both, and what to do."""
        sentence = _text(body, "error", "message") or _text(body, "message") or _text(body, "detail") or f"HTTP {status}"
        if self.key:
            sentence = sentence.replace(self.key, "***")
        english, _, chinese = _clipped(sentence).rstrip().partition(" / ")
        hint = Bilingual("", "")
        if status == 401:
            hint = Bilingual(
                " Give an API key: IMPRINT_API_KEY in the environment, key_file=FILE, or key=sk-...",
                " 请提供 API 密钥：环境变量 IMPRINT_API_KEY、key_file=文件，或 key=sk-...",
            )
        elif 300 <= status < 400:
            location = _clipped(headers.get("location", ""))
            hint = Bilingual(f" It leads to {location}; give that address if you trust it.", f" 它指向 {location}；若可信，请改用该地址。")
        elif (wait := headers.get("retry-after", "")).isdigit() and len(wait) <= 7 and not SAYS_WHEN.search(english):
            hint = Bilingual(f" Try again in {wait} s.", f" 请在 {wait} 秒后重试。")
        message = Bilingual(f"{english}{hint.english}", f"{chinese or english}{hint.chinese}")
        return self._error(message, status, _text(body, "error", "code"))

    def _error(self, problem: Bilingual, status: int = 0, code: str = "") -> ServiceError:
        english, chinese = problem.english.rstrip(".。"), problem.chinese.rstrip(".。")
        return ServiceError(Bilingual(f"{self.url}: {english}.", f"{self.url}：{chinese}。"), status, code)


@contextmanager
def _closed_when_late(client: httpx2.Client) -> Iterator[threading.Timer]:
    """Close the connections after MAX_SECONDS, unless the timer is cancelled. Raises ReadTimeout where that ended an exchange."""
    late = threading.Event()

    def close() -> None:
        late.set()
        client.close()

    clock = threading.Timer(MAX_SECONDS, close)
    clock.daemon = True
    clock.start()
    try:
        yield clock
    except Exception:
        if late.is_set():
            raise httpx2.ReadTimeout("late") from None
        raise
    finally:
        clock.cancel()


class RemoteModel:
    """The models of a service, of which the conversation names the one that answers."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self._tokens: int | None = None
        self._finish = ""
        self._dropped = 0

    def answer(self, request: ChatRequest) -> Generator[str, None, None]:
        """Stream the answer so far. Where the service finds the conversation too long, the older half of it is left out, and so on."""
        turns, self._dropped = request.before.history, 0
        while True:
            try:
                yield from self._answer(request, turns)
                return
            except ServiceError as error:
                if error.code != "context_length_exceeded" or not turns:
                    raise
                turns = turns[(len(turns) + 1) // 2 :]
                self._dropped = len(request.before.history) - len(turns)

    def settled(self, text: str) -> str:
        """All of it."""
        return text

    def summary(self, _request: ChatRequest, _text: str) -> AnswerSummary:
        """The tokens that the service counted, turns that were left out, and an ending that is none."""
        notes = [dropped_note(self._dropped)] if self._dropped else []
        if self._finish in ENDINGS:
            notes.append(ENDINGS[self._finish].line)
        return AnswerSummary(self._tokens, notes)

    def _answer(self, request: ChatRequest, turns: Sequence[tuple[str, str]]) -> Generator[str, None, None]:
        text, self._tokens, self._finish = "", None, ""
        with self.service.events(self._body(request, turns)) as events:
            for event in self._until_the_end(events):
                tokens = _at(event, "usage", "completion_tokens")
                if isinstance(tokens, int) and 0 <= tokens < 2**31:
                    self._tokens = tokens
                self._finish = _text(event, "choices", 0, "finish_reason") or self._finish
                if part := _text(event, "choices", 0, "delta", "content"):
                    text += part
                    yield text
                    if len(text) > MAX_ANSWER_CHARACTERS:
                        self._finish = "length"
                        return

    def _until_the_end(self, events: Iterator[object]) -> Iterator[object]:
        """The events; a service that says how the answer ends may leave [DONE] out."""
        try:
            yield from events
        except ServiceError:
            if not self._finish:
                raise

    def _body(self, request: ChatRequest, turns: Sequence[tuple[str, str]]) -> dict[str, object]:
        before = request.before
        assert before.model is not None
        messages = [{"role": "system", "content": before.system}] if before.system else []
        for question, answer in turns:
            messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        messages.append({"role": "user", "content": request.question})
        return {
            "model": before.model if before.adapter_on else BASE,
            "messages": messages,
            "stream": True,
            "stream_options": {"include_usage": True},
            **_sampling(request),
        }


def _sampling(request: ChatRequest) -> dict[str, object]:
    """The sampling settings under the names of their knobs, which are those of the API, without what changes no answer."""
    settings = request.before.settings
    assert isinstance(settings, RemoteSamplingSection)
    plain = type(settings)().model_dump(mode="json") | DecodingSection().model_dump(mode="json")
    given = settings.model_dump(mode="json")
    if request.seed is not None:
        given["seed"] = request.seed % 2**32
    return {name: value for name, value in given.items() if name in ALWAYS_SENT or value != plain[name]}


def _json(text: bytes) -> object:
    """What a JSON says; None for what is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _at(value: object, *path: str | int) -> object:
    """What stands at a path in a JSON value; None where there is nothing."""
    for step in path:
        if isinstance(step, str) and isinstance(value, dict):
            value = value.get(step)
        elif isinstance(step, int) and isinstance(value, list) and step < len(value):
            value = value[step]
        else:
            return None
    return value


def _text(value: object, *path: str | int) -> str:
    """The text at a path in a JSON value; empty where there is none. Half characters are replaced."""
    found = _at(value, *path)
    return found.encode(errors="replace").decode() if isinstance(found, str) else ""


def _clipped(text: str) -> str:
    return text if len(text) <= MAX_SAID else text[: MAX_SAID - 1] + "…"
