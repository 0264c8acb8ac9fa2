"""What one user can do to others, with `imprint serve` in a process of its own: `python -m tests.serve.drills FOLDER [NAME ...]`."""

import asyncio
import itertools
import json
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx2

from imprint.terminal import say
from tests.serve.processes import Service, service
from tests.serve.tiny_runs import tiny_run

ENDLESS: Final[dict[str, Any]] = {"model": "mine", "prompt": "今天", "temperature": 2.0, "top_p": 1.0}
"""An answer that ends where the context does, nearly always."""


@dataclass
class Told:
    """What a stream told."""

    begun: float
    status: int = 0
    places: list[int] = field(default_factory=list)
    """Its places in the queue."""
    texts: list[float] = field(default_factory=list)
    """When a part of the answer came."""
    last: str = ""
    """The last line."""
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


async def stream(client: httpx2.AsyncClient, tokens: int | None = None, **changes: Any) -> Told:
    """Ask for an answer in a stream and read it to its end."""
    told = Told(time.perf_counter())
    body = {**ENDLESS, "max_tokens": tokens, "stream": True, "queue_events": True, **changes}
    async with client.stream("POST", "/v1/completions", json=body) as answer:
        told.status = answer.status_code
        async for line in answer.aiter_lines():
            if line.startswith(": queue"):
                told.places.append(int(line.rpartition(" ")[2]))
            if line.startswith("data: {") and '"error"' not in line and json.loads(line[6:])["choices"]:
                told.texts.append(time.perf_counter())
            told.last = line or told.last
    told.ended = time.perf_counter()
    return told


async def greedy(client: httpx2.AsyncClient, tokens: int = 8) -> Told:
    """A short answer of somebody who wants nothing special."""
    return await stream(client, tokens, temperature=0)


def milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.0f} ms"


def fairness(folder: Path, tries: int = 20) -> str:
    """One user has 50 requests at a time; another waits for the first text no longer than until a slot is free."""
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

        alone, beside, others = asyncio.run(run())
    assert all(one.is_whole for one in (*alone, *beside, *others))
    passed = [sum(one.begun < other.texts[0] < one.texts[0] for other in others) for one in beside]
    assert max(passed) <= 3, passed  # two that began while it came in, and one more
    turns = [other.ended - other.texts[0] for other in others]
    return (
        f"first text alone after {milliseconds(statistics.median(one.first for one in alone))}, beside 50 requests of another user at two "
        f"slots after {milliseconds(statistics.median(one.first for one in beside))}, where an answer of those takes "
        f"{milliseconds(statistics.median(turns))}; at most {max(passed)} of {len(others)} began in between"
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


DRILLS: Final[Mapping[str, Callable[[Path], str]]] = {"fairness": fairness, "queue": full_queue, "leaving": leaving, "sigterm": sigterm}


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
