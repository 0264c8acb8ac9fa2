"""`imprint serve` is killed, again and again, while clients write over HTTP and slow answers come to the page."""

import asyncio
import random
import shutil
import sqlite3
import time
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx2

from imprint.serve.store import COMMAND_LINE, Store
from tests.serve.processes import Service, service
from tests.serve.stores import HOME, PASSWORD
from tests.serve.upstream.slow_server import QUICK, TOKEN, slow_server
from tests.serve.web.page import read_events

TOKEN_SECONDS: Final = 0.05
WRITERS: Final = 4
VIEWERS: Final = 4


@dataclass
class Acknowledged:
    """What a service has told its clients until it was killed."""

    chats: set[str] = field(default_factory=set)
    questions: dict[str, str] = field(default_factory=dict)
    """Message -> text."""
    whole: dict[str, str] = field(default_factory=dict)
    """Message of an answer of which the end was told -> text."""
    half: dict[str, list[tuple[float, int]]] = field(default_factory=dict)
    """Message of an answer that was coming -> when how many characters of it were there."""

    @property
    def rows(self) -> int:
        return len(self.chats) + len(self.questions) + len(self.whole) + len(self.half)


def sign_in(data: Path, names: list[str]) -> list[str]:
    """Sessions of new accounts."""
    with Store.open(data) as store:
        tokens = []
        for name in names:
            made = store.accounts.create(name, actor=COMMAND_LINE, tokens_a_day=10**9, concurrency=8)
            principal = store.sessions.login(name, made.password, HOME).principal
            tokens.append(store.sessions.change_password(principal, made.password, PASSWORD, HOME).token)
        return tokens


def browser(served: Service, token: str) -> httpx2.AsyncClient:
    """A client with a session."""
    headers = {"X-Requested-With": "imprint", "Cookie": f"imprint_session={token}"}
    return httpx2.AsyncClient(base_url=served.url, headers=headers, timeout=30, verify=False, trust_env=False)


async def write_on(client: httpx2.AsyncClient, told: Acknowledged) -> None:
    """Make chats, ask in them, and read the answers."""
    while True:
        chat = str((await client.post("/api/chats", json={})).json()["id"])
        told.chats.add(chat)
        for number in range(5):
            text = f"question {number} of {chat}, {QUICK}"
            asked = (await client.post(f"/api/chats/{chat}/messages", json={"models": ["demo"], "text": text})).json()
            told.questions[asked["question"]] = text
            (answer,) = asked["answers"]
            events = read_events((await client.get(f"/api/generations/{answer['generation']}/events")).text)
            if events and events[-1][0] == "end":
                told.whole[answer["message"]] = "".join(data["text"] for name, data in events if name == "text")


async def view(client: httpx2.AsyncClient, told: Acknowledged) -> None:
    """Watch an answer that has no end."""
    chat = str((await client.post("/api/chats", json={})).json()["id"])
    asked = (await client.post(f"/api/chats/{chat}/messages", json={"models": ["demo"], "text": "a long story"})).json()
    (answer,) = asked["answers"]
    told.chats.add(chat)
    told.questions[asked["question"]] = "a long story"
    seen = told.half[answer["message"]] = []
    async with client.stream("GET", f"/api/generations/{answer['generation']}/events") as stream:
        count = 0
        async for line in stream.aiter_lines():
            count += line.count("字") + line.count("。")
            seen.append((time.time(), count))


async def write_until_killed(served: Service, tokens: list[str], seconds: float) -> tuple[Acknowledged, float]:
    """Let clients write for so long, and kill the service; what it had told, and when it was killed."""
    told = Acknowledged()
    clients = [browser(served, token) for token in tokens]

    async def until_gone(task: Any) -> None:
        with suppress(httpx2.HTTPError, ValueError):  # an answer that is cut is no JSON
            await task

    writing = [until_gone(write_on(client, told)) for client in clients[:WRITERS]]
    viewing = [until_gone(view(client, told)) for client in clients[WRITERS:]]
    gathered = asyncio.gather(*writing, *viewing)
    await asyncio.sleep(seconds)
    served.process.kill()
    killed = time.time()
    await gathered
    for client in clients:
        await client.aclose()
    return told, killed


def compare(data: Path, told: Acknowledged, killed: float) -> list[float]:
    """Compare the database with what was told, once a service has begun again; the seconds before the kill that each half answer lacks."""
    with closing(sqlite3.connect(data / "service.db")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        chats = {row[0] for row in connection.execute("SELECT public_id FROM chats")}
        rows = {row[0]: row[1:] for row in connection.execute("SELECT public_id, text, state FROM messages")}
    assert told.chats <= chats
    assert all(rows[message][0] == text for message, text in told.questions.items())
    assert all(rows[message] == (text, "done") for message, text in told.whole.items())
    missing = []
    for message, seen in told.half.items():
        text, state = rows[message]
        assert state == "interrupted"
        assert (TOKEN * (len(text) // len(TOKEN) + 1)).startswith(text)
        later = [when for when, count in seen if count > len(text)]
        missing.append(killed - later[0] if later else 0.0)
    return missing


def killed(folder: Path, kills: int = 40) -> str:
    """Kill a service with SIGKILL so often, at a random time, and look after each start at what it had told."""
    data, rng = folder / "killed", random.Random(0)
    shutil.rmtree(data, ignore_errors=True)
    tokens = sign_in(data, [f"user-{number}" for number in range(WRITERS + VIEWERS)])
    rows = whole = 0
    missing: list[float] = []
    with slow_server(TOKEN_SECONDS) as server:
        told, when = Acknowledged(), time.time()
        for number in range(kills + 1):
            with service(server, data, "slots=32", "grace=0") as served:  # each session goes on
                missing += compare(data, told, when)
                rows, whole = rows + told.rows, whole + len(told.whole)
                if number < kills:
                    told, when = asyncio.run(write_until_killed(served, tokens, 1.5 + 2 * rng.random()))
                else:
                    assert served.end()[0] == 0
    assert max(missing) <= 1.0 + TOKEN_SECONDS + 0.5, max(missing)  # the half second for a machine in use
    late = sum(one > 1.0 for one in missing)
    return (
        f"{kills} kills: {rows:,} rows acknowledged, 0 lost, {whole:,} answers whole, integrity_check ok; {len(missing)} half answers are "
        f"shown as interrupted, with the text up to {max(missing):.2f} s before the kill ({late} of them more than 1 s)"
    )
