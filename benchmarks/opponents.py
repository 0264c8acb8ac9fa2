"""Times the kernels of other libraries beside Imprint's, on one GPU, with weights and inputs of ChatGLM-6B's shape.

    python benchmarks/opponents.py [--case int4] [--out FILE] [--seconds 150] [--long] [--serial] [--tiny]

Prints one JSON line per measurement: `ms` of 28 layers, `ms` of a loss or `us` of one norm or rotation; `ratio`, Imprint's time over the
library's; and `error`, the largest difference from the result in fp32, over its largest number. What is not installed or fails is a line
with the reason, `failed`. All runs in one process, as CUDA graphs over so many copies that none stays in the L2 cache; but a loss runs
without a graph, since Liger's asks the GPU for numbers. Kernels are compiled in parallel before, unless `--serial`.

* int4, int8, int4-g128: the four linears of a block, of the same integers and scales, for so many tokens; 1,536 are those of a training
  step. bitsandbytes multiplies its own NF4 numbers, and rounds tokens to integers in INT8. gemlite searches its own tiles.
* loss: that of 925 targets and its gradient for the hidden states; the head is frozen. Also `peak_gib`, memory beside the inputs.
* norms: norms behind sums, a chain of them, forward and backward: `layer` as in ChatGLM-6B's blocks, with a residual that is scaled and
  normalised, `rms` as in later models. quack computes gradients of the frozen weights, too.
* rope: queries and keys, forward and backward, where half a head lies between the two of a pair. ChatGLM-6B rotates its halves each on
  their own, which other libraries do not.
* fp8: a training step's linears, forward and gradient. torchao rounds its weights in every step, Imprint's are stored in FP8.
  Unless it is compiled, it computes gradients of the weights, too.

Liger's GEGLU is not here, because it gates, and ChatGLM-6B's GELU does not. `--tiny`, the default without a GPU, only compares the plain
parts on small tensors and says what is installed.
"""

import argparse
import functools
import gc
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Protocol
from unittest.mock import patch

import torch
from kernels import LAYER, LAYERS, Case, compile_all, copies, error_of, graph_us, random_weight
from opponents_training import (
    BF16,
    BLOCKS,
    CHAINS,
    LOSSES,
    ROTATIONS_OF,
    TOKENS,
    believable,
    measure_fp8,
    measure_loss,
    measure_norms,
    measure_rope,
    torch_loss,
)
from results import Report, reporter
from torch import Tensor
from torch.nn import functional

import imprint
from imprint.kernels import launch, ops
from imprint.kernels.tiles import BATCH_TOKENS
from imprint.quant.formats import FORMATS
from imprint.quant.weight_format import SCALE, WEIGHT
from imprint.runtime import version_of

SEARCH_MS = 3
"""Milliseconds for each tile that a library tries."""
VARIANTS = {
    "int4": ("1", "16", "64"),
    "int8": ("1", "16", "64"),
    "int4-g128": ("1", "16", "64", str(TOKENS)),
    "loss": ("",),
    "norms": ("layer", "rms"),
    "rope": ("",),
    "fp8": ("",),
}
"""Case -> numbers of tokens, or kinds of norms."""
PACKAGES = {
    "liger": "liger_kernel",
    "liger-one-chunk": "liger_kernel",
    "torchao": "torchao",
    "torchao-compiled": "torchao",
    "bitsandbytes": "bitsandbytes",
    "gemlite": "gemlite",
    "quack": "quack-kernels",
    "cut-cross-entropy": "cut_cross_entropy",
}
"""Library -> its package; those of PyTorch itself are not here."""
ORDER = ("imprint", "torch", "torch-int4", *PACKAGES)
"""Imprint comes first, for the ratios; last come those that are most likely to harm others by leaving the GPU in disorder, or waiting."""
COMPILED = ("gemlite", "quack", "torchao-compiled", "liger", "liger-one-chunk", "imprint")
"""Libraries whose kernels are compiled in parallel, those that take longest first."""


@dataclass(frozen=True)
class Job:
    """A library's part in a case."""

    case: str
    variant: str
    """Tokens or a kind of norm."""
    opponent: str

    def run(self) -> None:
        """Once, which compiles everything."""
        MEASURES[self.case](self.opponent, self.variant, once=True)

    @property
    def name(self) -> str:
        return f"{self.opponent} {self.case} {self.variant}".rstrip()

    @property
    def about(self) -> dict[str, object]:
        """What its lines begin with."""
        named = {"tokens": int(self.variant)} if self.variant.isdigit() else {"norm": self.variant} if self.variant else {}
        return {"case": self.case, **named, "library": self.opponent, "version": library_version(self.opponent)}


