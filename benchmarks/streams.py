"""What a streamed event costs the HTTP layer: answers to many clients at a time, beside the same events of bare Starlette and uvicorn.

    python benchmarks/streams.py [--out FILE] [--streams 1000] [--events 100] [--rate 20] [--rounds 3] [--only ours] [--ramp 0]

Each stream has so many events, at so many a second. Ours pass the whole service: a key, a quota, the store, the form of OpenAI's API; a
backend that plays a script stands for the engine. Server and clients are two processes. All streams are asked at once, or within `--ramp`
seconds. One JSON line a round: seconds from the first request to the last event over the shortest possible, and of the slowest stream from
its first event to its last; milliseconds from the moment when an event is made until its client has it, of all, and of those since all
streams run; microseconds of the server's processor for an event, once all streams run, and milliseconds for a request until its stream
runs. Others who use the cores lengthen the seconds, and the time of the processor much less.
"""

import argparse
import asyncio
import json
import os
import re
import resource
import socket
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Sequence
from functools import partial
from pathlib import Path
from statistics import quantiles
from tempfile import TemporaryDirectory
from typing import Any

import uvicorn
from results import reporter
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route
from stream_client import connect, processor_seconds

from imprint.serve.generation.job import Ended, Generation, Job, ModelInfo, Statistics, TextDelta
from imprint.serve.store import COMMAND_LINE, Hashing, Store
from imprint.serve.web.app import create_app, drain
from imprint.serve.web.server import bind, build_server, prepare_process
from imprint.serve.web.settings import WebSettings

