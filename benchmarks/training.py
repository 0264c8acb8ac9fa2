"""One optimizer step of 16 rows, as `imprint train` computes it, on bases of ChatGLM-6B's exact shape and of others with random weights.

    python benchmarks/training.py [--case prefix] [--profile] [--out FILE] [--tiny]

Rows are as long as the first 1,600 of ADGEN's train.jsonl (full_size.py). Prints one JSON line per case: the median of the steps after a
warm-up, in which sizes are measured and graphs made. A step ends when its loss and norm are known, as in a run: the batch of the next one
is ready by then, and nothing else is waited for. For `queueing_ms` of it the process launched kernels, for `ahead_ms` it made the next
batch; the rest it waited for the GPU. `--profile` adds the kernels of one step. `--tiny`, the default without a GPU, only checks that the
script runs.
"""

import argparse
import gc
import random
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from full_size import CONFIG_2, PREFIX_LENGTH, random_rows, reset_peak_memory, step_figures, synchronize
from quantized import PRECISIONS, STD, random_network
from results import reporter

from imprint.data.encode import EncodedRow
from imprint.engine.engine import Engine
from imprint.engine.section import OptimizerSection
from imprint.models import hf
from imprint.models.chatglm2 import ChatGLM2
from imprint.models.network import Network
from imprint.models.vocabulary import reduce_vocabulary_memory
from imprint.training.graphs import GradientGraphs, graphs_for, refusal
from imprint.training.memory import MicroBatch, TokenBudget, num_targets, probe_memory
from imprint.training.step import StepBatch, compute_step
from imprint.tune.lora.section import LoraSection
from imprint.tune.section import AnySection, FullSection, PrefixSection
from imprint.tune.tuner import Tuner, build_tuner

ROWS = 16
WARM_UP, STEPS = 20, 30
KINDS_OF_KERNELS = 40


@dataclass(frozen=True)
class Case:
    """How a step of 16 rows is computed."""

    section: AnySection
    format: str = "16"
    """Of the base's weights."""
    micro_batch: int = ROWS
    at_once: int = 1
    """Micro-batches that are computed as one."""
    checkpointing: bool = False
    dtype: torch.dtype = torch.bfloat16
    shape: str = "chatglm-6b"
    """Whose sizes the network has."""
    smallest: bool = False
    """Whether the head is quantized, too, and the embedding stays on the host."""


