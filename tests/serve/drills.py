"""What one user can do to others, with `imprint serve` in a process of its own: `python -m tests.serve.drills FOLDER [NAME ...]`."""

import asyncio
import itertools
import json
import shutil
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx2

from imprint.serve.store import Store
from imprint.terminal import say
from tests.serve.changed_programs import with_failing_steps
from tests.serve.processes import Service, service
from tests.serve.stores import HOME, PASSWORD
from tests.serve.tiny_runs import tiny_run
from tests.serve.upstream.slow_server import slow_server

ENDLESS: Final[dict[str, Any]] = {"model": "mine", "prompt": "今天", "temperature": 2.0, "top_p": 1.0}
"""An answer that ends where the context does, nearly always."""


@dataclass
class Told:
    """What a stream told."""

    begun: float
    status: int = 0
    places: list[int] = field(default_factory=list)
    """Its places in the queue."""
    queued: float = 0.0
    """When the first of them came; 0 where none did."""
    texts: list[float] = field(default_factory=list)
    """When a part of the answer came."""
    last: str = ""
    """The last line."""
    ends: int = 0
    """How many lines ended it."""
    ended: float = 0.0

    @property
    def first(self) -> float:
        """Seconds to the first text."""
        return self.texts[0] - self.begun

    @property
    def is_whole(self) -> bool:
        return self.last == "data: [DONE]"

    @property
    def error(self) -> str:
        """The code of the error with which it ended; nothing if there was none."""
        return json.loads(self.last.removeprefix("data: "))["error"]["code"] if '"error"' in self.last else ""


async def stream(client: httpx2.AsyncClient, tokens: int | None = None, *, told: Told | None = None, **changes: Any) -> Told:
    """Ask for an answer in a stream and read it to its end. `told`: where to note what it tells, for who looks before."""
    told = told or Told(time.perf_counter())
    body = {**ENDLESS, "max_tokens": tokens, "stream": True, "queue_events": True, **changes}
    async with client.stream("POST", "/v1/completions", json=body) as answer:
        told.status = answer.status_code
        async for line in answer.aiter_lines():
            if line.startswith(": queue"):
                told.queued = told.queued or time.perf_counter()
                told.places.append(int(line.rpartition(" ")[2]))
            if line.startswith("data: {") and '"error"' not in line and json.loads(line[6:])["choices"]:
                told.texts.append(time.perf_counter())
            told.ends += line == "data: [DONE]" or '"error"' in line
            told.last = line or told.last
    told.ended = time.perf_counter()
    return told


async def greedy(client: httpx2.AsyncClient, tokens: int = 8) -> Told:
    """A short answer of somebody who wants nothing special."""
    return await stream(client, tokens, temperature=0)


def milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.0f} ms"


def fairness(folder: Path, tries: int = 60) -> str:
    """One user has 50 requests at a time; another waits for the first text by one turn of a slot longer than alone, at most."""
    with service(folder / "mine", folder / "fair", "slots=2", "kv_tokens=4096") as served:
        many, few = served.key("many", concurrency=50), served.key("few")

        async def run() -> tuple[list[Told], list[Told], list[Told]]:
            async with served.client(many) as crowd, served.client(few) as other:
                alone = [await greedy(other) for _ in range(tries)]
                others: list[Told] = []
                over = asyncio.Event()

                async def ask_on() -> None:
                    while not over.is_set():
                        others.append(await stream(crowd, 100))

                crowding = [asyncio.create_task(ask_on()) for _ in range(50)]
                await asyncio.sleep(1)
                beside = []
                for _ in range(tries):
                    beside.append(await greedy(other))
                    await asyncio.sleep(0.02)
                over.set()
                await asyncio.gather(*crowding)
                return alone, beside, others

        return tell_fairness(*asyncio.run(run()))