MADE = re.compile(r"at (\d+)!")
"""When an event was made, in nanoseconds of the monotonic clock, which all processes of a machine share."""
SERVERS = ("bare", "ours")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="append the lines to this file too")
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--events", type=int, default=100, help="of each stream")
    parser.add_argument("--rate", type=float, default=20.0, help="events of a stream a second")
    parser.add_argument("--ramp", type=float, default=0.0, help="seconds within which the streams are asked")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--only", choices=SERVERS)
    parser.add_argument("--serve", choices=SERVERS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if options.serve:
        serve = serve_ours if options.serve == "ours" else serve_bare
        asyncio.run(serve(options.events, options.rate))
        return
    report = reporter(options.out, cores=os.cpu_count())
    for _ in range(options.rounds):
        for name in [options.only] if options.only else SERVERS:
            report(server=name, **measure(name, options))


# The two servers.


def event_text() -> str:
    return f"at {time.monotonic_ns()}!"


async def serve_bare(events: int, rate: float) -> None:
    """A generator of Starlette, and nothing else."""

    async def stream(_request: Request) -> StreamingResponse:
        async def parts() -> AsyncGenerator[str]:
            begun = time.monotonic()
            for number in range(events):
                await asyncio.sleep(begun + number / rate - time.monotonic())
                yield f'data: {{"choices":[{{"delta":{{"content":"{event_text()}"}}}}]}}\n\n'
            yield "data: [DONE]\n\n"

        return StreamingResponse(parts(), media_type="text/event-stream")

    app = Starlette(routes=[Route("/v1/chat/completions", stream, methods=["POST"])])
    config = uvicorn.Config(app, http="h11", loop="asyncio", log_config=None, access_log=False, lifespan="off")
    bound = bind("127.0.0.1", 0)
    tell(bound, "")
    await uvicorn.Server(config).serve([bound])


async def serve_ours(events: int, rate: float) -> None:
    with TemporaryDirectory() as folder, Store.open(Path(folder), hashing=Hashing(memory_kib=8, passes=1)) as store:
        account = store.accounts.create("ada", actor=COMMAND_LINE, tokens_a_day=10**9).account
        key = store.keys.create(account.id, actor=COMMAND_LINE).key
        app = create_app(Scripted(events, rate), store, WebSettings())
        prepare_process()
        bound = bind("127.0.0.1", 0)
        tell(bound, key)
        await build_server(app, partial(drain, app)).serve([bound])


def tell(bound: socket.socket, key: str) -> None:
    print(json.dumps([bound.getsockname()[1], key]), flush=True)


class Scripted:
    """A backend whose answers have so many parts, at so many a second."""

    def __init__(self, events: int, rate: float) -> None:
        self.events = events
        self.rate = rate

    def models(self) -> Sequence[ModelInfo]:
        return [ModelInfo("base", "script", None, 4096, supports_tools=False)]

    async def submit(self, _job: Job, *, held: bool = False) -> Generation:
        loop = asyncio.get_running_loop()
        generation = Generation(1, begin=lambda: loop.call_soon(self._play, generation, 0, loop.time()))
        if not held:
            generation.begin()
        return generation

    def _play(self, generation: Generation, number: int, begun: float) -> None:
        if generation.ended:
            return
        generation.push(TextDelta(event_text(), unnamed=1))
        if number + 1 == self.events:
            generation.push(Ended("length", 1, self.events))
        else:
            asyncio.get_running_loop().call_at(begun + (number + 1) / self.rate, self._play, generation, number + 1, begun)

    async def count(self, _job: Job) -> int:
        return 1

    def ready(self) -> bool:
        return True

    def statistics(self) -> Statistics:
        return Statistics()

    async def close(self, grace: float) -> None:
        pass


# The clients.


def measure(name: str, options: Any) -> dict[str, Any]:
    """One server, all streams once."""
    words = [sys.executable, __file__, "--serve", name, "--events", str(options.events), "--rate", str(options.rate)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL) as server:
        try:
            assert server.stdout is not None
            port, key = json.loads(server.stdout.readline())
            return asyncio.run(read_all(server.pid, port, key, options))
        finally:
            server.terminate()


async def read_all(pid: int, port: int, key: str, options: Any) -> dict[str, Any]:
    body = {"model": "base", "messages": [{"role": "user", "content": "你好"}], "max_tokens": 100}
    streams = [await connect(port, key, body) for _ in range(options.streams)]
    await asyncio.sleep(0.2)
    begun, processor = time.monotonic(), [processor_seconds(pid)]
    for number, stream in enumerate(streams):
        if (early := begun + options.ramp * number / options.streams - time.monotonic()) > 0:
            await asyncio.sleep(early)
        stream.ask()
    for stream in streams:
        await stream.begun.wait()
    started = time.monotonic()
    before = sum(len(stream.parts) for stream in streams)
    processor.append(processor_seconds(pid))
    await asyncio.wait([asyncio.create_task(stream.done.wait()) for stream in streams], return_when=asyncio.FIRST_COMPLETED)
    processor.append(processor_seconds(pid))
    between = sum(len(stream.parts) for stream in streams) - before
    for stream in streams:
        await stream.done.wait()
    seconds = time.monotonic() - begun
    told = [[(came, int(made) / 1e9) for came, text in stream.texts() for made in MADE.findall(text)] for stream in streams]
    delays = [1e3 * (came - made) for one in told for came, made in one]
    later = [1e3 * (came - made) for one in told for came, made in one if made > started]
    slowest = max(one[-1][0] - one[0][0] for one in told)
    cuts = quantiles(delays, n=100)
    ideal = (options.events - 1) / options.rate
    return {
        "streams": options.streams,
        "complete": sum(stream.is_whole for stream in streams),
        "events_lost": options.streams * options.events - len(delays),
        "seconds": round(seconds, 2),
        "of_ideal": round(seconds / (ideal + options.ramp), 3),
        "slowest_of_ideal": round(slowest / ideal, 3),
        "seconds_until_all_run": round(started - begun, 2),
        "delay_ms_p50": round(cuts[49], 1),
        "delay_ms_p99": round(cuts[98], 1),
        "delay_ms_p99_since_all_run": round(quantiles(later, n=100)[98], 1),
        "processor_us_an_event": round(1e6 * (processor[2] - processor[1]) / max(between, 1), 1),
        "processor_ms_a_request": round(1e3 * (processor[1] - processor[0]) / options.streams, 2),
    }


if __name__ == "__main__":
    main()
