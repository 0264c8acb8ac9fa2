"""Answers to many users at a time: through the worker and over HTTP, beside the same questions one by one and the bare decoder.

    python benchmarks/serving.py [--out FILE] [--model embedded] [--users 16] [--tokens 48] [--rounds 1]
    python benchmarks/serving.py --full-size [--dtype float32] [--users 64] [--tokens 160] [--cases bare http first prompt equal]
    python benchmarks/serving.py --http PORT --key KEY [--model base] [--users 16] [--tokens 48]

Service and clients are two processes; every answer of a service that is started here has exactly `--tokens` tokens. `--full-size` serves
a network of ChatGLM-6B's shape with random weights (`--tiny`, the default without a GPU: its shape in small). Cases: `worker` and `http`,
tokens per second of all users at a time, their share of the `bare` decoder's, and their ratio to one by one; `first`, seconds to the first
text of one user and of eight; `prompt`, the longest silence of running streams while a prompt of almost 2,048 tokens is read; `equal`, how
many answers are those of the bare decoder. With `--http` the questions go to a service on this machine that runs already, with a key of an
account that may have as many answers at a time as there are users. Prints one JSON line per case.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from http.client import HTTPConnection
from itertools import pairwise
from pathlib import Path
from statistics import median, quantiles
from tempfile import TemporaryDirectory
from typing import Any, cast

import torch
from full_size import CONFIG
from quantized import random_network
from results import Report, reporter
from stream_client import Stream, answer, connect, processor_seconds

import imprint
from imprint.inference import Decoder, Request
from imprint.model import Model
from imprint.serve.generation.answer import MountedModel
from imprint.serve.generation.job import Job, ModelInfo, TextDelta
from imprint.serve.generation.models import open_models
from imprint.serve.generation.section import ServedModelsSection
from imprint.serve.generation.worker import Limits, Worker
from imprint.serve.store import COMMAND_LINE, Hashing, Store
from imprint.serve.web.app import create_app, drain
from imprint.serve.web.server import bind, build_server, prepare_process
from imprint.serve.web.settings import WebSettings
from imprint.templates.chatglm import ChatGLMTemplate
from imprint.tokenizers import ChatGLMTokenizer

QUESTION = "{}：请为第{}件白色上衣写一段广告词，版型宽松，面料柔软。"
CASES = ("bare", "worker", "http", "first", "prompt", "equal")
FEW_USERS, THEIR_TOKENS = 8, 32
ROUNDS = 3
WORDS = "白色上衣"
ROOM = 24
"""Tokens of the context that the longest prompt leaves free."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="append the lines to this file too")
    parser.add_argument("--model", help="what to serve, by default embedded; with --http the model's name, by default base")
    parser.add_argument("--full-size", action="store_true", help="a network of ChatGLM-6B's shape with random weights")
    parser.add_argument("--tiny", action="store_true", help="its shape in small")
    parser.add_argument("--dtype", choices=("float16", "bfloat16", "float32"), help="compute dtype; bfloat16 on a GPU by default")
    parser.add_argument("--users", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=48, help="tokens of an answer; with --http at most")
    parser.add_argument("--rounds", type=int, default=1, help="how often worker and http are measured, in turn")
    parser.add_argument("--cases", nargs="*", choices=CASES, default=CASES)
    parser.add_argument("--http", type=int, metavar="PORT", help="port of a service on this machine")
    parser.add_argument("--key", default="", help="its key")
    parser.add_argument("--ask", choices=tuple(PLANS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.ask:
        print(json.dumps(asyncio.run(PLANS[options.ask](options))))
        return

    report = reporter(options.out, users=options.users, tokens=options.tokens)

    if options.http:
        told = asyncio.run(compare(options))
        del told["processor_ms_a_token"]  # of the shell that has started this
        report(case="http", **told)
    else:
        measure(options, report)


def measure(options: Any, report: Report) -> None:
    """All cases of a service that is started here."""
    mounted = random_model(options) if options.full_size else open_models([options.model or "embedded"], ServedModelsSection())
    model, cases = mounted[0].model, set(options.cases)
    model.network.stop_ids = frozenset()
    prepare_process()
    limits = Limits(slots=options.users, waiting=16 * options.users + 64, kv_tokens=2**18)
    rate, answers = bare_decoder(model, options.users, options.tokens)
    if "bare" in cases:
        report(case="bare decoder", tokens_per_second=round(rate, 1))
    for _ in range(options.rounds):
        if "worker" in cases:
            report(case="worker", **share_of(rate, asyncio.run(through_worker(mounted, limits, options))))
        if "http" in cases:
            report(case="http", **share_of(rate, through_http(mounted, limits, options, "together" if options.full_size else "compare")))
    if "first" in cases:
        report(case="first text", **through_http(mounted, limits, options, "first"))
    if "prompt" in cases:
        report(case="long prompt", **through_http(mounted, limits, options, "prompt"))
    if "equal" in cases:
        texts = through_http(mounted, limits, options, "texts")["texts"]
        equal = sum(one == other for one, other in zip(texts, answers, strict=True))
        report(case="equal answers", dtype=str(model.network.dtype).removeprefix("torch."), equal=equal, of=len(answers))


def share_of(rate: float, told: dict[str, Any]) -> dict[str, Any]:
    return {**told, "share_of_bare": round(told["tokens_per_second"] / rate, 3)}


class FoldedTokenizer(ChatGLMTokenizer):
    """The embedded vocabulary for a network with more ids: each id has the text of a piece."""

    def token_text(self, token: int) -> str:
        text: str = self._texts[token % len(self._texts)]
        return text

    @cached_property
    def _texts(self) -> list[str]:
        return [text for index in range(200, len(self)) if (text := ChatGLMTokenizer.token_text(self, index))]


def random_model(options: Any) -> list[MountedModel]:
    """A base of ChatGLM-6B's shape with random weights."""
    gpu = torch.cuda.is_available()
    dtype = getattr(torch, options.dtype or ("bfloat16" if gpu else "float32"))
    network = random_network(None, dtype, torch.device("cuda" if gpu else "cpu"), tiny=options.tiny or not gpu)
    embedded = imprint.load("embedded", device="cpu").tokenizer
    assert isinstance(embedded, ChatGLMTokenizer)
    model = Model(network, ChatGLMTemplate(FoldedTokenizer(embedded._processor, CONFIG.special_ids)), "random")
    return [MountedModel(ModelInfo("base", "random", None, network.shape.max_length, supports_tools=False), model, "base")]


def bare_decoder(model: Model, users: int, tokens: int) -> tuple[float, list[str]]:
    """Tokens per second of the decoder alone, in this thread, and the answers."""
    prompts = [model.prompt_of(job_of(user, tokens).messages or ()) for user in range(users)]
    rate = 0.0
    for _ in range(2):
        decoder, begin = Decoder(model, slots=users), time.perf_counter()
        texts = {decoder.admit(Request(prompt, tokens, adapter="base")): model.answer_text() for prompt in prompts}
        found = []
        while len(decoder):
            found += decoder.step()
        rate = len(found) / (time.perf_counter() - begin)
        decoder.close()
    for token in found:
        texts[token.request].push(token.id)
    return rate, [text.finish() for text in texts.values()]


def job_of(user: int, tokens: int) -> Job:
    return Job("base", f"user {user}", messages=(message_of(user),), max_new_tokens=tokens)


def message_of(user: int) -> dict[str, str]:
    return {"role": "user", "content": QUESTION.format(user, user)}


async def through_worker(mounted: Sequence[MountedModel], limits: Limits, options: Any) -> dict[str, Any]:
    worker = Worker(mounted, limits)

    async def ask(user: int) -> tuple[int, float]:
        begin, first, count = time.perf_counter(), 0.0, 0
        async for event in await worker.submit(job_of(user, options.tokens)):
            if isinstance(event, TextDelta):
                first = first or time.perf_counter() - begin
                count += len(event.tokens)
        return count, first

    told = await one_by_one_and_together(ask, options.users, os.getpid(), single=not options.full_size)
    await worker.close(0)
    return told


def through_http(mounted: Sequence[MountedModel], limits: Limits, options: Any, plan: str) -> dict[str, Any]:
    """What a client in another process tells of a service."""
    with service(mounted, limits) as (port, key):
        words = [sys.executable, __file__, "--ask", plan, "--http", str(port), "--key", key]
        words += ["--users", str(options.users), "--tokens", str(options.tokens), *(["--full-size"] if options.full_size else [])]
        told = subprocess.run(words, stdout=subprocess.PIPE, check=True)
    return cast("dict[str, Any]", json.loads(told.stdout))


@contextmanager
def service(mounted: Sequence[MountedModel], limits: Limits) -> Iterator[tuple[int, str]]:
    """A service over these models, whole, in a thread: its port, and a key."""
    with TemporaryDirectory() as folder, Store.open(Path(folder), hashing=Hashing(memory_kib=8, passes=1)) as store:
        account = store.accounts.create("ada", actor=COMMAND_LINE, tokens_a_day=10**9, concurrency=limits.slots).account
        key = store.keys.create(account.id, actor=COMMAND_LINE).key
        app = create_app(Worker(mounted, limits), store, WebSettings(grace=0.5))
        bound = bind("127.0.0.1", 0)
        port, server, loop = bound.getsockname()[1], build_server(app, partial(drain, app)), asyncio.new_event_loop()
        thread = threading.Thread(target=lambda: loop.run_until_complete(server.serve([bound])), daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield port, key
        loop.call_soon_threadsafe(server.stop)
        thread.join()


# The clients.


def body_of(options: Any, user: int, *, tokens: int | None = None, text: str | None = None) -> dict[str, Any]:
    message = {"role": "user", "content": text} if text else message_of(user)
    return {
        "model": options.model or "base",
        "messages": [message],
        "max_tokens": tokens or options.tokens,
        "temperature": 0,
        "stream_options": {"include_usage": True},
    }


async def ask(options: Any, user: int, tokens: int | None = None) -> tuple[int, float]:
    """The tokens of an answer, and the seconds to its first text."""
    stream = await answer(options.http, options.key, body_of(options, user, tokens=tokens))
    (usage,) = [event["usage"] for _, event in stream.events() if event.get("usage")]
    return usage["completion_tokens"], first_of(stream) - stream.asked


def first_of(stream: Stream) -> float:
    return next((seconds for seconds, _ in stream.texts()), stream.asked)


async def compare(options: Any) -> dict[str, Any]:
    return await one_by_one_and_together(partial(ask, options), options.users, os.getppid(), single=True)


async def together(options: Any) -> dict[str, Any]:
    return await one_by_one_and_together(partial(ask, options), options.users, os.getppid(), single=False)


async def one_by_one_and_together(
    ask: Callable[[int], Awaitable[tuple[int, float]]], users: int, server: int, *, single: bool
) -> dict[str, Any]:
    """The same questions all at a time, and before that one by one, if `single`. `server`: the process that answers.

    All at a time is asked three times after a round for warmth, since the questions come in other groups each time, for which a GPU may
    have to make a graph; the figures are those of the round with the middle rate, beside the rates of all.
    """
    if not single:
        await asyncio.gather(*(ask(user) for user in range(users)))
    else:
        await ask(0)
        begin = time.perf_counter()
        alone = summary([await ask(user) for user in range(users)], begin)
    found: list[dict[str, Any]] = []
    for _ in range(ROUNDS):
        begin, processor = time.perf_counter(), processor_seconds(server)
        told = summary(await asyncio.gather(*(ask(user) for user in range(users))), begin)
        found.append({**told, "processor_ms_a_token": round(1e3 * (processor_seconds(server) - processor) / told["answered_tokens"], 3)})
    rates = [one["tokens_per_second"] for one in found]
    middle = sorted(found, key=lambda one: one["tokens_per_second"])[ROUNDS // 2]
    ratio = {"one_by_one": alone, "ratio": round(middle["tokens_per_second"] / alone["tokens_per_second"], 2)} if single else {}
    return {**middle, "rates": rates, **ratio}


def summary(told: Sequence[tuple[int, float]], begin: float) -> dict[str, float]:
    seconds, tokens = time.perf_counter() - begin, sum(count for count, _ in told)
    return {"tokens_per_second": round(tokens / seconds, 1), "answered_tokens": tokens, **firsts([first for _, first in told])}


def firsts(seconds: Sequence[float]) -> dict[str, float]:
    slowest = quantiles(seconds, n=20, method="inclusive")[-1] if len(seconds) > 1 else seconds[0]
    return {"first_seconds": round(median(seconds), 4), "first_seconds_p95": round(slowest, 4)}


async def first(options: Any) -> dict[str, Any]:
    """Seconds to the first text of one user, and of eight who ask one question after the other."""

    async def user(number: int, questions: int) -> list[float]:
        return [(await ask(options, 100 * number + count, THEIR_TOKENS))[1] for count in range(questions)]

    async def users(count: int, questions: int) -> list[float]:
        return [one for some in await asyncio.gather(*(user(number, questions) for number in range(count))) for one in some]

    few = min(FEW_USERS, options.users)
    await users(few, 4)
    one, many = firsts(await users(1, 24)), firsts(await users(few, 8))
    return {"one": one, f"of {few}": many, "ratio_p95": round(many["first_seconds_p95"] / one["first_seconds_p95"], 2)}


async def prompt(options: Any) -> dict[str, Any]:
    """The longest silence of running streams while a prompt that fills the context is read, and without it."""
    few, text = min(FEW_USERS, options.users - 1), longest_text(options)
    silences: dict[str, float | None] = {}
    long = await connect(options.http, options.key, body_of(options, 0, tokens=4, text=text))
    for name in ("warm up", "without", "with"):
        streams = [await connect(options.http, options.key, body_of(options, user, tokens=4 * options.tokens)) for user in range(few)]
        for stream in streams:
            stream.ask()
        await asyncio.gather(*(stream.begun.wait() for stream in streams))
        await asyncio.sleep(0.2)
        began = asyncio.get_running_loop().time()
        if name != "without":
            long = await connect(options.http, options.key, body_of(options, 0, tokens=4, text=text))
            long.ask()
            await long.done.wait()
            assert long.is_whole, long.parts
        for stream in streams:
            await stream.done.wait()
            stream.close()
        ends = asyncio.get_running_loop().time() if name == "without" else first_of(long)
        times = [[seconds for seconds, _ in stream.texts()] for stream in streams]
        gaps = [after - before for one in times for before, after in pairwise(one) if after > began and before < ends]
        silences[name] = round(1e3 * max(gaps), 1) if gaps else None  # None: all streams had ended before
    (usage,) = [event["usage"] for _, event in long.events() if event.get("usage")]
    return {
        "prompt_tokens": usage["prompt_tokens"],
        "streams": few,
        "read_ms": round(1e3 * (first_of(long) - long.asked), 1),
        "longest_silence_ms": silences["with"],
        "longest_silence_ms_of_the_first_time": silences["warm up"],
        "without_it_ms": silences["without"],
    }


def longest_text(options: Any) -> str:
    """A text that fills the context."""

    def count(repeats: int) -> tuple[int, int]:
        connection = HTTPConnection("127.0.0.1", options.http)
        body = json.dumps({"model": options.model or "base", "messages": [{"role": "user", "content": WORDS * repeats}]})
        connection.request("POST", "/v1/tokenize", body, {"Authorization": f"Bearer {options.key}", "Content-Type": "application/json"})
        told = json.loads(connection.getresponse().read())
        connection.close()
        return told["count"], told["max_model_len"]

    (few, limit), (more, _) = count(10), count(20)
    return WORDS * (10 + 10 * (limit - ROOM - few) // (more - few))


async def texts(options: Any) -> dict[str, Any]:
    streams = await asyncio.gather(*(answer(options.http, options.key, body_of(options, user)) for user in range(options.users)))
    return {"texts": ["".join(text for _, text in stream.texts()) for stream in streams]}


PLANS: dict[str, Callable[[Any], Coroutine[Any, Any, dict[str, Any]]]] = {
    "compare": compare,
    "together": together,
    "first": first,
    "prompt": prompt,
    "texts": texts,
}


if __name__ == "__main__":
    main()
