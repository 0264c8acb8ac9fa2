"""A backend that plays a script, a store of two accounts, and a real server on a free port."""

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import httpx2
from fastapi import FastAPI

from imprint.messages import Bilingual
from imprint.serve.generation.answer import COUNTED_CONTEXTS
from imprint.serve.generation.job import (
    Alternative,
    Backend,
    Ended,
    Generation,
    Job,
    ModelInfo,
    RefusedError,
    Statistics,
    TextDelta,
    TokenPiece,
    Waiting,
)
from imprint.serve.store.database import Outcome, outcome_of
from imprint.serve.store.errors import StoreError
from imprint.serve.store.principal import Principal, Role
from imprint.serve.store.quota import Reservation, Usage
from imprint.serve.store.store import Store
from imprint.serve.web.app import create_app, drain
from imprint.serve.web.protocol import BoundedProtocol
from imprint.serve.web.server import Server, bind, build_server
from imprint.serve.web.settings import WebSettings

MODELS = (
    ModelInfo("base", "toy", None, 128, supports_tools=True, licence="MIT", note=Bilingual("For tests.", "测试用。")),
    ModelInfo("tuned", "toy", "base", 128, supports_tools=False),
)
KEY = "sk-of-ada"
LIMITED_KEY = "sk-of-bob"
ADMIN_KEY = "sk-of-root"
FLOOD_CHARACTERS = 8_000_000
"""More than fits into the buffers of a connection that nobody reads."""


class ScriptedBackend:
    """Answers `echo: QUESTION`, one character a token; words of the question say what happens instead.

    "slow": a hundred milliseconds a token, for ever; "fail": an error after two tokens; "full", "bug": refused, or a bug, at once;
    "queue": two others first; "say X": X; "flood": long texts without an end.
    """

    def __init__(self, delay: float = 0.0) -> None:
        self.delay = delay
        self.jobs: list[Job] = []
        self.counts = 0
        """How many prompts were counted."""
        self.generations: list[Generation] = []
        self.is_ready = True
        self.tasks: set[asyncio.Task[None]] = set()
        self.running = 0
        self.max_messages = 1000

    def models(self) -> Sequence[ModelInfo]:
        return MODELS

    async def count(self, job: Job) -> int:
        self.counts += 1
        return self._length(prompt_text(job), COUNTED_CONTEXTS * 128)

    def _length(self, text: str, most: int = 127) -> int:
        if len(text) > most:
            message = Bilingual(f"The prompt has {len(text)} tokens, the context 128.", f"输入 {len(text)} 个词元，上下文 128 个。")
            raise RefusedError("context_length_exceeded", message)
        return len(text)

    async def submit(self, job: Job, *, held: bool = False) -> Generation:
        text = prompt_text(job)
        if text == "bug":
            raise ZeroDivisionError("secret detail")
        if len(job.messages or ()) > self.max_messages:
            text = "x" * 128
        generation = Generation(self._length(text), begin=lambda: self._begin(generation, job, text))
        if not held:
            generation.begin()
        return generation

    def _begin(self, generation: Generation, job: Job, text: str) -> None:
        self.jobs.append(job)
        if text == "full":
            raise RefusedError("queue_full", Bilingual("Too many wait.", "排队已满。"), retry_after=3)
        self.generations.append(generation)
        task = asyncio.create_task(self._play(generation, job, text))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def ready(self) -> bool:
        return self.is_ready

    def statistics(self) -> Statistics:
        return Statistics(running=self.running, new_tokens=3)

    async def close(self, grace: float) -> None:
        until = time.monotonic() + grace
        while self.tasks and time.monotonic() < until:
            await asyncio.sleep(0.01)
        for generation in self.generations:
            generation.cancel()

    async def _play(self, generation: Generation, job: Job, text: str) -> None:
        self.running += 1
        try:
            if text == "queue":
                for position in (2, 1):
                    generation.push(Waiting(position))
                    await asyncio.sleep(0.005)
            answer = text.removeprefix("say ") if text.startswith("say ") else f"echo: {text}"
            if text == "flood":
                await self._flood(generation)
                return
            characters = "." * 10_000 if text == "slow" else answer
            limit = job.max_new_tokens or 10_000
            for number, character in enumerate(characters[:limit], start=1):
                if generation.ended:
                    return
                generation.push(TextDelta(character, (token(character, job.top_logprobs),)))
                if text == "fail" and number == 2:
                    generation.push(Ended("error", len(text), 2, Bilingual("Numbers were not finite.", "数值不是有限的。")))
                    return
                await asyncio.sleep(0.1 if text == "slow" else self.delay)
            generation.push(Ended("length" if len(characters) > limit else "stop", len(text), min(limit, len(characters))))
        finally:
            self.running -= 1

    async def _flood(self, generation: Generation) -> None:
        sent = 0
        while not generation.ended:
            if sent < FLOOD_CHARACTERS:
                generation.push(TextDelta("." * 200_000, (token(".", None),)))
                sent += 200_000
            await asyncio.sleep(0.002)


