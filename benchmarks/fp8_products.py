"""Products of FP8 and what rounds their numbers, on one GPU: each linear of ChatGLM-6B, forward and for the gradient of its input.

    python benchmarks/fp8_products.py [--tokens 1536] [--out FILE]

Prints JSON lines. "product": milliseconds for 28 layers, each with a weight of its own, in bf16 and in FP8 with scales of rows or of whole
tensors (which training does not use), with sums in fewer bits or not, and the share by which a product differs from that of the same
numbers in fp64. "rounding": the same of the kernel, by numbers of a row for each group of 32 threads, and the bytes a second that it
moves. Last come the sums over a step. All is repeated as CUDA graphs. It needs a GPU of compute capability 8.9.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import torch
from results import reporter
from torch import Tensor

from imprint.kernels import quantize_rows, scaled
from imprint.quant.fp8 import ONES, TRANSPOSED, Fp8
from imprint.quant.weight_format import SCALE, WEIGHT

LAYERS, REPEATS = 28, 5
LINEARS = {"query_key_value": (12288, 4096), "dense": (4096, 4096), "dense_h_to_4h": (16384, 4096), "dense_4h_to_h": (4096, 16384)}
"""Name -> rows and columns of the weight."""
BF16 = torch.bfloat16


def milliseconds(compute: Callable[[int], object]) -> float:
    """Of `compute` for all layers, the fastest of some repetitions of a graph."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        compute(0)
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for layer in range(LAYERS):
            compute(layer)
    times = []
    for _ in range(REPEATS):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(float(begin.elapsed_time(end)))
    return min(times)


def weights(rows: int, columns: int) -> list[tuple[Tensor, scaled.ScaledWeight]]:
    """A 16-bit weight and the same in FP8, for every layer."""
    found = []
    for _ in range(LAYERS):
        plain = torch.randn(rows, columns, device="cuda", dtype=BF16) * 0.02
        tensors = Fp8().quantize(plain)
        others = Fp8().backward_tensors(tensors)
        bias = torch.zeros(rows, device="cuda", dtype=BF16)
        found.append((plain, scaled.ScaledWeight(tensors[WEIGHT], tensors[SCALE], others[TRANSPOSED], others[ONES], bias)))
    return found


def product(x: tuple[Tensor, Tensor], numbers: Tensor, scales: Tensor, *, fast: bool) -> Tensor:
    """As training computes it, without a bias."""
    with patch.object(scaled, "FAST_SUMS", fast):
        return scaled.multiply(x, numbers.view(quantize_rows.FP8), scales)


def share(found: Tensor, x: tuple[Tensor, Tensor], numbers: Tensor, scales: Tensor) -> float:
    """By which a product differs from that in fp64, in its first rows."""
    few = x[0][:64].double() * x[1][:64].double()
    exact = few @ (numbers.view(quantize_rows.FP8).double() * scales.double()[:, None]).t()
    return float((found[:64].double() - exact).norm() / exact.norm())


def measure(tokens: int, report: Callable[..., None]) -> None:
    """All lines."""
    totals = dict.fromkeys(("bf16", "rows_fast", "rows_exact", "tensor_fast", "rounding"), 0.0)
    for name, (rows, columns) in LINEARS.items():
        layers = weights(rows, columns)
        for forward in (True, False):
            x = torch.randn(tokens, columns if forward else rows, device="cuda", dtype=BF16)
            of_line = {"linear": name, "of": "forward" if forward else "gradient"}
            times = time_products(x, [one for one, _ in layers], [as_operand(one, forward=forward) for _, one in layers], report, of_line)
            pre_activation = torch.randn_like(x) if name == "dense_h_to_4h" and not forward else None
            factors, activated = None if forward else layers[0][1].scales, name == "dense_4h_to_h" and forward
            rounding = []
            for features in (256, 512, 1024, 2048):
                with patch.object(quantize_rows, "FEATURES_PER_WARP", features):
                    ms = milliseconds(lambda _: quantize_rows.quantize_rows(x, factors, pre_activation=pre_activation, activated=activated))  # noqa: B023 - called now
                moved = x.numel() * (3 if pre_activation is None else 5) * LAYERS
                report(part="rounding", **of_line, numbers_a_warp=features, ms=ms, tb_per_second=moved / ms / 1e9)
                rounding.append(ms)
            times["rounding"] = min(rounding)
            totals = {kind: total + times[kind] for kind, total in totals.items()}
        del layers
    report(part="step", **totals)


def as_operand(weight: scaled.ScaledWeight, *, forward: bool) -> tuple[Tensor, Tensor]:
    """Numbers and scales of what rows are multiplied by."""
    assert weight.transposed is not None
    assert weight.ones is not None
    return (weight.numbers, weight.scales) if forward else (weight.transposed, weight.ones)


def time_products(
    x: Tensor, plain: list[Tensor], operands: list[tuple[Tensor, Tensor]], report: Callable[..., None], of_line: dict[str, str]
) -> dict[str, float]:
    """Milliseconds of each way to multiply the same rows by all layers."""
    taken, one = quantize_rows.quantize_rows(x), torch.ones((), device="cuda")
    forward = plain[0].shape[1] == x.shape[1] and of_line["of"] == "forward"

    def of_tensors(layer: int) -> Tensor:
        numbers = operands[layer][0].view(quantize_rows.FP8)
        return torch._scaled_mm(taken[0], numbers.t(), scale_a=one, scale_b=one, out_dtype=BF16, use_fast_accum=True)

    times = {
        "bf16": milliseconds(lambda layer: x @ (plain[layer].t() if forward else plain[layer])),
        "rows_fast": milliseconds(lambda layer: product(taken, *operands[layer], fast=True)),
        "rows_exact": milliseconds(lambda layer: product(taken, *operands[layer], fast=False)),
        "tensor_fast": milliseconds(of_tensors),
    }
    fast, exact = (share(product(taken, *operands[0], fast=fast), taken, *operands[0]) for fast in (True, False))
    report(part="product", **of_line, **times, share_off_fast=fast, share_off_exact=exact)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=1536)
    parser.add_argument("--out", type=Path, help="append the lines to this file too")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("this needs a GPU that multiplies FP8")
        return

    write = reporter(options.out, tokens=options.tokens)

    def report(**values: object) -> None:
        short = {name: float(f"{value:.4g}") if isinstance(value, float) else value for name, value in values.items()}
        write(**short)

    measure(options.tokens, report)


if __name__ == "__main__":
    main()
