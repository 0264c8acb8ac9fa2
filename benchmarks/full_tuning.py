"""Full tuning of a network of ChatGLM-6B's shape (6.17 billion random parameters, batch 16 x 128 tokens); and several GPUs.

    python benchmarks/full_tuning.py [--out FILE] [--folder FOLDER]     one GPU: no offload, saving and reading back, ZeRO-3 with offload
    python benchmarks/full_tuning.py --gpus 2 [--out FILE]             DDP, FSDP and ZeRO-3 compared with one GPU

The first takes about five minutes, 128 GiB of main memory and 30 GB of disk; it prints one JSON line per case.
"""

import argparse
import gc
import json
import logging
import random
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import psutil
import torch
from full_size import CONFIG, random_network, reset_peak_memory, step_figures, synchronize
from results import Report, reporter

from imprint.engine.engine import Engine
from imprint.engine.section import EngineSection, OptimizerSection
from imprint.engine.world import World, is_launched, join_world
from imprint.models.chatglm import ChatGLM
from imprint.models.checkpoint import load_network, save_network
from imprint.models.configs.chatglm import ChatGLMConfig
from imprint.pack import Pack, pack
from imprint.tune.section import FullSection
from imprint.tune.tuner import Tuner

ROWS, TOKENS, SCORED = 16, 128, 64
OPTIMIZER = OptimizerSection(learning_rate=1e-5, schedule="constant", warmup_steps=0)
MEDIUM = replace(CONFIG, num_layers=8, hidden_size=2048, num_attention_heads=16, inner_hidden_size=8192)
SMALL = replace(CONFIG, num_layers=2, hidden_size=128, num_attention_heads=4, inner_hidden_size=512)
STRATEGIES = {
    "DDP": EngineSection(),
    "FSDP": EngineSection(fsdp=True),
    "ZeRO-2": EngineSection(deepspeed="zero2"),
    "ZeRO-3": EngineSection(deepspeed="zero3"),
}
Result = TypeVar("Result")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="append the lines to this file too")
    parser.add_argument("--folder", type=Path, default=Path("runs/full-tuning"), help="where the model is written; it is removed again")
    parser.add_argument("--gpus", type=int, default=1)
    options = parser.parse_args()
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    if options.gpus > 1 and not is_launched():
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={options.gpus}", *sys.argv]
        raise SystemExit(subprocess.call(command))
    with join_world(None, process_group=True) as world:
        report: Report = reporter(options.out) if world.is_main else lambda **_: None

        if world.size > 1:
            several_gpus(world, report)
        else:
            one_gpu(world, options.folder, report)


def one_gpu(world: World, folder: Path, report: Report) -> None:
    """The cases of one GPU."""
    for checkpointing in (False, True):
        tuner, engine = make_engine(CONFIG, EngineSection(), world, checkpointing=checkpointing)
        report(**{"case": "full tuning, fp32 masters, no offload", "checkpointing": checkpointing, **timed(tuner, engine, world, 3, 10)})
        if not checkpointing:
            report(**saved(tuner, folder))
        del tuner, engine
        free()
    tuner, engine = make_engine(CONFIG, EngineSection(deepspeed="zero3", offload=True), world, checkpointing=True)
    report(**{"case": "ZeRO-3, optimizer in main memory", "checkpointing": True, **timed(tuner, engine, world, 1, 3)})


def several_gpus(world: World, report: Report) -> None:
    """The cases of several GPUs: losses of a small network compared with one GPU, and the speed of a larger one."""
    tuner, engine = make_engine(SMALL, EngineSection(), World(), dtype=torch.float32, checkpointing=False)
    expected = [step(tuner, engine, World(), number) for number in range(1, 6)]
    for name, section in STRATEGIES.items():
        tuner, engine = make_engine(SMALL, section, world, dtype=torch.float32, checkpointing=False)
        losses = [step(tuner, engine, world, number) for number in range(1, 6)]
        worst = max(abs(one - other) for one, other in zip(losses, expected, strict=True))
        report(case=f"{name}: losses of {world.size} GPUs beside one", largest_difference=worst, equal=worst < 1e-3, losses=losses)
        assert worst < 1e-3, (name, losses, expected)
    for name, section in {"one GPU": EngineSection(), **STRATEGIES}.items():
        tuner, engine = make_engine(MEDIUM, section, World() if name == "one GPU" else world, checkpointing=False)
        weights = sum(shape.numel() for shape in engine.shapes.values())
        report(**{"case": f"{name}: {weights / 1e9:.2f} B parameters", **timed(tuner, engine, engine.world, 3, 10)})
        del tuner, engine
        free()
        world.all_gather(None)


