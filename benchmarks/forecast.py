"""The forecast of a step beside what it really takes: peak memory and milliseconds, on ChatGLM-6B's and ChatGLM2-6B's exact shapes.

    python benchmarks/forecast.py [--out FILE] [--tiny]

Prefix, LoRA and full tuning of random weights in 16 bits and INT4, with and without checkpointing; rows are the longest of a step of
full_size.py. Prints one JSON line per setting, and the largest difference at the end. `--tiny`, the default without a GPU, only checks that
the script runs: there the peak is that of all tensors which the step makes on the CPU.
"""

import argparse
import gc
import json
import random
import statistics
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from full_size import CONFIG, CONFIG_2, random_rows, reset_peak_memory, synchronize
from results import reporter
from torch import Tensor

from imprint.engine.engine import Engine
from imprint.engine.section import OptimizerSection
from imprint.engine.split_weights import splits_weights
from imprint.forecast.cards import Card, find_card
from imprint.forecast.estimate import Choice, Plan, estimate
from imprint.forecast.stand_ins import ComputePath
from imprint.forecast.trace import Trace
from imprint.messages import UserError
from imprint.models import loss
from imprint.models.chatglm import ChatGLM
from imprint.models.chatglm2 import ChatGLM2
from imprint.models.network import Network
from imprint.pack import Pack, pack
from imprint.quant.formats import find_format
from imprint.quant.names import FormatName
from imprint.quant.weight_format import SCALE
from imprint.tune.lora.section import LoraSection
from imprint.tune.section import AnySection, FullSection, PrefixSection
from imprint.tune.tuner import Tuner, build_tuner

ROWS, STEPS = 16, 4
PREFIX = PrefixSection(length=128, start="random", prefix_dropout=0.1)
LORA = LoraSection(method="lora", rank=8, dropout=0.1)
EVERYWHERE = LoraSection(method="lora", rank=8, targets="all")
FULL = FullSection(method="full")
CASES: dict[str, tuple[tuple[AnySection, FormatName | None, bool, int], ...]] = {
    "chatglm-6b": (
        (PREFIX, None, False, 16),
        (PREFIX, None, True, 16),
        (PREFIX, None, False, 1),
        (LORA, None, False, 16),
        (EVERYWHERE, None, True, 8),
        (FULL, None, False, 16),
        (PREFIX, 4, False, 16),
        (PREFIX, 4, True, 16),
        (PREFIX, 4, True, 1),
        (LORA, 4, True, 4),
    ),
    "chatglm2-6b": (
        (PREFIX, None, False, 16),
        (PREFIX, None, True, 4),
        (LORA, None, False, 16),
        (FULL, None, True, 16),
        (PREFIX, 4, True, 16),
        (LORA, 4, False, 16),
    ),
}
"""What is trained, weight format, checkpointing, rows of a micro-batch."""
SMALL: dict[str, Any] = {"hidden_size": 64, "num_layers": 6, "num_attention_heads": 2}


@dataclass(frozen=True)
class Machine:
    """Where the steps run."""

    device: torch.device
    dtype: torch.dtype
    tiny: bool
    card: Card


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="append the lines to this file too")
    parser.add_argument("--tiny", action="store_true", help="tiny networks, one step per case")
    arguments = parser.parse_args()
    gpu = torch.cuda.is_available()
    device, dtype = torch.device("cuda" if gpu else "cpu"), torch.bfloat16 if gpu else torch.float32
    machine = Machine(device, dtype, arguments.tiny or not gpu, _card(torch.cuda.get_device_name() if gpu else "cpu"))
    report = reporter(arguments.out)
    differences = []
    for family, cases in CASES.items():
        network: Network | None = None
        for tune, quantize, checkpointing, micro_batch in cases:
            if network is None or (network.weight_format is None) != (quantize is None) or not _frozen(network):
                network = None
                _free()
                network = random_network(family, quantize, machine)
            choice = Choice(tune, quantize, checkpointing, micro_batch)
            result = compare(network, family, choice, machine)
            differences.append(result["difference"])
            report(family=family, **result)
        del network
        _free()
    print(json.dumps({"settings": len(differences), "largest_difference": max(differences, key=abs)}))


def compare(network: Network, family: str, choice: Choice, machine: Machine) -> dict[str, Any]:
    """The forecast of a choice, and what its steps take on the network."""
    rows = step_rows(network, 4 if machine.tiny else ROWS)
    texts = [[row] for row in rows]
    fused, split = network.packing_problem is None, splits_weights(list(network.parameters()))
    path = ComputePath(fused, fused and loss.FUSED, split_masters=split)  # the steps here are launched one by one
    plan = Plan(partial(empty_network, family, machine), texts, sum(len(ids) for ids, _ in rows) / len(rows), path=path)
    started = time.perf_counter()
    forecast = estimate(plan, choice)
    seconds = time.perf_counter() - started
    predicted = forecast.allocated_bytes(machine.card) if machine.device.type == "cuda" else forecast.peak_bytes
    peak, reserved, milliseconds = measure(network, choice, rows, machine)
    return {
        "method": choice.tune.method,
        "format": choice.quantize,
        "micro_batch": f"{choice.micro_batch} x {forecast.micro_batches}",
        "checkpointing": choice.checkpointing,
        "tokens": sum(len(ids) for ids, _ in rows[: choice.micro_batch]),
        "predicted_peak_bytes": predicted,
        "peak_bytes": peak,
        "difference": round(predicted / peak - 1, 4),
        "predicted_needed_bytes": forecast.needed_bytes(machine.card),
        "reserved_bytes": reserved,
        "predicted_ms": round(1e3 * forecast.step_seconds(machine.card), 1),
        "ms": milliseconds,
        "forecast_seconds": round(seconds, 2),
    }


