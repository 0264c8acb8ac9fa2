"""Times the Triton kernels on the weights of ChatGLM-6B, beside cuBLAS and PyTorch's own INT4 product, and searches tile sizes.

    python benchmarks/kernels.py [--search] [--only KERNEL] [--out FILE] [--seconds 170]

Kernels are compiled in parallel and compared with plain PyTorch, each on one small weight. Then what is in use is timed, in a CUDA graph
over so many copies of the weight that none stays in the L2 cache. Prints one JSON line per measurement: microseconds a product, and TB/s of
the bytes that it must read and write. `--search` then times many tile sizes, and other ways to share the attention; its last lines are the
best ones. Without a GPU only the comparison runs, in Triton's interpreter (set TRITON_INTERPRET=1; with NumPy before 2.4).
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable, Container, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Protocol, TypeVar

import torch
from results import Report, reporter
from torch import Tensor
from torch.nn import functional

from imprint.kernels import attend_step, launch
from imprint.kernels.rotate import rotate as rotate_by_kernel
from imprint.kernels.tiles import Tile
from imprint.quant.formats import FORMATS
from imprint.quant.weight_format import SCALE, WEIGHT

LAYER = ((12288, 4096), (4096, 4096), (16384, 4096), (4096, 16384))
"""(N, K) of the four linears of a block; there are 28 blocks."""
HEAD = (130528, 4096)
LAYERS = 28
LOOPS = (2, 4)
"""Tiles that a loop over a quantized weight goes through at a time, beside code without a loop."""
BEYOND_CACHE = 5e8
"""Bytes of all copies of a weight."""
TITLES = {"int4": 4, "int8": 8, "int4-g128": "int4-g128"}
KERNELS = ("dequantize", "vector", "batch", "dense", "attention")
HEADS, HEAD_SIZE, PREFIX_KEYS, CACHED_KEYS, CAPACITY = 32, 128, 128, 124, 256
"""Of the attention of one layer: keys of the shared prefix, and of each sequence, the new one among them."""
ATTENDED = (1, 16, 64)
"""Sequences whose attention is timed."""
PRODUCTS: dict[str, Callable[..., Tensor]] = {
    "vector": launch.quantized_vector,
    "batch": launch.quantized_batch,
}


@dataclass(frozen=True)
class Case:
    """One kernel on one format, with a number of tokens."""

    kernel: str
    title: str
    """The format, or `bf16`."""
    tokens: int

    @property
    def bits(self) -> int:
        return {"int4": 4, "int4-g128": 4, "int8": 8}.get(self.title, 16)

    def read_bytes(self, rows: int, columns: int) -> float:
        """Bytes of a weight (N, K), and of what is made of it."""
        scales = {"int4-g128": 2 * rows * columns / 128, "bf16": 0}.get(self.title, 2 * rows)
        return rows * columns * self.bits / 8 + scales + (2 * rows * columns if self.kernel == "dequantize" else 0)

    def operation(self, rows: int, columns: int, device: torch.device, dtype: torch.dtype) -> Callable[[Tile | None], Tensor]:
        """The kernel on a random weight of its own."""
        x = torch.randn(self.tokens, columns, device=device).to(dtype)
        bias = torch.randn(rows, device=device).to(dtype)
        if self.title == "bf16":
            weight = torch.randn(rows, columns, device=device, dtype=dtype)
            return lambda tile: launch.dense_vector(x, weight, bias, tile)
        quantized = random_weight(self, rows, columns, device)
        if self.kernel == "dequantize":
            return lambda tile: launch.dequantize(quantized, dtype, *(() if tile is None else (tile,)))
        return lambda tile: PRODUCTS[self.kernel](x, quantized, bias, tile)


CASES = (
    *(Case("dequantize", title, 0) for title in TITLES),
    *(Case("vector", title, 1) for title in TITLES),
    *(Case("batch", title, tokens) for title in TITLES for tokens in (4, 16, 32, 64)),
    Case("dense", "bf16", 1),
)


def random_weight(case: Case, rows: int, columns: int, device: torch.device) -> launch.QuantizedRows:
    integers = torch.randint(-128, 128, (rows, columns * case.bits // 8), device=device, dtype=torch.int8)
    group = 128 if case.title == "int4-g128" else 0
    shape = (rows, -(-columns // group)) if group else (rows,)
    scales = (torch.rand(shape, device=device) * 0.01 + 0.01).half()
    return launch.QuantizedRows(integers, scales, case.bits, group, range(rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--search", action="store_true", help="time many tile sizes")
    parser.add_argument("--only", choices=KERNELS, action="append", help="only these kernels; may be repeated")
    parser.add_argument("--out", type=Path, help="append the lines to this file too")
    parser.add_argument("--seconds", type=float, default=170, help="a search begins no measurement after so many seconds")
    arguments = parser.parse_args()
    gpu = torch.cuda.is_available()

    report = reporter(arguments.out)

    kernels, until = set(arguments.only or KERNELS), time.monotonic() + arguments.seconds
    cases = [case for case in CASES if case.kernel in kernels]
    if not gpu:
        compare(report, torch.device("cpu"), kernels)
        return  # the attention is compared in tests
    used: list[Trial | AttentionTrial] = [Trial(case, shape) for case in cases for shape in shapes_of(case)]
    compile_all([*used, *[AttentionTrial(rows) for rows in ATTENDED if "attention" in kernels]], report)
    compare(report, torch.device("cuda"), kernels)
    if "attention" in kernels:
        compare_attention(report, torch.device("cuda"))
        for rows in ATTENDED:
            measure_attention(rows, [None], report, until)
    measure(cases, report)
    if arguments.search and "attention" in kernels:
        search_attention(report, until)
    if arguments.search and cases:
        search(cases, report, until)


# ---------------------------------------------------------------------------------------------------------------- comparison


def compare(report: Report, device: torch.device, kernels: Container[str]) -> None:
    """These kernels against plain PyTorch, for a width with a cut tile; one line each."""
    torch.manual_seed(0)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float16  # the interpreter truncates to bf16
    rows, columns = (100, 1096) if device.type == "cuda" else (7, 264)
    for title in TITLES:
        compare_format(report, title, rows, columns, dtype, device, kernels)
    if "dense" in kernels:
        weight, x = (torch.randn(size, columns, device=device).to(dtype) for size in (rows, 1))
        bias = torch.randn(rows, device=device).to(dtype)
        exact = x.double() @ weight.double().t() + bias.double()
        report(check="dense", dtype=str(dtype), shape=[rows, columns], error=error_of(launch.dense_vector(x, weight, bias), exact))


def compare_format(
    report: Report, title: str, rows: int, columns: int, dtype: torch.dtype, device: torch.device, kernels: Container[str]
) -> None:
    weight_format = next(one for one in FORMATS if str(one.title) == title)
    tensors = weight_format.quantize(torch.randn(rows, columns, device=device))
    kept = range(3, rows - 1)
    group = 128 if title == "int4-g128" else 0
    quantized = launch.QuantizedRows(tensors[WEIGHT], tensors[SCALE], 8 if title == "int8" else 4, group, kept)
    plain = weight_format.dequantize(tensors, slice(kept.start, kept.stop), dtype)
    about = {"format": title, "dtype": str(dtype), "shape": [len(kept), columns]}
    if "dequantize" in kernels:
        report(check="dequantize", **about, equal=torch.equal(launch.dequantize(quantized, dtype), plain))
    exact_weight = weight_format.dequantize(tensors, slice(kept.start, kept.stop), torch.float32).double()
    for kernel, tokens in (("vector", 1), ("batch", 3), ("batch", 17)):
        if kernel not in kernels:
            continue
        x, bias = torch.randn(tokens, columns, device=device).to(dtype), torch.randn(len(kept), device=device).to(dtype)
        exact = x.double() @ exact_weight.t() + bias.double()
        report(check=kernel, tokens=tokens, **about, error=error_of(PRODUCTS[kernel](x, quantized, bias, None), exact))


def error_of(found: Tensor, exact: Tensor) -> float:
    """The largest difference over the largest result."""
    return float((found.double() - exact).abs().max() / exact.abs().max())


def compare_attention(report: Report, device: torch.device) -> None:
    """The attention of a step, as it is chosen, against plain PyTorch in float64."""
    for rows in ATTENDED[:2]:
        step = Step(rows, device, torch.bfloat16)
        report(check="attention", rows=rows, error=error_of(step(), step.exact()))


class Step:
    """The attention of one layer in a decoding step, on random numbers."""

    def __init__(self, rows: int, device: torch.device, dtype: torch.dtype) -> None:
        joint = torch.randn(rows, HEADS, 3 * HEAD_SIZE, device=device).to(dtype)
        self.query, self.key, self.value = joint.chunk(3, -1)
        self.cached = [torch.randn(rows, HEADS, CAPACITY, HEAD_SIZE, device=device).to(dtype) for _ in range(2)]
        self.visible = torch.full((rows,), CACHED_KEYS, device=device)
        keys, values = (torch.randn(PREFIX_KEYS, HEADS, HEAD_SIZE, device=device).to(dtype) for _ in range(2))
        begins = torch.zeros(rows, dtype=torch.long, device=device)
        self.prefix = attend_step.KeyRanges(keys, values, begins, begins + PREFIX_KEYS, torch.arange(rows, device=device))
        cos, sin = (torch.randn(rows, HEAD_SIZE, device=device).to(dtype) for _ in range(2))
        self.rotation = attend_step.Rotation(cos, sin, HEAD_SIZE // 4)

    def __call__(self, tile: attend_step.StepTile | None = None) -> Tensor:
        new, cached = (self.key, self.value), (self.cached[0], self.cached[1])
        return attend_step.attend_step(self.query, new, cached, self.visible, prefix=self.prefix, rotation=self.rotation, tile=tile)

    def exact(self) -> Tensor:
        """The result in float64, from numbers that are rounded as the kernel rounds them."""
        rotation = self.rotation
        angles = (rotation.cos, rotation.sin, rotation.distance, False)
        query, key = (rotate_by_kernel(one, *angles).double() for one in (self.query, self.key))
        pairs = zip((self.prefix.keys, self.prefix.values), self.cached, (key, self.value), strict=True)
        keys, values = (
            torch.cat((prefix.transpose(0, 1).expand(len(key), -1, -1, -1), cached[:, :, : CACHED_KEYS - 1], new[:, :, None]), 2).double()
            for prefix, cached, new in pairs
        )
        return functional.scaled_dot_product_attention(query[:, :, None], keys, values)[:, :, 0]


def step_tiles(rows: int) -> list[attend_step.StepTile]:
    """The ways to share the attention of so many sequences among programs that are tried."""
    shapes = ((8, 1), (16, 1), (32, 1), (16, 2), (32, 2), (32, 4), (64, 4))
    splits = (4, 8, 16, 32) if rows == 1 else (1, 2) if rows < 64 else (1,)
    return [attend_step.StepTile(keys, warps, 10_000, most) for keys, warps in shapes for most in splits]


# -------------------------------------------------------------------------------------------------------------- measurements


def measure_attention(rows: int, tiles: Sequence[attend_step.StepTile | None], report: Report, until: float, **how: object) -> None:
    """The attention of one layer, all of its kernels, with these tiles; None is the one that is chosen."""
    read = 4 * HEADS * HEAD_SIZE * (rows * CACHED_KEYS + PREFIX_KEYS)
    steps = [Step(rows, torch.device("cuda"), torch.bfloat16) for _ in range(copies(read))]
    for tile in tiles:
        if time.monotonic() > until:
            return
        us = graph_us([lambda step=step, tile=tile: step(tile) for step in steps])  # type: ignore[misc]
        about = None if tile is None else list(asdict(tile).values())
        report(kernel="attention", rows=rows, tile=about, us=round(us, 2), tb_s=round(read / us / 1e6, 3), **how)


def search_attention(report: Report, until: float) -> None:
    """Other ways to share the attention among programs, without sharing the prefix, and with other parts of it at a time."""
    compile_all([AttentionTrial(rows, tile) for rows in ATTENDED for tile in step_tiles(rows)], report)
    chosen = attend_step.MIN_SHARING_ROWS, attend_step.SHARED_KEYS
    for rows in ATTENDED:
        measure_attention(rows, step_tiles(rows), report, until)
        if rows == 1:
            continue
        for keys in (64, 128):
            attend_step.SHARED_KEYS = keys
            measure_attention(rows, [None], report, until, shared_keys=keys)
        attend_step.MIN_SHARING_ROWS, attend_step.SHARED_KEYS = 1000, chosen[1]
        measure_attention(rows, [None], report, until, shared=False)
        attend_step.MIN_SHARING_ROWS = chosen[0]


def graph_us(operations: list[Callable[[], object]]) -> float:
    """Microseconds of one of the operations, which run one after another in a CUDA graph."""
    for operation in operations:
        operation()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for operation in operations:
            operation()
    graph.replay()
    times: list[float] = []
    for _ in range(5):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        graph.replay()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end) * 1e3 / 2 / len(operations))
    return statistics.median(times)


def copies(read_bytes: float) -> int:
    return max(2, min(64, int(BEYOND_CACHE / read_bytes)))


def measure(cases: list[Case], report: Report) -> None:
    """Every kernel with the tiles of the table, and its rivals."""
    device, dtype = torch.device("cuda"), torch.bfloat16
    for case in cases:
        whole = 0.0
        for rows, columns in (*LAYER, HEAD):
            if case.kernel == "dequantize" and (rows, columns) == HEAD:
                continue
            read = case.read_bytes(rows, columns)
            made = [case.operation(rows, columns, device, dtype) for _ in range(copies(read))]
            us = graph_us([lambda one=one: one(None) for one in made])  # type: ignore[misc]
            whole += us if (rows, columns) != HEAD else 0
            report(**asdict(case), shape=[rows, columns], us=round(us, 2), tb_s=round(read / us / 1e6, 3))
            del made
        report(**asdict(case), layers=LAYERS, ms=round(LAYERS * whole / 1e3, 3))
    for tokens in (1, 4, 16, 64):
        if {case.kernel for case in cases} - {"vector", "dequantize"}:
            rivals(tokens, report)


def rivals(tokens: int, report: Report) -> None:
    """Products of cuBLAS, and of PyTorch's kernel for INT4 with groups of 128."""
    for rows, columns in (*LAYER, HEAD):
        read = 2 * rows * columns
        x = torch.randn(tokens, columns, device="cuda", dtype=torch.bfloat16)
        weights = [torch.randn(rows, columns, device="cuda", dtype=torch.bfloat16) for _ in range(copies(read))]
        us = graph_us([lambda one=one, x=x: functional.linear(x, one) for one in weights])  # type: ignore[misc]
        report(kernel="cublas", title="bf16", tokens=tokens, shape=[rows, columns], us=round(us, 2), tb_s=round(read / us / 1e6, 3))
        del weights
        try:
            us = graph_us(list(tinygemm(x, rows, columns)))
        except (RuntimeError, AttributeError) as error:
            report(kernel="torch int4", shape=[rows, columns], failed=str(error)[:200])
            continue
        read = rows * columns // 2 + 4 * rows * columns // 128
        rate = round(read / us / 1e6, 3)
        report(kernel="torch int4", title="int4-g128", tokens=tokens, shape=[rows, columns], us=round(us, 2), tb_s=rate)