def make_engine(
    config: ChatGLMConfig, section: EngineSection, world: World, *, dtype: torch.dtype = torch.bfloat16, checkpointing: bool
) -> tuple[Tuner, Engine]:
    """A network with random weights whose parameters are all trained, and its engine."""
    device = torch.device("cuda", world.local_rank if world.size > 1 else torch.cuda.current_device())
    network = random_network(dtype, device, lambda: ChatGLM(config))
    network.requires_grad_(True)
    assert isinstance(network, ChatGLM)
    tuner = Tuner(network, FullSection(method="full"), None, checkpointing=checkpointing).train()
    engine = Engine.start(tuner, tuner.trainable_parameters(), OPTIMIZER, 100, device=device, world=world, engine=section)
    torch.set_float32_matmul_precision("highest" if dtype == torch.float32 else "high")
    return tuner, engine


def batch(network: ChatGLM, number: int, world: World) -> Pack:
    """This process's rows of a step."""
    rng, special_ids = random.Random(number), network.config.special_ids
    ids, labels = [], []
    for _ in range(ROWS):
        prompt = [rng.randrange(1000, 120_000) for _ in range(TOKENS - SCORED - 2)]
        answer = [rng.randrange(1000, 120_000) for _ in range(SCORED)]
        ids.append([*prompt, special_ids.gmask, special_ids.sop, *answer])
        labels.append([-100] * (len(prompt) + 2) + answer)
    return pack(ids[world.rank :: world.size], network, labels[world.rank :: world.size])


def step(tuner: Tuner, engine: Engine, world: World, number: int) -> float:
    """Take one optimizer step; returns the mean loss before it."""
    assert isinstance(tuner.network, ChatGLM)
    one = batch(tuner.network, number, world).to(engine.device)
    engine.mean_factor = 1 / (ROWS * SCORED)
    loss = engine.module(one)
    engine.backward(loss, last=True)
    _norm, applied = engine.update(number, apply=True)
    assert applied
    return world.all_sum(float(loss.detach())) * engine.mean_factor


def timed(tuner: Tuner, engine: Engine, world: World, warm_up: int, steps: int) -> dict[str, object]:
    """Milliseconds per step, and memory."""
    reset_peak_memory(engine.device)
    seconds, losses = [], []
    for number in range(1, warm_up + steps + 1):
        synchronize(engine.device)
        started = time.perf_counter()
        losses.append(step(tuner, engine, world, number))
        synchronize(engine.device)
        seconds.append(time.perf_counter() - started)
    return {
        **step_figures(statistics.median(seconds[warm_up:]), ROWS, engine.device),
        "main_memory_gb": round(psutil.Process().memory_info().rss / 1e9, 1),
        "first_loss": round(losses[0], 4),
        "last_loss": round(losses[-1], 4),
    }


def saved(tuner: Tuner, folder: Path) -> dict[str, object]:
    """Seconds of writing and loading the 16-bit weights; the first rows of each weight are compared."""
    source = folder / "source"
    source.mkdir(parents=True, exist_ok=True)
    (source / "config.json").write_text(json.dumps(fields()), encoding="utf-8")
    try:
        seconds, _none = clocked(lambda: save_network(tuner.network, source, folder / "model", tied_once=True))
        size = sum(file.stat().st_size for file in (folder / "model").iterdir())
        load_seconds, network = clocked(lambda: load_network(folder / "model", dtype=torch.bfloat16, device=torch.device("cpu")))
        pairs = zip(tuner.network.state_dict().values(), network.state_dict().values(), strict=True)
        equal = all(torch.equal(one[:2].cpu(), other[:2]) for one, other in pairs)
        assert equal
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return {
        "case": "16-bit weights written and read back",
        "seconds": seconds,
        "load_seconds": load_seconds,
        "gb": round(size / 1e9, 2),
        "equal": equal,
    }


def fields() -> dict[str, object]:
    """The fields of config.json."""
    return {
        "model_type": "chatglm",
        "position_encoding_2d": True,
        "vocab_size": CONFIG.vocab_size,
        "hidden_size": CONFIG.hidden_size,
        "num_layers": CONFIG.num_layers,
        "num_attention_heads": CONFIG.num_attention_heads,
        "inner_hidden_size": CONFIG.inner_hidden_size,
        "layernorm_epsilon": CONFIG.layernorm_epsilon,
        "max_sequence_length": CONFIG.max_sequence_length,
    }


def clocked(function: Callable[[], Result]) -> tuple[float, Result]:
    """The seconds of a call, and its result."""
    started = time.perf_counter()
    result = function()
    return round(time.perf_counter() - started, 1), result


def free() -> None:
    """Free unused memory of the device."""
    gc.collect()
    torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
