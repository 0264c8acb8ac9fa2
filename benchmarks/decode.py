"""Decoding speed of a network of ChatGLM-6B's exact shape, or another one's, with random weights: steps alone, and whole answers.

    python benchmarks/decode.py [--out FILE] [--tiny] [--format 16] [--cases one shared] [--shape qwen3-8b]

Greedy answers to prompts of 44 tokens with a prefix of 128: one, 64 that share the prefix, 64 with eight prefixes, 64 with eight LoRAs;
and the 1,070 rows of a file as long as ADGEN's dev.json. Then the same tokens by steps that are not repeated as graphs, and by the plain
attention: the first different token of each row, and how near the two most probable ones are there. `--tiny`, the default without a GPU,
only checks that the script runs. Prints one JSON line per case.
"""

import argparse
import gc
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain, pairwise
from pathlib import Path
from statistics import median

import torch
from full_size import CONFIG, LENGTHS, PREFIX_LENGTH, peak_gb, reset_peak_memory, synchronize
from quantized import PRECISIONS
from results import reporter
from training import PREFIX, SHAPES, Case, build

from imprint.inference import Decoder, Request
from imprint.inference.generate import generate
from imprint.inference.request import Token
from imprint.model import Model
from imprint.models.chatglm import ChatGLM
from imprint.models.network import Network
from imprint.models.reference_attention import ReferenceAttention
from imprint.tune.lora.lora import Lora
from imprint.tune.lora.shape import LoraShape, resolve_targets
from imprint.tune.prefix import PrefixShape, init_prefix

PROMPT_TOKENS = 42
"""In front of [gMASK] and <sop>."""
ADAPTERS = 8
DEV_ROWS = 1070
WARM_STEPS = 12
"""Steps in front of the first one that is timed."""
CASES = ("one", "shared", "prefixes", "loras", "file")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="append the lines to this file too")
    parser.add_argument("--tiny", action="store_true", help="a tiny network, few tokens")
    parser.add_argument("--format", choices=PRECISIONS, action="append", help="only these weight formats; may be repeated")
    parser.add_argument("--cases", nargs="*", choices=CASES, default=CASES, help="only these; prefixes, loras and file are for 16 bit")
    parser.add_argument("--dtype", choices=("float16", "bfloat16", "float32"), help="compute dtype; bfloat16 on a GPU by default")
    parser.add_argument("--tokens", type=int, help="tokens of each timed answer; 160 by default, 64 of a file's rows")
    parser.add_argument(
        "--shape", choices=("chatglm-6b", *SHAPES), default="chatglm-6b", help="of the network; others than the first have 16 bit alone"
    )
    parser.add_argument("--profile", action="store_true", help="name the kernels of a step, too")
    options = parser.parse_args()
    gpu = torch.cuda.is_available()
    tiny, device = options.tiny or not gpu, torch.device("cuda" if gpu else "cpu")
    dtype = getattr(torch, options.dtype or ("bfloat16" if gpu else "float32"))

    report = reporter(options.out)

    for name in options.format or (("16", "8", "4") if options.shape == "chatglm-6b" else ("16",)):
        network = build(Case(PREFIX, format=name, shape=options.shape), dtype, device, tiny=tiny)
        synchronize(device)
        wanted = options.cases if name == "16" else [case for case in options.cases if case in ("one", "shared")]
        tokens, batch = options.tokens or (20 if tiny else 160), 3 if tiny else 64
        lines = measure(network, wanted, tokens, batch, (8 if tiny else options.tokens or 64), tiny=tiny)
        for values in chain(lines, kernels_of_steps(network, batch, tokens) if options.profile else ()):
            report(shape=options.shape, format=name, dtype=str(dtype).removeprefix("torch."), **values)
        del network
        gc.collect()
        if gpu:
            torch.cuda.empty_cache()


def measure(
    network: Network, cases: Sequence[str], tokens: int, batch: int, file_tokens: int, *, tiny: bool
) -> Iterator[dict[str, object]]:
    """The lines of one network; `file_tokens`: of each row of the file."""
    model, device = with_prefixes(network), network.device
    names = [str(number) for number in range(ADAPTERS)]
    if "one" in cases:
        seconds = timed(lambda: generate(model, requests(model, 1, 16)), device)
        yield {"case": "first answer of 16 tokens, with captures", "seconds": round(seconds, 2)}
        yield {"case": "one", **steady(model, requests(model, 1, tokens))}
        yield {"case": "greedy tokens, one", **compare(model, requests(model, 1, min(tokens, 64)))}
    if "shared" in cases:
        yield {"case": "shared prefix", **steady(model, requests(model, batch, tokens))}
        yield {"case": "greedy tokens, shared", **compare(model, requests(model, batch, min(tokens, 64)))}
    if "prefixes" in cases:
        yield {"case": f"{ADAPTERS} prefixes", **steady(model, requests(model, batch, tokens, names))}
    if "file" in cases:
        yield {"case": "a file", **file_of_rows(model, file_tokens, tiny=tiny)}
    if "loras" in cases:
        model = with_loras(network)
        yield {"case": f"{ADAPTERS} LoRAs", **steady(model, requests(model, batch, tokens, names))}


