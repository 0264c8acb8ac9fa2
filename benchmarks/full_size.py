"""Training and generation speed of a network of ChatGLM-6B's or ChatGLM2-6B's exact shape with random weights, on one GPU.

    python benchmarks/full_size.py [--family chatglm2-6b] [--out FILE]

Rows are as long as the first 1,600 of ADGEN's train.jsonl in ChatGLM-6B's tokens, cut as the original cuts them (adgen_lengths.json: tokens
of the row, scored ones). Prints one JSON line per case.
"""

import argparse
import gc
import json
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from results import reporter

from imprint.engine.engine import Engine
from imprint.engine.section import OptimizerSection
from imprint.inference.decoder import PrefixedNetwork
from imprint.inference.generate import generate
from imprint.inference.request import Request
from imprint.models.chatglm import ChatGLM
from imprint.models.chatglm2 import ChatGLM2
from imprint.models.configs.chatglm import ChatGLMConfig
from imprint.models.configs.chatglm2 import ChatGLM2Config
from imprint.models.network import Network
from imprint.pack import pack
from imprint.runtime import peak_memory_bytes
from imprint.tokenizers import EDITIONS
from imprint.training.graphs import graphs_for
from imprint.tune.prefix import PrefixShape, init_prefix
from imprint.tune.section import PrefixSection
from imprint.tune.tuner import Tuner