def tell_fairness(alone: list[Told], beside: list[Told], others: list[Told]) -> str:
    """What one user waited alone and beside the requests of another, whose turn is the time for which an answer of theirs has a slot."""
    assert all(one.is_whole for one in (*alone, *beside, *others))
    waited = [one for one in beside if one.queued]
    freed = [sorted(other.ended for other in others if one.queued < other.ended < one.texts[0]) for one in waited]
    assert max(map(len, freed)) <= 3, [len(ends) for ends in freed]  # two turns, and an answer that ends beside the second
    ended = [one for one in (*beside, *others) if beside[0].begun < one.ended <= beside[-1].ended]
    turn = 2 * (beside[-1].ended - beside[0].begun) / len(ended)
    first, longer = (statistics.median(one.first for one in told) for told in (alone, beside))
    parts = {
        "until it is queued": [one.queued - one.begun for one in waited],
        "until its slot is free": [(ends or [one.queued])[-1] - one.queued for one, ends in zip(waited, freed, strict=True)],
        "until its first text": [one.texts[0] - (ends or [one.queued])[-1] for one, ends in zip(waited, freed, strict=True)],
    }
    assert longer - first <= turn * 1.25, (first, longer, turn)  # the machine may be in use
    return (
        f"first text alone after {milliseconds(first)}, beside 50 requests of another user at two slots after {milliseconds(longer)} "
        f"({', '.join(f'{milliseconds(statistics.median(each))} {name}' for name, each in parts.items())}), where an answer has a slot "
        f"for {milliseconds(turn)}; of {len(ended)} answers at most {max(map(len, freed))} ended while one of this user waited"
    )


def full_queue(folder: Path, tries: int = 200) -> str:
    """The queue is full: a refusal comes at once, says when to come again, and places in the queue never grow."""
    with service(folder / "mine", folder / "queue", "slots=1", "max_waiting=16", "kv_tokens=4096") as served:
        keys = [served.key(f"user-{number}", concurrency=20) for number in range(8)]

        async def run() -> tuple[list[float], list[Told]]:
            clients = [served.client(key) for key in keys]
            told: list[Told] = []
            over = asyncio.Event()

            async def ask_on(client: httpx2.AsyncClient) -> None:
                while not over.is_set():
                    told.append(await stream(client, 30))
                    await asyncio.sleep(0.01 if told[-1].status == 200 else 0.2)

            tasks = [asyncio.create_task(ask_on(client)) for client in clients[1:] for _ in range(4)]
            await asyncio.sleep(1)
            seconds: list[float] = []
            while len(seconds) < tries:
                begun = time.perf_counter()
                answer = await clients[0].post("/v1/completions", json={**ENDLESS, "max_tokens": 1})
                if answer.status_code == 429:
                    seconds.append(time.perf_counter() - begun)
                    assert answer.json()["error"]["code"] == "queue_full"
                    assert int(answer.headers["retry-after"]) >= 1
                await asyncio.sleep(0.01)
            over.set()
            await asyncio.gather(*tasks)
            for client in clients:
                await client.aclose()
            return seconds, told

        seconds, told = asyncio.run(run())
    waited = [one.places for one in told if one.places]
    assert all(earlier > later for places in waited for earlier, later in itertools.pairwise(places))
    assert waited
    assert statistics.median(seconds) < 0.05
    late = sum(one >= 0.05 for one in seconds)
    return (
        f"{len(seconds)} refusals with Retry-After in {milliseconds(statistics.median(seconds))} (median; {late} took 50 ms or longer, "
        f"the longest {milliseconds(max(seconds))}); {len(waited)} answers waited, none went back from a place"
    )


def leaving(folder: Path, count: int = 200) -> str:
    """Clients of endless answers leave after half a second: all slots are free within a second, and nothing more is written."""
    with service(folder / "mine", folder / "leaving", "slots=64", "max_waiting=1024") as served:
        key, other = served.key("many", concurrency=count), served.key("other")

        async def run() -> tuple[float, float, float]:
            async with served.client(other) as patient:
                right = await greedy(patient)
                async with served.client(key) as client:
                    tasks = [asyncio.create_task(stream(client)) for _ in range(count)]
                    await asyncio.sleep(0.5)
                    while served.figures()["running"] < min(count, 64):
                        await asyncio.sleep(0.02)
                    for task in tasks:
                        task.cancel()
                    await asyncio.gather(*tasks, return_exceptions=True)
                begun, written = time.perf_counter(), served.figures()["new_tokens_total"]
                asked = asyncio.create_task(greedy(patient))
                while (now := served.figures())["running"] > 1 or now["waiting"]:
                    assert time.perf_counter() - begun < 5
                    await asyncio.sleep(0.01)
                free = time.perf_counter() - begun
                again = await asked
                assert again.is_whole
                assert right.is_whole
                while (now := served.figures())["running"] or now["kv_tokens"]:
                    await asyncio.sleep(0.01)
                return again.ended - again.begun, free, (now["new_tokens_total"] - written - 8) / min(count, 64)

        answered, free, more = asyncio.run(run())
    assert answered < 5
    assert free < 1
    return (
        f"{count} clients leave in the middle of endless answers: all slots are free after {milliseconds(free)}, after {more:.1f} "
        f"more tokens of each; the next client has its whole answer after {milliseconds(answered)}"
    )


