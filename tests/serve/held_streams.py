"""Streams that ask one question after another: `python -m tests.serve.held_streams FOLDER [SECONDS [STREAMS [PAUSE]]]`.

64 for an hour, and without a pause, if left out. With seconds of pause before every step of the decoder, they take few of the processor.
"""

import asyncio
import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest

from imprint.inference.decoder import Decoder
from imprint.inference.request import Token
from imprint.serve.generation.models import open_worker
from imprint.serve.section import ServeSection
from imprint.terminal import say
from tests.serve.tiny_runs import tiny_run
from tests.serve.web.scripted import KEY, ScriptedStore, principal, serving

QUESTIONS = ["你好", "你是谁？", "12+30=?", "类型#上衣*颜色#白色", "今天真冷", "讲一个故事", "颜色#黑色", "再见"]


async def ask(client: httpx2.AsyncClient, model: str, text: str, tokens: int = 12) -> str:
    """A greedy answer, streamed."""
    body = {"model": model, "messages": [{"role": "user", "content": text}], "temperature": 0, "max_tokens": tokens, "stream": True}
    answer = ""
    async with client.stream("POST", "/v1/chat/completions", json=body) as stream:
        async for line in stream.aiter_lines():
            if line.startswith("data: {"):
                answer += json.loads(line[6:])["choices"][0]["delta"].get("content", "")
        assert line == "" or line.endswith("[DONE]")
    return answer


Resources = tuple[int, float]


def resources() -> Resources:
    """Open file handles, and MiB of memory."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return len(os.listdir("/proc/self/fd")), pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def step_after(seconds: float) -> Callable[[Decoder], list[Token]]:
    """A step of a decoder with a pause before it."""
    step = Decoder.step

    def paused(decoder: Decoder) -> list[Token]:
        time.sleep(seconds)
        return step(decoder)

    return paused


async def keep_asking(url: str, streams: int, seconds: float, pause: float) -> tuple[int, list[str], Resources, Resources]:
    """Streams that ask one question after another; how many answers there were, the wrong ones, and the resources before and after."""
    limits = httpx2.Limits(max_connections=streams)
    headers = {"Authorization": f"Bearer {KEY}"}
    async with httpx2.AsyncClient(base_url=url, headers=headers, verify=False, timeout=60, limits=limits) as client:
        right = {(model, text): await ask(client, model, text) for model in ("base", "mine") for text in QUESTIONS}
        places, wrong, count = list(right), [], 0
        end, before = time.monotonic() + seconds, resources()

        async def stream(number: int) -> None:
            nonlocal count, before
            while time.monotonic() < end or count < 3 * streams:
                place = places[(number + count) % len(places)]
                if (answer := await ask(client, *place)) != right[place]:
                    wrong.append(f"{place}: {answer}")
                count += 1
                if count == 2 * streams:
                    before = resources()

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Decoder, "step", step_after(pause))
            await asyncio.gather(*(stream(number) for number in range(streams)))
        return count, wrong, before, resources()


def hold_streams(folder: Path, streams: int, seconds: float, pause: float = 0.0) -> None:
    """Serve the base and a run to so many streams for so long: every answer is as asked alone, and nothing is left of it.

    `pause`: seconds before every step of the decoder, once it is known how each question is answered alone.
    """
    section = ServeSection(device="cpu", slots=streams, kv_tokens=2**16)
    worker = open_worker(["embedded", str(tiny_run(folder / "mine"))], section)
    store = ScriptedStore()
    store.keys.principals[KEY] = principal("ada", "user", concurrency=streams, tokens_a_day=10**12)
    store.quota.most = 10**12
    with serving(worker, store.as_store()) as running:
        count, wrong, before, after = asyncio.run(keep_asking(running.url, streams, seconds, pause))
        statistics = worker.statistics()
    assert wrong == []
    assert count > streams
    assert (statistics.running, statistics.waiting, statistics.kv_tokens, statistics.failed, statistics.restarts) == (0, 0, 0, 0, 0)
    assert store.quota.reserved == 0
    assert after[0] <= before[0]
    assert after[1] - before[1] < 64
    own, more = os.times(), after[1] - before[1]
    left = f"{more:.0f} MiB more, {after[0]} file handles, {own.user + own.system:.0f} s of the processor"
    say(f"{count:,} answers of {streams} streams in {seconds:g} s, all right; {left}")


def main(folder: Path, seconds: str = "3600", streams: str = "64", pause: str = "0") -> int:
    """Hold the streams, with the run that they ask in a new folder."""
    shutil.rmtree(folder, ignore_errors=True)
    hold_streams(folder, int(streams), float(seconds), float(pause))
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).absolute(), *sys.argv[2:5]))