CONFIG = ChatGLMConfig(
    vocab_size=130528,
    hidden_size=4096,
    num_layers=28,
    num_attention_heads=32,
    inner_hidden_size=16384,
    layernorm_epsilon=1e-5,
    max_sequence_length=2048,
    special_ids=EDITIONS[130528],
)
CONFIG_2 = ChatGLM2Config(
    padded_vocab_size=65024,
    hidden_size=4096,
    num_layers=28,
    num_attention_heads=32,
    multi_query_group_num=2,
    ffn_hidden_size=13696,
    kv_channels=128,
    seq_length=32768,
    layernorm_epsilon=1e-5,
    add_qkv_bias=True,
    apply_query_key_layer_scaling=True,
    rope_theta=1e4,
    rope_factor=1.0,
    stop_ids=frozenset({2}),
)
START_2 = (64790, 64792)
"""[gMASK] and sop, the first tokens of a row of ChatGLM2-6B."""
FAMILIES: dict[str, Callable[[], Network]] = {"chatglm-6b": lambda: ChatGLM(CONFIG), "chatglm2-6b": lambda: ChatGLM2(CONFIG_2)}
PREFIX_LENGTH = 128
WARM_UP, STEPS = 16, 30
LENGTHS: list[list[int]] = json.loads(Path(__file__).with_name("adgen_lengths.json").read_text(encoding="utf-8"))
"""Tokens and scored tokens of each row."""
CASES = {
    torch.bfloat16: ((16, False), (16, True), (1, False)),
    torch.float16: ((16, False), (16, True), (1, False), (1, True)),  # the original's are fp16, with checkpointing
}
"""Dtype of the base -> (micro-batch size, whether activations are recomputed)."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="append the lines to this file too")
    parser.add_argument("--family", choices=FAMILIES, default="chatglm-6b", help="whose shape")
    parser.add_argument("--dtypes", nargs="*", type=lambda name: getattr(torch, name), help="bfloat16, float16; both if not given")
    options = parser.parse_args()
    out, build = options.out, FAMILIES[options.family]
    device = torch.device("cuda")

    report = reporter(out, family=options.family)

    for dtype in options.dtypes or CASES:
        network = random_network(dtype, device, build)
        for micro_batch, checkpointing in CASES[dtype]:
            report(**train_steps(network, micro_batch, checkpointing=checkpointing))
        for batch in (1, 64):
            report(**answer(network, batch))
        del network
        gc.collect()
        torch.cuda.empty_cache()


def random_network(dtype: torch.dtype, device: torch.device, build: Callable[[], Network]) -> Network:
    """A network with random weights, initialized on the device."""
    with torch.device("meta"):
        network = build().to(dtype)
    network = network.to_empty(device=device).requires_grad_(False).eval()
    torch.manual_seed(0)
    for name, parameter in network.named_parameters():
        if parameter.dim() > 1:
            parameter.normal_(std=0.02)
        else:
            parameter.fill_(1.0 if name.endswith("layernorm.weight") else 0.0)
    network.use_kernels("auto")
    return network


def random_rows(network: Network, count: int, rng: random.Random, first: int = 0) -> tuple[list[list[int]], list[list[int]]]:
    """Ids and labels of rows as long as those of ADGEN from row `first` on; the tokens are random."""
    rows, labels = [], []
    special_ids = CONFIG.special_ids
    last = network.vocab_size * 9 // 10
    for index in range(first, first + count):
        tokens, scored = LENGTHS[index % len(LENGTHS)]
        prompt = [rng.randrange(1000, last) for _ in range(tokens - scored - 1)]
        answer = [rng.randrange(1000, last) for _ in range(scored - 1)]
        if isinstance(network, ChatGLM):
            rows.append([*prompt, special_ids.gmask, special_ids.sop, *answer])
            labels.append([-100] * (len(prompt) + 1) + [special_ids.sop, *answer])
        else:
            rows.append([*START_2, *prompt, *answer])
            labels.append([-100] * (len(prompt) + 2) + answer)
    return rows, labels


def train_steps(
    network: Network, micro_batch: int, *, checkpointing: bool, warm_up: int = WARM_UP, steps: int = STEPS, graphs: bool = True
) -> dict[str, object]:
    """P-Tuning v2 steps of 16 rows: milliseconds, rows per second, peak memory."""
    section = PrefixSection(length=PREFIX_LENGTH, start="random", prefix_dropout=0.1)
    encoder = init_prefix(network, PrefixShape.from_network(network, PREFIX_LENGTH, projection=False), "random", [])
    tuner = Tuner(network, section, encoder, checkpointing=checkpointing).train()
    engine = Engine.start(tuner, tuner.trainable_parameters(), OptimizerSection(learning_rate=2e-2), warm_up + steps, device=network.device)
    rng, repeated = random.Random(0), graphs_for(tuner) if graphs else None

    def step(number: int) -> float:
        rows, labels = random_rows(network, 16, rng, 16 * number)
        synchronize(network.device)
        started = time.perf_counter()
        tokens = sum(label != -100 for row in labels for label in row)
        for start in range(0, 16, micro_batch):
            part = slice(start, start + micro_batch)
            batch = pack(rows[part], network, labels[part], [1 / tokens] * micro_batch)
            if repeated is None or repeated.add_gradients(batch) is None:
                engine.backward(tuner(batch.to(network.device)), last=start + micro_batch == 16)
        engine.update(number, apply=True)
        synchronize(network.device)
        return time.perf_counter() - started

    reset_peak_memory(network.device)
    seconds = [step(number) for number in range(1, warm_up + steps + 1)][warm_up:]
    return {
        "case": "P-Tuning v2 step of 16 rows",
        "dtype": str(network.dtype).removeprefix("torch."),
        "micro_batch": f"{micro_batch} x {16 // micro_batch}",
        "checkpointing": checkpointing,
        "graphs": 0 if repeated is None else repeated.captures,
        **step_figures(statistics.median(seconds), 16, network.device),
    }


def answer(network: Network, batch: int) -> dict[str, object]:
    """Greedy generation of 64 new tokens for `batch` prompts, with a prefix."""
    encoder = init_prefix(network, PrefixShape.from_network(network, PREFIX_LENGTH, projection=False), "random", [])
    prefix = encoder.prefix(network.dtype)
    rows, _ = random_rows(network, batch, random.Random(1))
    prompts = [[*row[:42], CONFIG.special_ids.gmask, CONFIG.special_ids.sop] if isinstance(network, ChatGLM) else row[:44] for row in rows]
    reset_peak_memory(network.device)
    requests = [Request(prompt, 64) for prompt in prompts]
    tokens, seconds = timed(lambda: sum(map(len, generate(PrefixedNetwork(network, prefix), requests))), network.device)
    return {
        "case": "64 new tokens, greedy",
        "dtype": str(network.dtype).removeprefix("torch."),
        "batch": batch,
        "seconds": round(seconds, 2),
        "tokens_per_second": round(tokens / seconds, 1),
        "peak_gb": peak_gb(network.device),
    }


def timed(function: Callable[[], int], device: torch.device) -> tuple[int, float]:
    """The result and the seconds of the second of two calls."""
    function()
    synchronize(device)
    started = time.perf_counter()
    result = function()
    synchronize(device)
    return result, time.perf_counter() - started


def synchronize(device: torch.device) -> None:
    """Wait until the device is idle."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def reset_peak_memory(device: torch.device) -> None:
    """Reset the peak memory of a GPU; that of a process on the CPU cannot be reset."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_gb(device: torch.device) -> float:
    """Peak memory since it was reset, in units of 10^9 bytes."""
    return round(peak_memory_bytes(device) / 1e9, 2)


def step_figures(seconds: float, rows: int, device: torch.device) -> dict[str, float]:
    """What the benchmarks of training say of a step of so many rows that takes so many seconds, and the peak memory of the device."""
    return {"ms": round(1e3 * seconds, 1), "rows_per_second": round(rows / seconds, 1), "peak_gb": peak_gb(device)}


if __name__ == "__main__":
    main()