def sigterm(folder: Path, count: int = 50, grace: float = 2.0) -> str:
    """At SIGTERM every stream ends with a terminal event, and the process within the grace and two seconds; twice: at once."""
    with service(folder / "mine", folder / "sigterm", f"grace={grace}", f"slots={count // 2}") as served:
        key = served.key("many", concurrency=count)

        async def run() -> tuple[list[Told], int, float]:
            async with served.client(key) as client:
                tasks = [asyncio.create_task(stream(client, stop=[str(number)])) for number in range(count)]
                while served.figures()["running"] < count // 2 or served.figures()["waiting"] < 1:
                    await asyncio.sleep(0.02)
                status, seconds = await asyncio.to_thread(served.end)
                return await asyncio.gather(*tasks), status, seconds

        told, status, seconds = asyncio.run(run())
        log = served.log.read_text(encoding="utf-8")
    ends = ["whole" if one.is_whole else one.error for one in told]
    assert status == 0
    assert seconds <= grace + 2
    assert set(ends) <= {"whole", "shutting_down", "engine_unavailable"}, ends
    assert "Traceback" not in log
    assert key not in log
    with service(folder / "mine", folder / "sigterm", "grace=60") as served:
        key = served.key("again", concurrency=count)

        async def twice() -> float:
            async with served.client(key) as client:
                tasks = [asyncio.create_task(stream(client)) for _ in range(4)]
                while served.figures()["running"] < 4:
                    await asyncio.sleep(0.02)
                served.process.terminate()
                await asyncio.sleep(0.2)
                assert served.process.poll() is None
                status, at_once = await asyncio.to_thread(served.end)
                assert status == 128 + 15
                await asyncio.gather(*tasks, return_exceptions=True)
                return at_once

        at_once = asyncio.run(twice())
    assert at_once < 1
    return (
        f"{len(ends)} streams: {ends.count('whole')} ended as whole answers, {len(ends) - ends.count('whole')} with an error event, "
        f"exit 0 after {seconds:.1f} s (grace {grace:g} s); a second signal ends it in {milliseconds(at_once)}"
    )


def longest(intervals: list[float]) -> float:
    """The length below which 99 % are, in seconds."""
    return statistics.quantiles(intervals, n=100, method="inclusive")[-1]