def library_version(library: str) -> str | None:
    """None where it is not installed."""
    if library not in PACKAGES:
        return imprint.__version__ if library == "imprint" else str(torch.__version__)
    return version_of(PACKAGES[library])


# ------------------------------------------------------------------------------------------------------------------ products


@dataclass(frozen=True)
class Linear:
    """A library's product with a weight (N, K): tokens (T, K) -> (T, N)."""

    multiply: Callable[[Tensor], Tensor]
    own: Callable[[], Tensor] | None = None
    """The weight in plain numbers, if it is not the one that was given."""


def plain(title: str, weight: launch.QuantizedRows) -> Tensor:
    """The numbers (N, K) in fp32."""
    weight_format = next(one for one in FORMATS if str(one.title) == title)
    return weight_format.dequantize({WEIGHT: weight.integers, SCALE: weight.scales}, slice(None), torch.float32)


def without_signs(weight: launch.QuantizedRows) -> Tensor:
    """Pairs of integers from 0 to 15, which are those of the weight plus 8: uint8 (N, K / 2), the first one high."""
    return weight.integers.view(torch.uint8) ^ 0x88


def imprint_linear(title: str, weight: launch.QuantizedRows) -> Linear:  # noqa: ARG001
    numbers = (weight.bits, weight.group, 0, len(weight.rows))

    def multiply(x: Tensor) -> Tensor:
        product = ops.quantized_linear if len(x) <= BATCH_TOKENS else ops.dequantized_linear
        out: Tensor = product(x, weight.integers, weight.scales, None, *numbers)
        return out

    return Linear(multiply)


def torch_linear(title: str, weight: launch.QuantizedRows) -> Linear:
    """cuBLAS with a weight in bf16."""
    dense = plain(title, weight).to(BF16)
    return Linear(lambda x: functional.linear(x, dense))


def torch_int4_linear(title: str, weight: launch.QuantizedRows) -> Linear:  # noqa: ARG001
    """PyTorch's own kernel, which torchao uses for INT4."""
    packed = torch.ops.aten._convert_weight_to_int4pack(without_signs(weight), 8)
    scales = weight.scales.t().to(BF16)
    both = torch.stack((scales, torch.zeros_like(scales)), -1).contiguous()
    return Linear(lambda x: torch.ops.aten._weight_int4pack_mm(x, packed, weight.group, both))


def torchao_linear(title: str, weight: launch.QuantizedRows) -> Linear:  # noqa: ARG001
    stored = import_module("torchao.quantization").Int8Tensor(weight.integers, weight.scales[:, None].float(), [1, weight.columns], BF16)
    return Linear(lambda x: functional.linear(x, stored))


def torchao_compiled_linear(title: str, weight: launch.QuantizedRows) -> Linear:  # noqa: ARG001
    stored = import_module("torchao.quantization").Int8Tensor(weight.integers, weight.scales[:, None].float(), [1, weight.columns], BF16)
    return Linear(lambda x: compiled_linear()(x, stored))


@functools.cache
def compiled_linear() -> Callable[[Tensor, Tensor], Tensor]:
    """With the settings that torchao recommends."""
    import_module("torchao.quantization.utils").recommended_inductor_config_setter()
    return torch.compile(lambda x, weight: functional.linear(x, weight), dynamic=False)


def bitsandbytes_linear(title: str, weight: launch.QuantizedRows) -> Linear:
    library = import_module("bitsandbytes")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it warns of every product in bf16
    if title == "int8":
        state = library.MatmulLtState()
        state.CB, state.SCB = weight.integers, weight.scales.float() * 127
        state.has_fp16_weights, state.is_training = False, False
        return Linear(lambda x: library.matmul(x, weight.integers, state=state))
    numbers, state = library.functional.quantize_4bit(plain(title, weight).to(BF16), blocksize=64, quant_type="nf4")
    own = functools.partial(library.functional.dequantize_4bit, numbers, state)
    return Linear(lambda x: library.matmul_4bit(x, numbers, quant_state=state), own)