def tinygemm(x: Tensor, rows: int, columns: int) -> Iterator[Callable[[], object]]:
    for _ in range(copies(rows * columns / 2)):
        integers = torch.randint(0, 256, (rows, columns // 2), device="cuda", dtype=torch.uint8)
        packed = torch._convert_weight_to_int4pack(integers, 8)
        scales = torch.rand(columns // 128, rows, 2, device="cuda", dtype=torch.bfloat16)
        yield lambda packed=packed, scales=scales: torch._weight_int4pack_mm(x, packed, 128, scales)  # type: ignore[misc]


# -------------------------------------------------------------------------------------------------------------------- search


@dataclass(frozen=True)
class Trial:
    """A tile for a case on a weight (N, K)."""

    case: Case
    shape: tuple[int, int]
    tile: Tile | None = None
    """None: the one that is chosen."""

    def run(self) -> None:
        self.case.operation(*self.shape, torch.device("cuda"), torch.bfloat16)(self.tile)

    @property
    def name(self) -> str:
        return f"{self.case.kernel} {self.case.title}"


@dataclass(frozen=True)
class AttentionTrial:
    """A way to share the attention of so many sequences among programs."""

    rows: int
    tile: attend_step.StepTile | None = None

    def run(self) -> None:
        Step(self.rows, torch.device("cuda"), torch.bfloat16)(self.tile)

    @property
    def name(self) -> str:
        return f"attention {self.rows}"


class Compilable(Protocol):
    """What compiles kernels when it runs."""

    def run(self) -> None: ...

    @property
    def name(self) -> str: ...


Compiled = TypeVar("Compiled", bound=Compilable)


def compile_all(trials: Sequence[Compiled], report: Report) -> dict[Compiled, str]:
    """Compiles the kernels of all trials into Triton's cache, in parallel; those that failed, and why."""
    began = time.monotonic()
    workers = max(1, min(14, (os.cpu_count() or 2) - 2, len(trials)))
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        failed = {trial: problem for trial, problem in zip(trials, pool.map(compile_trial, trials), strict=True) if problem}
    report(trials=len(trials), failed=len(failed), compile_s=round(time.monotonic() - began, 1))
    for problem in sorted(set(failed.values())):
        report(failed=problem)
    return failed


def search(cases: list[Case], report: Report, until: float) -> None:
    """Times all trials, each case on each shape; the best ones last."""
    cases = [case for case in cases if case.tokens not in {4, 32}]
    trials = [Trial(case, shape, tile) for case in cases for shape in shapes_of(case) for tile in candidates(case, *shape)]
    failed = compile_all(trials, report)
    best: dict[tuple[Case, tuple[int, int]], tuple[float, Tile]] = {}
    for case in cases:
        for shape in shapes_of(case):
            made = [case.operation(*shape, torch.device("cuda"), torch.bfloat16) for _ in range(copies(case.read_bytes(*shape)))]
            for trial in trials:
                if (trial.case, trial.shape) != (case, shape) or trial.tile is None or trial in failed or time.monotonic() > until:
                    continue
                us = graph_us([lambda one=one, tile=trial.tile: one(tile) for one in made])  # type: ignore[misc]
                report(**asdict(case), shape=shape, tile=list(asdict(trial.tile).values()), us=round(us, 2))
                best[case, shape] = min(best.get((case, shape), (us, trial.tile)), (us, trial.tile), key=lambda found: found[0])
            del made
    for (case, shape), (us, tile) in best.items():
        report(best=asdict(case), shape=shape, tile=asdict(tile), us=round(us, 2), tb_s=round(case.read_bytes(*shape) / us / 1e6, 3))


def shapes_of(case: Case) -> tuple[tuple[int, int], ...]:
    if case.kernel == "dequantize":
        return (LAYER[2],)
    return (*LAYER, HEAD) if case.kernel in {"dense", "vector"} else LAYER


def candidates(case: Case, rows: int, columns: int) -> list[Tile]:
    """The tiles that are tried."""
    words = columns * case.bits // 32
    if case.kernel == "dequantize":
        return [Tile(n, w, warps) for n in (1, 2, 4, 8, 16) for w in (64, 128, 256) for warps in (4, 8) if n * w >= 32 * warps]
    if case.kernel == "batch":
        width, few = columns * case.bits // 16, case.tokens <= 16
        tiles = (
            Tile(n, w, warps, stages, parts, described=described)
            for n, warps in (((64, 2), (64, 4), (128, 4)) if few else ((64, 4), (128, 4), (128, 8)))
            for w in ((32,) if case.title == "int4-g128" else (32, 64, 128) if few else (32, 64))
            for stages in ((3, 4) if few else (2, 3, 4))
            for parts in (1, 2, 4, 8)
            for described in (False, True)
        )
        return [one for one in tiles if 90 <= rows // one.rows * one.parts <= 800 and width >= 2 * one.parts * one.columns]
    wide, unit = (columns, 256) if case.kernel == "dense" else (words, 32)
    found = []
    for warps in (1, 2, 4, 8):
        for reach in (1, 2, 4):
            for n in (1, 2, 4, 8):
                block = unit * warps * reach
                each = n * wide // (unit * warps)
                if block <= wide and 4 <= each <= (64 if case.kernel == "dense" else 128) and n * reach <= 32:
                    found.append(Tile(n, block, warps))
                    if case.kernel == "vector":
                        found += [Tile(n, block, warps, unroll=unroll) for unroll in LOOPS if 2 * unroll * block <= wide]
    return found


def compile_trial(trial: Compilable) -> str | None:
    """Compiles the kernel of a trial into Triton's cache, in a process of its own; why it failed."""
    try:
        trial.run()
        torch.cuda.synchronize()
    except Exception as error:  # of Triton, which may also fail to compile
        return f"{trial.name}: {type(error).__name__}: {str(error)[:120]}"
    return None


if __name__ == "__main__":
    main()
