"""Answers to many users at a time: tokens per second of the worker against the same questions one by one, and against the bare decoder.

    python benchmarks/serving.py [--out FILE] [--model embedded] [--users 16] [--tokens 48]
    python benchmarks/serving.py --http http://127.0.0.1:8504 --key KEY [--model base] [--users 16] [--tokens 48]

Every answer has exactly `--tokens` tokens: no token ends it. With `--http` the questions go through a service that runs already, whose
answers end where they end, with a key of an account that may have as many answers at a time as there are users. Seconds to the first
token are the median and the 95th percentile of all users. Prints one JSON line per case.
"""

import argparse
import asyncio
import json
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles

import httpx2
import torch

from imprint.inference import Decoder, Request
from imprint.serve.generation.job import Job, Piece
from imprint.serve.generation.models import open_worker
from imprint.serve.generation.section import ServedModelsSection
from imprint.serve.generation.worker import Worker

QUESTION = "{}：请为第{}件白色上衣写一段广告词，版型宽松，面料柔软。"
WARM_UP = 2


@dataclass(frozen=True)
class Told:
    """How one answer went."""

    tokens: int
    first_seconds: float


Ask = Callable[[int], Awaitable[Told]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="append the lines to this file too")
    parser.add_argument("--model", help="what to serve, by default embedded; with --http the model's name, by default base")
    parser.add_argument("--users", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=48, help="most tokens of an answer")
    parser.add_argument("--http", help="address of a service")
    parser.add_argument("--key", default="", help="its key")
    options = parser.parse_args()

    def report(**values: object) -> None:
        device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"cpu, {os.cpu_count()} cores"
        line = json.dumps({"device": device, "torch": torch.__version__, "users": options.users, "tokens": options.tokens, **values})
        print(line, flush=True)
        if options.out:
            with options.out.open("a", encoding="utf-8") as file:
                file.write(line + "\n")

    if options.http:
        asyncio.run(through_http(options.http, options.key, options.model or "base", options.users, options.tokens, report))
    else:
        asyncio.run(through_worker(options.model or "embedded", options.users, options.tokens, report))


async def through_worker(path: str, users: int, tokens: int, report: Callable[..., None]) -> None:
    worker = open_worker([path], ServedModelsSection(slots=users))
    worker._model.network.stop_ids = frozenset()

    async def ask(user: int) -> Told:
        begin, first, count = time.perf_counter(), 0.0, 0
        async for event in await worker.submit(job_of(user, tokens)):
            if isinstance(event, Piece):
                first = first or time.perf_counter() - begin
                count += len(event.tokens)
        return Told(count, first)

    single, together = await compare(ask, users)
    bare = bare_decoder(worker, users, tokens)
    await worker.close(0)
    report(case="worker", **together, one_by_one=single, ratio=together["tokens_per_second"] / single["tokens_per_second"])
    report(case="bare decoder", tokens_per_second=bare, worker_share=together["tokens_per_second"] / bare)


async def through_http(address: str, key: str, model: str, users: int, tokens: int, report: Callable[..., None]) -> None:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    async with httpx2.AsyncClient(base_url=address, headers=headers, timeout=600, limits=httpx2.Limits(max_connections=users)) as client:

        async def ask(user: int) -> Told:
            messages = [{"role": "user", "content": QUESTION.format(user, user)}]
            body = {"model": model, "messages": messages, "stream": True, "max_tokens": tokens, "temperature": 0}
            begin, first, count = time.perf_counter(), 0.0, 0
            async with client.stream("POST", "/v1/chat/completions", json={**body, "stream_options": {"include_usage": True}}) as answer:
                answer.raise_for_status()
                async for line in answer.aiter_lines():
                    if not line.startswith("data: {"):
                        continue
                    chunk = json.loads(line.removeprefix("data: "))
                    if any(choice["delta"].get("content") for choice in chunk.get("choices", ())):
                        first = first or time.perf_counter() - begin
                    count = (chunk.get("usage") or {}).get("completion_tokens", count)
            return Told(count, first)

        single, together = await compare(ask, users)
        report(case="http", **together, one_by_one=single, ratio=together["tokens_per_second"] / single["tokens_per_second"])


async def compare(ask: Ask, users: int) -> tuple[dict[str, float], dict[str, float]]:
    """The same questions one by one, and all at a time."""
    for user in range(WARM_UP):
        await ask(user)
    begin = time.perf_counter()
    single = summary([await ask(user) for user in range(users)], begin)
    begin = time.perf_counter()
    together = summary(await asyncio.gather(*(ask(user) for user in range(users))), begin)
    return single, together


def summary(told: Sequence[Told], begin: float) -> dict[str, float]:
    seconds = time.perf_counter() - begin
    firsts = [one.first_seconds for one in told]
    slowest = quantiles(firsts, n=20)[-1] if len(firsts) > 1 else firsts[0]
    total = sum(one.tokens for one in told)
    return {"tokens_per_second": total / seconds, "answered_tokens": total, "first_seconds": median(firsts), "first_seconds_p95": slowest}


def bare_decoder(worker: Worker, users: int, tokens: int) -> float:
    """Tokens per second of the decoder alone, in this thread."""
    model = worker._model
    prompts = [model.prompt_of(job_of(user, tokens).messages or ()) for user in range(users)]
    rates = []
    for _ in range(2):
        decoder, count, begin = Decoder(model, slots=users), 0, time.perf_counter()
        for prompt in prompts:
            decoder.admit(Request(prompt, tokens, adapter="base"))
        while len(decoder):
            count += len(decoder.step())
        rates.append(count / (time.perf_counter() - begin))
        decoder.close()
    return rates[-1]


def job_of(user: int, tokens: int) -> Job:
    question = {"role": "user", "content": QUESTION.format(user, user)}
    return Job("base", f"user {user}", messages=(question,), max_new_tokens=tokens)


if __name__ == "__main__":
    main()