def gemlite_linear(title: str, weight: launch.QuantizedRows) -> Linear:
    helper = import_module("gemlite").helper
    scales = weight.scales.view(len(weight.rows), -1).to(BF16)
    if title == "int8":
        return Linear(helper.A16W8_INT8(device="cuda:0", dtype=BF16).from_weights(weight.integers, scales=scales))
    pairs = without_signs(weight)
    integers = torch.stack((pairs >> 4, pairs & 15), -1).flatten(1)
    return Linear(helper.A16W4_HQQ_INT(device="cuda:0", dtype=BF16).from_weights(integers, scales, torch.full_like(scales, 8)))


def quack_linear(title: str, weight: launch.QuantizedRows) -> Linear:  # noqa: ARG001
    library = import_module("quack.gemm_w4")
    pairs = without_signs(weight)
    numbers, scales = library.prepare_w4_weight((pairs >> 4) | (pairs << 4), weight.scales.to(BF16), "int4")
    return Linear(lambda x: library.gemm_w4a16(x, numbers, scales, wformat="int4"))


Prepare = Callable[[str, launch.QuantizedRows], Linear]
ANY_FORMAT: dict[str, Prepare] = {"imprint": imprint_linear, "torch": torch_linear, "gemlite": gemlite_linear}
LINEARS: dict[str, dict[str, Prepare]] = {
    "int4": {**ANY_FORMAT, "bitsandbytes": bitsandbytes_linear},
    "int8": {
        **ANY_FORMAT,
        "bitsandbytes": bitsandbytes_linear,
        "torchao": torchao_linear,
        "torchao-compiled": torchao_compiled_linear,
    },
    "int4-g128": {**ANY_FORMAT, "torch-int4": torch_int4_linear, "quack": quack_linear},
}


def short_searches() -> AbstractContextManager[object]:
    """Inside, what tries its tiles by itself does so in less time."""
    testing = import_module("triton.testing")
    return patch.object(testing, "do_bench", functools.partial(testing.do_bench, warmup=1, rep=SEARCH_MS))


@torch.no_grad()
def measure_products(title: str, library: str, variant: str, *, once: bool) -> dict[str, float]:
    """The four linears, one after another, for all layers."""
    case, prepare = Case("vector", title, int(variant)), LINEARS[title][library]
    read = sum(case.read_bytes(*shape) for shape in LAYER)
    inputs = [torch.randn(case.tokens, columns, device="cuda", dtype=BF16) for _, columns in LAYER]
    blocks: list[Sequence[Callable[[], Tensor]]] = []
    errors = []
    for _ in range(1 if once else copies(read)):
        block = []
        for (rows, columns), x in zip(LAYER, inputs, strict=True):
            weight = random_weight(case, rows, columns, x.device)
            weight = replace(weight, scales=weight.scales.to(BF16).half())  # so that every library has the same
            linear = prepare(title, weight)
            block.append(functools.partial(linear.multiply, x))
            if not blocks:
                with short_searches():
                    out = linear.multiply(x)
                torch.cuda.synchronize()
                exact = plain(title, weight) if linear.own is None else linear.own().float()
                errors.append(error_of(out, (x.float() @ exact.t()).double()))
        blocks.append(block)
    if once:
        return {}
    us = graph_us([lambda block=block: [multiply() for multiply in block] for block in blocks])  # type: ignore[misc]
    return {"ms": LAYERS * believable(us, read) / 1e3, "error": max(errors)}


# ---------------------------------------------------------------------------------------------------------------------- jobs

LONG = Job("int4-g128", str(TOKENS), "gemlite")
"""Only tried with `--long`: to compile what it tries takes minutes."""


class Measure(Protocol):
    """Times a library's part in a case; `once`: only computes once."""

    def __call__(self, library: str, variant: str, *, once: bool) -> dict[str, float]: ...


MEASURES: dict[str, Measure] = {
    **{title: functools.partial(measure_products, title) for title in LINEARS},
    "loss": measure_loss,
    "norms": measure_norms,
    "rope": measure_rope,
    "fp8": measure_fp8,
}
LIBRARIES: dict[str, Sequence[str]] = {
    **{case: tuple(libraries) for case, libraries in LINEARS.items()},
    "loss": tuple(LOSSES),
    "norms": tuple(CHAINS),
    "rope": tuple(ROTATIONS_OF),
    "fp8": tuple(BLOCKS),
}