def kernels_of_steps(network: Network, batch: int, tokens: int) -> Iterator[dict[str, object]]:
    """The kernels of a step in the middle of the answers: how many, and microseconds of each kind in all."""
    model = with_prefixes(network)
    for rows in (1, batch):
        decoder = Decoder(model, slots=rows)
        for request in requests(model, rows, tokens):
            decoder.admit(request)
        for _ in range(tokens // 2):
            decoder.step()
        with torch.profiler.profile() as profiler:
            for _ in range(5):
                decoder.step()
            synchronize(network.device)
        decoder.close()
        events = [event for event in profiler.events() or () if str(event.device_type).endswith("CUDA")]
        counts, times = Counter(event.name for event in events), Counter[str]()
        for event in events:
            times[event.name] += event.device_time
        named = {name[:90]: [round(counts[name] / 5, 1), round(time / 5, 1)] for name, time in times.most_common(25)}
        yield {"case": "kernels of a step", "batch": rows, "kernels": len(events) / 5, "us": round(times.total() / 5), "named": named}


def with_prefixes(network: Network) -> Model:
    """A model with eight mounted prefixes of random numbers."""
    model = Model(network, None, "random")
    length = min(PREFIX_LENGTH, network.shape.max_length // 4)
    for number in range(ADAPTERS):
        adapter = init_prefix(network, PrefixShape.from_network(network, length, projection=False), "random", [])
        model.adapters._ids[str(number)], model.adapters._adapters[number + 1] = number + 1, adapter.requires_grad_(False)
    return model


def with_loras(network: Network) -> Model:
    """A model with eight mounted LoRAs of rank 8 on the joint projection."""
    model = Model(network, None, "random")
    for number in range(ADAPTERS):
        adapter = Lora(network, LoraShape(8, 16.0, rslora=False, dora=False, targets=resolve_targets("attention", network)))
        for name, tensor in adapter.named_tensors().items():
            torch.nn.init.normal_(tensor, std=0.02 if "lora_B" in name else 0.01)
        adapter.mount(model.adapters._loras, number + 1)
        model.adapters._ids[str(number)], model.adapters._adapters[number + 1] = number + 1, adapter
    return model


def requests(model: Model, count: int, tokens: int, adapters: Sequence[str] = ("0",)) -> list[Request]:
    """Requests that use these adapters in turn."""
    rng = random.Random(1)
    return [Request(prompt_of(model.network, PROMPT_TOKENS, rng), tokens, adapter=adapters[row % len(adapters)]) for row in range(count)]


def prompt_of(network: Network, tokens: int, rng: random.Random) -> list[int]:
    """Random ids, and behind them what ends a prompt of ChatGLM-6B."""
    end = [CONFIG.special_ids.gmask, CONFIG.special_ids.sop] if isinstance(network, ChatGLM) else []
    last = network.vocab_size * 9 // 10
    return [*(rng.randrange(min(1000, last - 1), last) for _ in range(max(1, tokens))), *end]


def steady(model: Model, wanted: Sequence[Request]) -> dict[str, object]:
    """Answer requests twice: milliseconds of a step, tokens per second of steps alone and of whole answers, captures, peak memory."""
    device, captures = model.network.device, model.network.step_captures
    reset_peak_memory(device)
    first = timed(lambda: generate(model, wanted), device)
    synchronize(device)
    times = [time.perf_counter()]
    counts = [0]
    decoder = Decoder(model, slots=len(wanted))
    for request in wanted:
        decoder.admit(request)
    while len(decoder):
        counts.append(len(decoder.step()))
        times.append(time.perf_counter())
    graphs = decoder._batch.graphs
    decoder.close()
    steps = [after - before for before, after in pairwise(times)]
    warm = min(WARM_STEPS, len(steps) // 2)
    seconds = sum(steps[warm:])
    return {
        "batch": len(wanted),
        "tokens": max(request.max_new_tokens for request in wanted),
        "step_ms": round(1e3 * median(steps[warm:]), 3),
        "tokens_per_second": round(sum(counts[warm + 1 :]) / seconds, 1),
        "with_prompts": round(sum(counts) / (times[-1] - times[0]), 1),
        "first_call_seconds": round(first, 2),
        "captures": model.network.step_captures - captures,
        "graphs": graphs is not None and not graphs.failed,
        **peak(device),
    }


def peak(device: torch.device) -> dict[str, float]:
    """Peak memory since the last reset."""
    reserved = torch.cuda.max_memory_reserved(device) if device.type == "cuda" else 0
    return {"peak_gb": peak_gb(device), "peak_reserved_gb": round(reserved / 1e9, 2)}


def compare(model: Model, wanted: Sequence[Request]) -> dict[str, object]:
    """The tokens of repeated steps beside those of steps as they are, and beside those of the plain attention."""
    network, wanted = model.network, [replace(request, top_logprobs=2) for request in wanted]
    graphs = answer_tokens(model, wanted)
    with without_graphs(network):
        eager = answer_tokens(model, wanted)
        backends, network.attention_backends = network.attention_backends, (ReferenceAttention(),)
        plain: list[list[Token]] = []
        seconds = timed(lambda: plain.extend(answer_tokens(model, wanted)), network.device)
        network.attention_backends = backends
    return {
        "batch": len(wanted),
        "eager": first_differences(graphs, eager),
        "plain_attention": first_differences(graphs, plain),
        "margin": round(median(margin(token) for answer in graphs for token in answer), 4),
        "plain_tokens_per_second": round(sum(map(len, plain)) / seconds, 1),
    }


@contextmanager
def without_graphs(network: Network) -> Iterator[None]:
    """Inside this block each step is computed as it is."""
    network.replays_steps = False
    try:
        yield
    finally:
        network.replays_steps = True


def answer_tokens(model: Model, wanted: Sequence[Request]) -> list[list[Token]]:
    """The tokens of every answer."""
    decoder = Decoder(model, slots=len(wanted))
    answers: dict[int, list[Token]] = {decoder.admit(request): [] for request in wanted}
    while len(decoder):
        for token in decoder.step():
            answers[token.request].append(token)
    decoder.close()
    return list(answers.values())


def margin(token: Token) -> float:
    """By how much the log-probability of the most probable token is above the second one's."""
    (_, first), (_, second) = token.top
    return first - second


def first_differences(answers: Sequence[Sequence[Token]], others: Sequence[Sequence[Token]]) -> dict[str, object]:
    """How many answers are equal, and where each other one first differs.

    There the two most probable tokens are almost equally so: their margins, beside how far the log-probabilities of the same token are
    apart in the places in front of it, which have the same context.
    """
    places, margins, apart = [], [], []
    for answer, other in zip(answers, others, strict=True):
        place = next((place for place, (one, two) in enumerate(zip(answer, other, strict=False)) if one.id != two.id), None)
        apart += [abs(one.logprob - two.logprob) for one, two in zip(answer[:place], other[:place], strict=False)]
        if place is not None:
            places.append(place)
            margins.append(margin(answer[place]))
    values = {"equal": len(answers) - len(places), "first_different": places, "largest_margin_there": max(margins, default=0.0)}
    return {**values, "log_probabilities_apart": max(apart, default=0.0)}


def file_of_rows(model: Model, tokens: int, *, tiny: bool) -> dict[str, object]:
    """Answer as many rows as ADGEN's dev.json has, each with so many tokens, 64 at a time."""
    network, rng = model.network, random.Random(2)
    rows = 5 if tiny else DEV_ROWS
    prompts = [prompt_of(network, length - scored - 2, rng) for length, scored in LENGTHS[:rows]]
    answers: list[list[int]] = []
    wanted = [Request(prompt, tokens, adapter="0") for prompt in sorted(prompts, key=len, reverse=True)]
    slots = 2 if tiny else 64

    def answer() -> None:
        for start in range(0, rows, slots):
            answers.extend(generate(model, wanted[start : start + slots]))

    seconds = timed(answer, network.device)
    return {"rows": rows, "tokens": tokens, "seconds": round(seconds, 2), "tokens_per_second": round(sum(map(len, answers)) / seconds, 1)}


def timed(function: Callable[[], object], device: torch.device) -> float:
    """The seconds of a call."""
    synchronize(device)
    started = time.perf_counter()
    function()
    synchronize(device)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