def memory(process_id: int, name: str) -> float:
    """MiB of a process: `VmRSS`, or `VmHWM`, the most since that was forgotten."""
    lines = Path(f"/proc/{process_id}/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024


def flood(folder: Path, count: int = 200, streams: int = 16) -> str:
    """So many sign in at a time, each from another address and until the password is verified, while streams get a token every 100 ms."""
    data = folder / "flood"
    with Store.open(data) as store:  # a public service waits for this password to be changed
        password = store.first_password or ""
        store.sessions.change_password(store.sessions.login("admin", password, HOME).principal, password, PASSWORD, HOME)
    with slow_server(0.1) as server, service(server, data, "proxies=[127.0.0.1]", f"slots={streams}", "grace=1") as served:
        key, process_id = served.key("many", concurrency=streams), served.process.pid

        async def sign_in(client: httpx2.AsyncClient, number: int) -> int:
            headers = {"X-Forwarded-For": f"10.0.{number}.1", "X-Requested-With": "imprint", "Connection": "close"}
            refused = 0
            while True:
                answer = await client.post("/api/session", json={"name": f"user-{number}", "password": "wrong"}, headers=headers)
                if answer.status_code == 401:
                    return refused
                assert (answer.status_code, answer.headers["retry-after"].isdigit()) == (429, True), answer.text
                refused += 1
                await asyncio.sleep(1)

        async def run() -> tuple[list[Told], float, float, list[int], float]:
            async with served.client(key) as client, served.client("") as visitors:
                told = [Told(time.perf_counter()) for _ in range(streams)]
                tasks = [asyncio.create_task(stream(client, 10_000, told=one, model="demo")) for one in told]
                await asyncio.sleep(12)
                before = memory(process_id, "VmRSS")
                Path(f"/proc/{process_id}/clear_refs").write_text("5", encoding="ascii")  # forget the most so far
                begun = time.perf_counter()
                refused = await asyncio.gather(*(sign_in(visitors, number) for number in range(count)))
                ended = time.perf_counter()
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                return told, begun, ended, refused, memory(process_id, "VmHWM") - before

        told, begun, ended, refused, more = asyncio.run(run())
    pairs = [pair for one in told for pair in itertools.pairwise(one.texts[10:])]
    normal = longest([later - earlier for earlier, later in pairs if later < begun])
    beside = longest([later - earlier for earlier, later in pairs if earlier < ended and later > begun])
    assert more < 2.5 * 64, more  # each hash takes 64 MiB
    assert beside <= 2 * normal, (beside, normal)
    return (
        f"{count} logins at a time, verified within {ended - begun:.0f} s and {sum(refused)} times told to come again, take {more:.0f} MiB "
        f"more: two hashes at a time; 99 % of the intervals of {streams} streams last {milliseconds(normal)} before, "
        f"{milliseconds(beside)} beside it, ratio {beside / normal:.2f}"
    )


@contextmanager
def watched(url: str) -> Iterator[list[tuple[float, int]]]:
    """When `/health/ready` said what, all the time."""
    seen: list[tuple[float, int]] = []
    over = threading.Event()

    def watch() -> None:
        with httpx2.Client(base_url=url, timeout=10, trust_env=False) as client:
            while not over.wait(0.002):
                seen.append((time.perf_counter(), client.get("/health/ready").status_code))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


async def ask_beside_fault(client: httpx2.AsyncClient, fault: Path, kind: str, seconds: float) -> tuple[float, float, list[Told]]:
    """Eight users ask without a pause while the steps fail, once if `seconds` is 0; when that began and ended, and what was answered."""
    told: list[Told] = []
    over = asyncio.Event()

    async def ask_on(number: int) -> None:
        while not over.is_set():
            told.append(await stream(client, 100, model=("base", "mine")[number % 2], temperature=0, stop=[str(number)]))
            await asyncio.sleep(0.001 if told[-1].status == 200 else 0.1)

    tasks = [asyncio.create_task(ask_on(number)) for number in range(8)]
    await asyncio.sleep(1)
    begun = time.perf_counter()
    fault.with_suffix(".part").write_text(f"{kind} {'always' if seconds else 'once'}", encoding="ascii")
    fault.with_suffix(".part").rename(fault)
    if seconds:
        await asyncio.sleep(seconds)
        fault.unlink()
    while fault.exists():
        await asyncio.sleep(0.001)
    ended = time.perf_counter()
    await asyncio.sleep(seconds + 2)
    over.set()
    await asyncio.wait_for(asyncio.gather(*tasks), 60)  # no request hangs
    return begun, ended, told


def failing_steps(folder: Path) -> str:
    """Steps of the model fail, once or for three seconds, while eight users ask at four slots: nobody is left without an end."""
    fault, said = folder / "fault", []
    with service(folder / "mine", folder / "failing", "slots=4", program=with_failing_steps(fault)) as served:
        key = served.key("many", concurrency=8)

        async def run(kind: str, seconds: float) -> tuple[float, float, list[Told]]:
            async with served.client(key) as client:
                return await ask_beside_fault(client, fault, kind, seconds)

        for kind, seconds in itertools.product(("device", "memory"), (0.0, 3.0)):
            with watched(served.url) as seen:
                begun, ended, told = asyncio.run(run(kind, seconds))
            down = [when for when, status in seen if status == 503]
            assert {status for when, status in seen if when < begun} == {200}
            assert seen[-1][1] == 200
            assert all(one.ends == 1 for one in told)
            assert all(one.is_whole or one.error == "engine_unavailable" for one in told)
            refused, whole = sum(one.status == 503 for one in told), sum(one.is_whole for one in told)
            ends = f"{whole} answers whole, {len(told) - whole - refused} ended with an error event, {refused} refused"
            assert down or not seconds
            assert not down or down[0] - begun < 5
            after = (
                f"503 after {milliseconds(down[0] - begun)}, 200 {milliseconds(max(0.0, down[-1] - ended))} after it" if down else "no 503"
            )
            said.append(f"{kind} {f'for {seconds:g} s' if seconds else 'once'}: {after}; {ends}")
        restarts = served.figures()["restarts_total"]
    return f"{'; '.join(said)}; the decoder was made anew {restarts:.0f} times"


DRILLS: Final[Mapping[str, Callable[[Path], str]]] = {
    "fairness": fairness,
    "queue": full_queue,
    "leaving": leaving,
    "sigterm": sigterm,
    "flood": flood,
    "steps": failing_steps,
}


def main(folder: Path, names: list[str]) -> int:
    """Run the drills of these names, or all, in a new folder; tell what each measured."""
    shutil.rmtree(folder, ignore_errors=True)
    tiny_run(folder / "mine")
    for name in names or DRILLS:
        begun = time.monotonic()
        say(f"{name}: {DRILLS[name](folder)} [{time.monotonic() - begun:.0f} s]")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).absolute(), sys.argv[2:]))


__all__ = ["DRILLS", "Service", "Told", "stream"]
