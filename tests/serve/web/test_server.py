import asyncio
import json
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from imprint.serve.generation.job import Ended, Generation, Job, TextDelta
from imprint.serve.web.server import bind
from imprint.terminal import say
from tests.serve.web.readers import read_streams
from tests.serve.web.scripted import KEY, ScriptedBackend, serving, token

ROOT = Path(__file__).parents[3]
PROGRAM = """
import asyncio, sys
from functools import partial
from imprint.serve.web.app import create_app, drain
from imprint.serve.web.server import bind, build_server
from imprint.serve.web.settings import WebSettings
from tests.serve.web.scripted import ScriptedBackend, ScriptedStore
app = create_app(ScriptedBackend(), ScriptedStore().as_store(), WebSettings(grace=float(sys.argv[1])))
bound = bind("127.0.0.1", 0)
print(bound.getsockname()[1], flush=True)
asyncio.run(build_server(app, partial(drain, app)).serve([bound]))
print("ended", flush=True)
"""
BODY = {"model": "base", "messages": [{"role": "user", "content": "slow"}], "stream": True}


@contextmanager
def process(grace: float) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-c", PROGRAM, str(grace)]
    with subprocess.Popen(words, cwd=ROOT, env=environment, stdout=subprocess.PIPE, encoding="utf-8") as started:
        assert started.stdout is not None
        try:
            yield started, f"http://127.0.0.1:{int(started.stdout.readline())}"
        finally:
            started.kill()


@contextmanager
def streams(url: str, count: int) -> Iterator[dict[int, str]]:
    """Clients that read a stream to its end, all of which have begun, and what each has read last; whole afterwards."""
    ends: dict[int, str] = {}
    begun = threading.Semaphore(0)
    limits = httpx2.Limits(max_connections=count)
    client = httpx2.Client(timeout=30, verify=False, limits=limits, headers={"Authorization": f"Bearer {KEY}"})

    def read(number: int) -> None:
        try:
            with client.stream("POST", f"{url}/v1/chat/completions", json=BODY) as answer:
                begun.release()
                for line in answer.iter_lines():
                    if line:
                        ends[number] = line
        except httpx2.HTTPError as error:
            ends[number] = f"cut: {error}"

    threads = [threading.Thread(target=read, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for _ in threads:
        assert begun.acquire(timeout=20)
    try:
        yield ends
    finally:
        for thread in threads:
            thread.join()
        client.close()


def test_at_sigterm_50_streams_end_with_an_event_within_the_grace() -> None:
    with process(3) as (started, url), streams(url, 50) as ends, httpx2.Client(base_url=url) as client:
        client.get("/health/live")  # it is connected: what is asked below waits for no handshake
        begun = time.monotonic()
        started.send_signal(signal.SIGTERM)
        while (ready := client.get("/health/ready").status_code) == 200 and time.monotonic() - begun < 2:
            pass
        assert ready == 503
        assert client.get("/health/live").status_code == 200
        assert started.wait(20) == 0
        assert time.monotonic() - begun <= 3 + 8
    assert {json.loads(line.removeprefix("data: "))["error"]["code"] for line in ends.values()} == {"shutting_down"}
    assert len(ends) == 50


def test_a_second_signal_ends_it_at_once() -> None:
    with process(30) as (started, url), streams(url, 1):
        started.send_signal(signal.SIGTERM)
        time.sleep(0.1)
        assert started.poll() is None
        begun = time.monotonic()
        started.send_signal(signal.SIGTERM)
        assert started.wait(20) == 128 + signal.SIGTERM
        assert time.monotonic() - begun < 10


class TimedBackend(ScriptedBackend):
    """Answers with twenty parts, twenty a second, which say when they were made."""

    async def _play(self, generation: Generation, job: Job, text: str) -> None:
        for _ in range(20):
            generation.push(TextDelta(f"{time.monotonic()} ", (token("0", job.top_logprobs),)))
            await asyncio.sleep(0.05)
        generation.push(Ended("length", len(text), 20))


def test_50_streams_are_whole_and_99_of_100_events_come_at_once() -> None:
    with serving(TimedBackend()) as running:
        told = asyncio.run(read_streams(running, 50, "when?"))
    delays = [came - float(made) for parts in told for came, made in parts[1:-1]]
    late = statistics.quantiles(delays, n=100)[98]
    say(f"99 % of {len(delays)} events of 50 streams came within {1000 * late:.0f} ms")
    assert [len(parts) for parts in told] == [1 + 20 + 1] * 50
    assert late < 0.5  # others use the machine, too; `make drills` has the bound


def test_a_port_that_is_taken_is_said_before_anything_is_loaded() -> None:
    with bind("127.0.0.1", 0) as first, pytest.raises(OSError, match="in use"):
        bind("127.0.0.1", first.getsockname()[1])