def jobs_of(cases: Sequence[str], *, long: bool) -> list[Job]:
    """All of them, library by library; without `LONG` unless it is wanted."""
    jobs = [Job(case, variant, library) for library in ORDER for case in cases for variant in VARIANTS[case] if library in LIBRARIES[case]]
    # of more tokens PyTorch's compiler makes what torchao computes without it
    jobs = [job for job in jobs if (job.opponent, job.case) != ("torchao-compiled", "int8") or job.variant == "1"]
    return [job for job in jobs if long or job != LONG]


def reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".split("\n")[0][:300]


def compile_jobs(jobs: list[Job], report: Report) -> None:
    """Compiles what is installed, in parallel processes; what fails will say so when it is measured."""
    trials = [job for library in COMPILED for job in jobs if job.opponent == library and job.about["version"]]
    try:
        compile_all(trials, report)
    except Exception as error:  # a process may die
        report(failed=f"parallel compilation: {reason(error)}")


def measure_job(job: Job, ours: dict[tuple[str, str], float], report: Report) -> None:
    """One line; Imprint's times are kept in `ours` for the ratios."""
    try:
        torch.manual_seed(0)
        found = MEASURES[job.case](job.opponent, job.variant, once=False)
        torch.cuda.synchronize()
    except Exception as error:  # whatever a library may raise
        report(**job.about, failed=reason(error))
        return
    finally:
        gc.collect()
        with suppress(Exception):  # of a GPU that a kernel has left in disorder
            torch.cuda.empty_cache()
    spent = found.get("ms", found.get("us", 0.0))
    if job.opponent == "imprint":
        ours[job.case, job.variant] = spent
    ratio = ours[job.case, job.variant] / spent if (job.case, job.variant) in ours else None
    numbers = {name: float(f"{value:.4g}") for name, value in found.items()}
    report(**job.about, **numbers, ratio=None if ratio is None else round(ratio, 3))


def compare_plain_parts(report: Report) -> None:
    """What other libraries are given, and the reference of the loss, on small tensors."""
    torch.manual_seed(0)
    for title in ("int4", "int4-g128"):
        weight = random_weight(Case("vector", title, 1), 5, 256, torch.device("cpu"))
        weight = replace(weight, scales=weight.scales.to(BF16).half())
        pairs = without_signs(weight)
        integers = torch.stack((pairs >> 4, pairs & 15), -1).flatten(1).float() - 8
        scales = weight.scales.float().view(5, -1).repeat_interleave(256 // weight.scales.view(5, -1).shape[1], 1)
        report(check="integers", case=title, error=error_of(integers * scales, plain(title, weight).double()))
    hidden, head, labels = torch.randn(11, 32, requires_grad=True), torch.randn(70, 32), torch.randint(70, (11,))
    (loss, grad), (exact_loss, exact_grad) = LOSSES["imprint"]()(hidden, head, labels), torch_loss(hidden, head, labels, rows=4)
    report(check="loss", error=max(error_of(loss, exact_loss.double()), error_of(grad, exact_grad.double())))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=VARIANTS, action="append", help="only these; may be repeated")
    parser.add_argument("--out", type=Path, help="append the lines to this file too")
    parser.add_argument("--seconds", type=float, default=150, help="no measurement begins after so many")
    parser.add_argument("--long", action="store_true", help="also gemlite for 1,536 tokens, which takes minutes to compile")
    parser.add_argument("--serial", action="store_true", help="compile nothing in parallel")
    parser.add_argument("--tiny", action="store_true", help="measure nothing")
    arguments = parser.parse_args()
    began, report = time.monotonic(), reporter(arguments.out)

    jobs = jobs_of(arguments.case or list(VARIANTS), long=arguments.long)
    if arguments.tiny or not torch.cuda.is_available():
        compare_plain_parts(report)
        for job in jobs:
            report(**job.about, failed="needs a GPU, and no --tiny" if job.about["version"] else "not installed")
        return
    if not arguments.serial:
        compile_jobs(jobs, report)
    ours: dict[tuple[str, str], float] = {}
    for job in jobs:
        if time.monotonic() - began > arguments.seconds:
            report(**job.about, failed="no time was left")
        else:
            measure_job(job, ours, report)
    report(seconds=round(time.monotonic() - began, 1))


if __name__ == "__main__":
    main()