GEMMA = {
    "model_type": "gemma3_text",
    "vocab_size": 262_144,
    "hidden_size": 640,
    "intermediate_size": 2048,
    "num_hidden_layers": 18,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "head_dim": 256,
    "sliding_window": 512,
    "max_position_embeddings": 32_768,
}
QWEN = {
    "model_type": "qwen3",
    "vocab_size": 151_936,
    "hidden_size": 4096,
    "intermediate_size": 12_288,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 40_960,
    "tie_word_embeddings": False,
}
SHAPES: dict[str, Callable[[], Network]] = {
    "chatglm2-6b": lambda: ChatGLM2(CONFIG_2),
    "glm-4-9b": lambda: ChatGLM2(replace(CONFIG_2, num_layers=40, padded_vocab_size=151_552, seq_length=131_072)),
    "qwen3-8b": lambda: hf.build(QWEN, {}),
    "gemma3-270m": lambda: hf.build(GEMMA, {}),
}
"""Networks beside ChatGLM-6B's, by whose sizes they have."""
PREFIX = PrefixSection(length=PREFIX_LENGTH, start="random", prefix_dropout=0.1)
CASES = {
    "prefix": Case(PREFIX),
    "prefix-fp16": Case(PREFIX, dtype=torch.float16),
    "prefix-recomputed": Case(PREFIX, checkpointing=True),
    "lora": Case(LoraSection(method="lora", rank=8)),
    "prefix-1x16": Case(PREFIX, micro_batch=1),
    "prefix-1x16-merged": Case(PREFIX, micro_batch=1, at_once=ROWS),
    "int4": Case(PREFIX, format="4", checkpointing=True),
    "int4-kept": Case(PREFIX, format="4"),
    "int4-1x16-merged": Case(PREFIX, format="4", micro_batch=1, at_once=ROWS, checkpointing=True),
    "int4-smallest": Case(PREFIX, format="4", micro_batch=1, checkpointing=True, smallest=True),
    "int8": Case(PREFIX, format="8", checkpointing=True),
    "fp8": Case(PREFIX, format="fp8"),
    "fp8-lora": Case(LoraSection(method="lora", rank=8), format="fp8"),
    "fp8-recomputed": Case(PREFIX, format="fp8", checkpointing=True),
    "full": Case(FullSection(method="full")),
    "chatglm2-6b": Case(PREFIX, shape="chatglm2-6b"),
    "glm-4-9b": Case(PREFIX, shape="glm-4-9b"),
    "qwen3-8b": Case(PREFIX, shape="qwen3-8b"),
    "gemma3-270m": Case(PREFIX, shape="gemma3-270m"),
    "gemma3-270m-lora": Case(LoraSection(method="lora", rank=64), shape="gemma3-270m"),
    "gemma3-270m-full": Case(FullSection(method="full"), shape="gemma3-270m"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="append the lines to this file too")
    parser.add_argument("--tiny", action="store_true", help="a tiny network, few steps")
    parser.add_argument("--case", choices=CASES, action="append", help="only these; may be repeated")
    parser.add_argument("--profile", action="store_true", help="name the kernels of a step, too")
    options = parser.parse_args()
    gpu = torch.cuda.is_available()
    tiny, device = options.tiny or not gpu, torch.device("cuda" if gpu else "cpu")
    report = reporter(options.out)
    network: Network | None = None
    built: tuple[object, ...] | None = None
    for name in options.case or CASES:
        case = CASES[name]
        dtype = case.dtype if gpu else torch.float32
        if network is None or built != (case.shape, case.format, case.smallest, dtype):
            network = None
            gc.collect()
            network, built = build(case, dtype, device, tiny=tiny), (case.shape, case.format, case.smallest, dtype)
        for values in measure(network, case, profile=options.profile and gpu, tiny=tiny):
            report(case=name, **values)
        gc.collect()
        if gpu:
            torch.cuda.empty_cache()


def build(case: Case, dtype: torch.dtype, device: torch.device, *, tiny: bool) -> Network:
    """The network of a case with random weights."""
    if tiny or case.shape == "chatglm-6b":
        chatglm = random_network(PRECISIONS[case.format], dtype, device, tiny=tiny)
        if case.smallest:
            reduce_vocabulary_memory(chatglm, quantize_head=True, embedding_on_host=True)
            chatglm.use_kernels("auto")
        return chatglm
    with torch.device(device):
        network = SHAPES[case.shape]().to(dtype).requires_grad_(requires_grad=False).eval()
    for parameter in network.parameters():
        if parameter.dim() > 1:
            parameter.normal_(std=STD)
        else:
            parameter.fill_(1.0)
    network.use_kernels("auto")
    return network


def measure(network: Network, case: Case, *, profile: bool, tiny: bool) -> Iterator[dict[str, object]]:
    """The lines of a case; LoRA is removed from the network afterwards."""
    network.requires_grad_(requires_grad=False)
    tuner = build_tuner(network, case.section, lambda _: [1], checkpointing=case.checkpointing).train()
    steps = Steps(tuner, case, 2 * (WARM_UP + STEPS))
    warm_up, count = (1, 2) if tiny else (WARM_UP, STEPS)
    reset_peak_memory(network.device)
    seconds = [steps() for _ in range(warm_up + count)]
    yield {
        "dtype": str(network.dtype).removeprefix("torch."),
        "micro_batch": f"{case.micro_batch} x {ROWS // case.micro_batch}",
        "at_once": case.at_once,
        "checkpointing": case.checkpointing,
        "first_step_seconds": round(seconds[0], 2),
        "warm_up_seconds": round(sum(seconds[:warm_up]), 2),
        **step_figures(statistics.median(seconds[warm_up:]), ROWS, network.device),
        "mean_ms": round(1e3 * statistics.fmean(seconds[warm_up:]), 1),
        "queueing_ms": round(1e3 * statistics.median(steps.queueing[-count:]), 2),
        "ahead_ms": round(1e3 * statistics.median(steps.ahead[-count:]), 2),
        "graphs": 0 if steps.graphs is None else steps.graphs.captures,
        "without_graphs": reason_without(tuner, steps.graphs),
        "peak_reserved_gb": round(torch.cuda.max_memory_reserved() / 1e9, 2) if network.device.type == "cuda" else 0,
    }
    if profile:
        yield kernels_of(steps)
    steps.close()


def reason_without(tuner: Tuner, graphs: GradientGraphs | None) -> str:
    """Why steps are not repeated as graphs; empty where they are."""
    refused = refusal(tuner)
    return refused.english if refused is not None else (graphs and graphs.failure) or ""


class Steps:
    """Calls are steps: each computes the gradients of the next 16 rows and updates the parameters, and returns its seconds."""

    def __init__(self, tuner: Tuner, case: Case, steps: int) -> None:
        self.tuner, self.case, self.device = tuner, case, tuner.network.device
        optimizer = OptimizerSection(learning_rate=1e-5 if tuner.adapter is None else 1e-3)
        self.engine = Engine.start(tuner, tuner.trainable_parameters(), optimizer, steps, device=self.device)
        self.graphs = graphs_for(tuner) if self.device.type == "cuda" else None
        self.budget = TokenBudget(micro_batches=case.at_once)
        self.rng, self.number = random.Random(0), 0
        size = case.micro_batch * case.at_once
        probe_memory(tuner, self.engine, self.rows(), size, self.budget, print, self.graphs, adds=size < ROWS)
        self.next = self.batch()
        self.queueing, self.ahead = list[float](), list[float]()
        synchronize(self.device)
        self.ended = time.perf_counter()

    def rows(self) -> list[EncodedRow]:
        """The next 16 rows."""
        ids, labels = random_rows(self.tuner.network, ROWS, self.rng, ROWS * self.number)
        return [EncodedRow(tuple(row), tuple(scored)) for row, scored in zip(ids, labels, strict=True)]

    def batch(self) -> StepBatch:
        """The next batch, to its packs."""
        rows, size = self.rows(), self.case.micro_batch
        parts = [MicroBatch(rows[start : start + size], 1.0) for start in range(0, ROWS, size)]
        sub_batches = self.budget.sub_batches(parts)
        for sub_batch in sub_batches:
            sub_batch.packed(self.tuner.network, self.graphs)
        tokens = sum(len(row.ids) for row in rows)
        return StepBatch(range(ROWS), sum(map(num_targets, rows)), tokens, parts, sub_batches, replace(self.budget))

    def __call__(self) -> float:
        """One step, from the end of the last one."""
        batch, self.number = self.next, self.number + 1
        self.engine.mean_factor = 1 / batch.targets
        compute_step(self.tuner, self.engine, batch, self.number, self.budget, print, self.graphs, self._prepare)
        started, self.ended = self.ended, time.perf_counter()
        return self.ended - started

    def _prepare(self) -> None:
        queued = time.perf_counter()
        self.next = self.batch()
        self.queueing.append(queued - self.ended)
        self.ahead.append(time.perf_counter() - queued)

    def close(self) -> None:
        """Free the graphs, and take the layers of a LoRA out of the network."""
        if self.graphs is not None:
            self.graphs.clear()
        for name, layer in getattr(self.tuner.adapter, "layers", {}).items():
            self.tuner.network.set_submodule(name, layer.linear)
        self.tuner.network.requires_grad_(requires_grad=False)
        for parameter in self.tuner.network.parameters():
            parameter.grad = None


def kernels_of(steps: Steps) -> dict[str, object]:
    """The kernels of a step: how many, and milliseconds of each kind."""
    with torch.profiler.profile() as profiler:
        seconds = steps()
        synchronize(steps.device)
    events = [event for event in profiler.events() or () if str(event.device_type).endswith("CUDA")]
    counts, times = Counter(event.name for event in events), Counter[str]()
    for event in events:
        times[event.name] += event.device_time
    named = {name[:110]: [counts[name], round(time / 1e3, 2)] for name, time in times.most_common(KINDS_OF_KERNELS)}
    return {"profile_ms": round(1e3 * seconds, 1), "kernels": len(events), "busy_ms": round(times.total() / 1e3, 1), "named": named}


if __name__ == "__main__":
    main()
