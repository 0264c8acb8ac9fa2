"""A server with OpenAI's API on this machine that behaves as a test says, and the backend in front of it."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any

from imprint.serve.generation.job import Job
from imprint.serve.upstream.backend import UpstreamBackend
from imprint.serve.upstream.client import Timeouts

QUICK = Timeouts(connect=0.5, first=0.3, silence=0.3, short=0.5, check=0.05, retry=0.02, longest_retry=0.1)
ANSWER = ("这件", "上衣", "是白色。")
DONE = b"data: [DONE]\n\n"


@dataclass
class Asked:
    """A request that a server got."""

    path: str
    headers: Mapping[str, str]
    body: Any
    writer: asyncio.StreamWriter
    closed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the client has closed the connection."""

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def reply(self, status: int, body: bytes | Any, kind: str = "application/json", more: str = "") -> None:
        """A whole answer."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        await self.send(head(status, kind, f"Content-Length: {len(content)}\r\n{more}") + content)

    async def stream(self, *events: bytes) -> None:
        """An answer that ends with the connection."""
        await self.send(head(200, "text/event-stream") + b"".join(events))


Behaviour = Callable[[Asked], Awaitable[None]]


def head(status: int, kind: str, more: str = "") -> bytes:
    return f"HTTP/1.1 {status} Said\r\nContent-Type: {kind}\r\nConnection: close\r\n{more}\r\n".encode()


def event(value: Any) -> bytes:
    return b"data: " + json.dumps(value, ensure_ascii=False).encode() + b"\n\n"


def chunk(text: str = "", reason: str | None = None, tokens: int | None = None, model: str = "demo", logprobs: Any = None) -> bytes:
    """A part of an answer as vLLM sends it; `tokens` of the answer so far."""
    usage = {} if tokens is None else {"usage": {"prompt_tokens": 7, "completion_tokens": tokens, "total_tokens": 7 + tokens}}
    choice = {"index": 0, "delta": {"content": text}, "text": text, "finish_reason": reason, "logprobs": logprobs}
    return event({"id": "x", "object": "chat.completion.chunk", "model": model, "choices": [choice], **usage})


def whole(texts: Sequence[str] = ANSWER, model: str = "demo") -> list[bytes]:
    """All events of a good answer."""
    parts = [chunk(text, tokens=number, model=model) for number, text in enumerate(texts, start=1)]
    return [chunk(model=model, tokens=0), *parts, chunk(reason="stop", tokens=len(texts), model=model), DONE]


async def behave(asked: Asked) -> None:
    """Answer well."""
    await asked.stream(*whole(model=asked.body["model"]))


async def hang(asked: Asked) -> None:
    """Begin an answer, and write nothing more until the client leaves."""
    await asked.stream(chunk("这", tokens=1))
    await asked.closed.wait()


@dataclass
class FakeServer:
    """What it has, how it behaves, and what it was asked."""

    models: dict[str, int] = field(default_factory=lambda: {"demo": 64})
    counts: bool = True
    """Whether it counts tokens: a token a character."""
    answer: Behaviour = behave
    listed: Behaviour | None = None
    """How it answers to a question for its models, if not well."""
    asked: list[Asked] = field(default_factory=list)
    port: int = 0
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    """The connections that are open."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def answers(self) -> list[Asked]:
        """The requests for an answer."""
        return [one for one in self.asked if one.path.endswith("completions")]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        try:
            await self._serve(reader, writer)
        finally:
            writer.close()
            self.tasks.discard(task)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
            content = await reader.readexactly(int(headers.get("content-length", "0")))
            asked = Asked(first.split()[1], headers, json.loads(content) if content else None, writer)
            self.asked.append(asked)
            watch = asyncio.create_task(_watch(reader, asked))
            try:
                await self._respond(asked)
            finally:
                watch.cancel()

    async def _respond(self, asked: Asked) -> None:
        if asked.path == "/v1/models":
            if self.listed is not None:
                await self.listed(asked)
                return
            data = [{"id": name, "root": f"/secret/place/{name}", "parent": None, "max_model_len": n} for name, n in self.models.items()]
            await asked.reply(200, {"object": "list", "data": data})
        elif asked.path == "/tokenize" and self.counts:
            texts = [asked.body["prompt"]] if "prompt" in asked.body else [one["content"] for one in asked.body["messages"]]
            await asked.reply(200, {"count": len("".join(texts)), "max_model_len": 64, "tokens": []})
        elif asked.path.endswith("completions"):
            await self.answer(asked)
        else:
            await asked.reply(404, {"detail": "Not Found"})


async def _watch(reader: asyncio.StreamReader, asked: Asked) -> None:
    with suppress(ConnectionError):
        await reader.read(1)
    asked.closed.set()


@asynccontextmanager
async def running(*servers: FakeServer) -> AsyncIterator[None]:
    """The servers, listening on free ports, or on those that they had before."""
    started = []
    for server in servers:
        listening = await asyncio.start_server(server.serve, "127.0.0.1", server.port)
        server.port = listening.sockets[0].getsockname()[1]
        started.append(listening)
    try:
        yield
    finally:
        for listening in started:
            listening.close()
        tasks = [task for server in servers for task in server.tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)


@asynccontextmanager
async def backend_of(*servers: FakeServer, timeouts: Timeouts = QUICK, wait: bool = True, **knobs: Any) -> AsyncIterator[UpstreamBackend]:
    """A backend in front of servers that listen; it is ready, unless `wait` is false."""
    backend = UpstreamBackend([server.url for server in servers], timeouts=timeouts, **knobs)
    try:
        backend.ready()
        if wait:
            await until(lambda: backend.statistics().servers == len(servers))
        yield backend
    finally:
        await backend.close(0)


async def until(condition: Callable[[], bool], seconds: float = 3.0) -> None:
    """Wait until it holds."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)


def job_of(question: str = "颜色", **changes: Any) -> Job:
    return replace(Job("demo", "ann", messages=({"role": "user", "content": question},), max_new_tokens=20), **changes)