def measure(network: Network, choice: Choice, rows: list[tuple[list[int], list[int]]], machine: Machine) -> tuple[int, int, float]:
    """Peak of tensors, memory that the allocator held, and the median of the milliseconds of a step but for the first."""
    tuner = build_tuner(network, choice.tune, lambda _: [5], checkpointing=choice.checkpointing).train()
    trained = tuner.trainable_parameters()
    engine = Engine.start(tuner, trained, OptimizerSection(learning_rate=1e-4), 100, device=machine.device)
    sizes = range(0, len(rows), choice.micro_batch)
    batches = [pack(*_columns(rows[start : start + choice.micro_batch], network)).to(machine.device) for start in sizes]
    _free()
    reset_peak_memory(machine.device)
    times, peak = [], 0
    for number in range(1, 1 + (1 if machine.tiny else STEPS)):
        synchronize(machine.device)
        started = time.perf_counter()
        peak = max(peak, _step(tuner, engine, batches, number, machine))
        synchronize(machine.device)
        times.append(1e3 * (time.perf_counter() - started))
    reserved = torch.cuda.max_memory_reserved() if machine.device.type == "cuda" else 0
    if tuner.adapter is not None and choice.tune.method == "lora":
        for name, layer in tuner.adapter.layers.items():  # type: ignore[attr-defined]
            network.set_submodule(name, layer.linear)
    return peak, reserved, round(statistics.median(times[1:] or times), 1)


def _step(tuner: Tuner, engine: Engine, batches: list[Pack], number: int, machine: Machine) -> int:
    """One optimizer step; returns its peak in bytes."""
    if machine.device.type == "cuda":
        _forward_backward(tuner, engine, batches)
        engine.update(number, apply=True)
        return int(torch.cuda.max_memory_allocated())
    trace = Trace()
    lasting = {tensor.untyped_storage()._cdata: tensor.nbytes for tensor in (*tuner.parameters(), *tuner.buffers())}
    trace.ignore(
        [*tuner.parameters(), *tuner.buffers(), *(value for pack in batches for value in vars(pack).values() if isinstance(value, Tensor))]
    )
    with trace:
        _forward_backward(tuner, engine, batches)
    moments = 2 * 4 * sum(parameter.numel() for parameter in tuner.trainable_parameters().values())
    engine.update(number, apply=True)
    return sum(lasting.values()) + moments + max(peak.total() for peak in trace.peaks.values())


def _forward_backward(tuner: Tuner, engine: Engine, batches: list[Pack]) -> None:
    targets = sum(batch.target_tokens for batch in batches)
    for index, batch in enumerate(batches, 1):
        engine.backward(tuner(batch) / targets, last=index == len(batches))


def step_rows(network: Network, count: int) -> list[tuple[list[int], list[int]]]:
    """The rows of a step as long as those of ADGEN, longest first."""
    ids, labels = random_rows(network, count, random.Random(0))
    return sorted(zip(ids, labels, strict=True), key=lambda row: -len(row[0]))


def _columns(rows: list[tuple[list[int], list[int]]], network: Network) -> tuple[list[list[int]], Network, list[list[int]]]:
    return [ids for ids, _ in rows], network, [labels for _, labels in rows]


def empty_network(family: str, machine: Machine, quantize: FormatName | None) -> Network:
    """A network without weights."""
    weight_format = None if quantize is None else find_format(quantize)
    with torch.device("meta"):
        if family == "chatglm-6b":
            small = {**SMALL, "inner_hidden_size": 256} if machine.tiny else {}
            return ChatGLM(replace(CONFIG, weight_format=weight_format, **small)).to(machine.dtype)
        small = {**SMALL, "ffn_hidden_size": 192, "kv_channels": 32} if machine.tiny else {}
        return ChatGLM2(replace(CONFIG_2, weight_format=weight_format, **small)).to(machine.dtype)


def random_network(family: str, quantize: FormatName | None, machine: Machine) -> Network:
    """A network with random weights, initialized on the device; quantized, random integers."""
    network = empty_network(family, machine, quantize).to_empty(device=machine.device).requires_grad_(requires_grad=False).eval()
    torch.manual_seed(0)
    for name, tensor in network.state_dict().items():
        if tensor.dtype == torch.int8:
            tensor.random_(-128, 128)
        elif name.endswith(SCALE):
            tensor.fill_(0.004)
        elif tensor.dim() > 1:
            tensor.normal_(std=0.02)
        else:
            tensor.fill_(1.0 if name.endswith("norm.weight") else 0.0)
    return network


def _card(name: str) -> Card:
    try:
        return find_card(name)
    except UserError:
        return find_card("H200")


def _frozen(network: Network) -> bool:
    return not any(parameter.requires_grad for parameter in network.parameters())


def _free() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
