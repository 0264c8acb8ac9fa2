"""One optimizer step of bfloat16 weights of ChatGLM-6B's shape: PyTorch's AdamW on whole fp32 masters, and the kernel on split ones.

    python benchmarks/update.py [--layers 8] [--search] [--out FILE]

Prints one JSON line each: milliseconds a step, TB/s of the bytes that it must read and write, how far masters and moments are apart after
a few steps. `--search` times other tiles. Without a GPU a tiny one is compared, in Triton's interpreter (set TRITON_INTERPRET=1).
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from results import reporter
from torch import nn

from imprint.engine.master_weights import MasterAdamW, MasterOptimizer
from imprint.engine.split_weights import SplitAdamW
from imprint.kernels.language import triton
from imprint.kernels.tiles import UPDATE, Tile

LAYER = ((12288, 4096), (12288,), (4096, 4096), (4096,), (16384, 4096), (16384,), (4096, 16384), (4096,), *[(4096,)] * 4)
"""A block's linears and norms; there are 28."""
BYTES = {"torch, whole masters": 28 + 12, "kernel, split masters": 26}
"""Read and written, an element; PyTorch's include the gradient in fp32 and the rounded weight."""
TILES = [
    Tile(1, columns, warps) for columns in (256, 512, 1024, 2048, 4096) for warps in (2, 4, 8, 16) if 2 <= columns // (32 * warps) <= 16
]
STEPS = 12


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--search", action="store_true", help="time other tiles, too")
    parser.add_argument("--out", type=Path, help="append the lines to this file too")
    options = parser.parse_args()
    gpu = torch.cuda.is_available()
    shapes = LAYER * options.layers if gpu else ((40, 30), (30,))

    report = reporter(options.out)

    report(**timed("torch, whole masters", shapes, lambda groups: MasterAdamW(groups, rate=1e-4, decay=0.1, fused=gpu)))
    if triton is None:
        return
    from imprint.kernels.adamw import update

    report(**compared(shapes[: len(LAYER)], fused=gpu))
    for tile in TILES if options.search and gpu else [UPDATE]:
        of_tile = partial(update, tile=tile)
        values = timed("kernel, split masters", shapes, lambda groups, one=of_tile: SplitAdamW(groups, rate=1e-4, decay=0.1, update=one))
        report(**values, columns=tile.columns, warps=tile.warps)


def parameters_of(shapes: tuple[tuple[int, ...], ...]) -> list[nn.Parameter]:
    """Random weights."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    return [nn.Parameter((0.02 * torch.randn(shape, device=device)).bfloat16()) for shape in shapes]


def push(parameters: list[nn.Parameter], optimizer: MasterOptimizer, gradients: list[torch.Tensor]) -> float:
    """One step; its seconds."""
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    synchronize()
    started = time.perf_counter()
    optimizer.step(min(1.0, 1 / float(optimizer.norm())))
    synchronize()
    return time.perf_counter() - started


def timed(name: str, shapes: tuple[tuple[int, ...], ...], make: Callable[..., MasterOptimizer]) -> dict[str, object]:
    """The line of an optimizer, with the norm of the gradients."""
    parameters = parameters_of(shapes)
    optimizer, gradients = make([{"params": parameters}]), [torch.randn_like(parameter) for parameter in parameters]
    seconds = statistics.median([push(parameters, optimizer, gradients) for _ in range(STEPS)][2:])
    elements = sum(parameter.numel() for parameter in parameters)
    moved = elements * (BYTES[name] + 2)
    return {"update": name, "elements": elements, "ms": round(1e3 * seconds, 3), "tb_per_second": round(moved / seconds / 1e12, 2)}


@torch.no_grad()
def compared(shapes: tuple[tuple[int, ...], ...], *, fused: bool) -> dict[str, object]:
    """How far both are apart after five steps."""
    ends = []
    for make in (partial(MasterAdamW, fused=fused), SplitAdamW):
        parameters = parameters_of(shapes)
        optimizer: MasterOptimizer = make([{"params": parameters}], rate=1e-4, decay=0.1)
        for step in range(5):
            torch.manual_seed(step)
            push(parameters, optimizer, [torch.randn_like(parameter) for parameter in parameters])
        states = [optimizer.state(parameter) for parameter in parameters]
        values = [optimizer.value(parameter) for parameter in parameters]
        ends.append((values, [one["exp_avg"] for one in states], [one["exp_avg_sq"] for one in states], parameters))
    largest, equal = [], []
    for ours, theirs in zip(*ends, strict=True):
        largest.append(max(float((a.float() - b.float()).abs().max()) for a, b in zip(ours, theirs, strict=True)))
        equal.append(round(statistics.mean(float((a == b).float().mean()) for a, b in zip(ours, theirs, strict=True)), 4))
    names = ("masters", "exp_avg", "exp_avg_sq", "weights")
    return {"largest_difference": dict(zip(names, largest, strict=True)), "equal_share": dict(zip(names, equal, strict=True))}


def synchronize() -> None:
    """Wait for the GPU."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