def token(character: str, top: int | None) -> TokenPiece:
    alternatives = tuple(Alternative(number, f"{number}".encode(), -1.0 - number) for number in range(top or 0))
    return TokenPiece(ord(character), character.encode(), -0.5, character, alternatives)


def prompt_text(job: Job) -> str:
    return str(job.messages[-1]["content"]) if job.messages is not None else job.text or ""


def principal(name: str, role: Role, **changes: Any) -> Principal:
    values: dict[str, Any] = {
        "account_id": 1,
        "name": name,
        "role": role,
        "owner": f"account:{name}",
        "models": None,
        "tokens_a_day": 1_000_000,
        "concurrency": 2,
        "session_id": None,
        "key_id": "k",
        "must_change_password": False,
    }
    return Principal(**{**values, **changes})


@dataclass
class Found:
    """Secrets -> who has them."""

    principals: dict[str, Principal]

    def of(self, secret: str, /) -> Principal | None:
        return self.principals.get(secret)


@dataclass
class CountedQuota:
    """Refuses from `most` tokens on."""

    most: int = 1_000_000
    used: int = 0
    reserved: int = 0
    settled: list[int] = field(default_factory=list)

    def reserve(self, principal: Principal, address: str, tokens: int) -> Reservation:
        if self.used + self.reserved + tokens > self.most:
            raise StoreError("quota_exceeded", Bilingual("No tokens are left.", "额度已用完。"), retry_after=60)
        self.reserved += tokens
        return Reservation(str(tokens), self.usage(principal, address))

    def usage(self, _principal: Principal, _address: str) -> Usage:
        left = max(0, self.most - self.used - self.reserved)
        return Usage(self.most, self.used + self.reserved, left, 0.0)

    def settle(self, reservation: Reservation, tokens: int) -> None:
        self.reserved -= int(reservation.id)
        self.used += tokens
        self.settled.append(tokens)


class ScriptedStore:
    """Three keys, and no sessions; what goes on may go on."""

    def __init__(self) -> None:
        people = {
            KEY: principal("ada", "user"),
            LIMITED_KEY: principal("bob", "user", models=frozenset({"tuned"})),
            ADMIN_KEY: principal("root", "admin"),
        }
        self.keys = Found(people)
        self.sessions = Found({})
        self.quota = CountedQuota()
        self.unwanted = ""

    def revocations(self) -> int:
        return 0

    def log_bytes(self) -> int:
        return 0

    def observe_writes(self, observe: Callable[[float], None]) -> None:
        """It writes nothing."""

    def leaving_removal(self, tell: Callable[[], None]) -> AbstractContextManager[None]:
        """It has no sessions."""
        return nullcontext()

    def has_expired(self, principal: Principal) -> bool:
        return principal.expires_at is not None and time.time() >= principal.expires_at

    def is_valid(self, principal: Principal) -> bool:
        return principal.name != self.unwanted

    def batch(self, calls: Sequence[Callable[[], Any]], *, writes: bool) -> list[Outcome]:
        assert isinstance(writes, bool)
        return [outcome_of(call) for call in calls]

    def as_store(self) -> Store:
        """As routes take it."""
        return cast("Store", self)


class FastProtocol(BoundedProtocol):
    """Deadlines of tests."""

    receive_seconds = 0.4
    send_seconds = 0.6


@dataclass
class Running:
    """A server that runs."""

    server: Server
    app: FastAPI
    port: int
    loop: asyncio.AbstractEventLoop

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self, key: str = KEY) -> httpx2.Client:
        return httpx2.Client(base_url=self.url, headers={"Authorization": f"Bearer {key}"} if key else {}, timeout=20, verify=False)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=10)


@contextmanager
def serving(
    backend: Backend | None = None,
    store: Store | None = None,
    settings: WebSettings | None = None,
    protocol: type[BoundedProtocol] = BoundedProtocol,
    host: str = "127.0.0.1",
) -> Iterator[Running]:
    """A real server in a thread."""
    settings = settings or WebSettings(grace=0.5)
    app = create_app(backend or ScriptedBackend(), store or ScriptedStore().as_store(), settings)
    bound = bind(host, 0)
    server = build_server(app, partial(drain, app), proxies=settings.proxies, protocol=protocol)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=lambda: loop.run_until_complete(server.serve([bound])), daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.002)
    try:
        yield Running(server, app, bound.getsockname()[1] if bound.fileno() >= 0 else 0, loop)
    finally:
        loop.call_soon_threadsafe(server.stop)
        thread.join(10)
        loop.close()
    assert not thread.is_alive()
