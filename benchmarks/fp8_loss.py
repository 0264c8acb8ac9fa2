"""Whether training on an FP8 base learns the same: the losses of runs of the same rows and seeds on a trained base, bf16 and FP8.

    python benchmarks/fp8_loss.py BASE --train train.jsonl [--steps 300] [--variant fp8] [--method lora] [--out FILE]

Rows are ADGEN's, or have other columns (--columns question answer). Prints one JSON line per run: the mean loss of all steps and of the
last third, the loss of held-out rows before and after, and how far these are from bf16. `fp8-two-plain-ends` keeps two blocks at each
end in 16 bits, `fp8-e5m2` rounds gradients to that type, `fp8-exact-sums` adds products up in fp32, `fp8-weights` rounds weights alone and
dequantizes them. Without a GPU plain PyTorch computes what a GPU would, in float32: `--steps 60 --rows 2 --length 16 --tokens 48 64` are a
few minutes with a base of 135 million parameters.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from unittest.mock import patch

import torch
from results import reporter

from imprint.cli import main as imprint
from imprint.events import Evaluation, Step, read_events
from imprint.kernels import scaled
from imprint.kernels.quantize_rows import FP8
from imprint.quant import formats, scaled_matmul
from imprint.quant.fp8 import Fp8
from imprint.runs import RunFolder

VARIANTS = ("bf16", "fp8", "fp8-two-plain-ends", "fp8-e5m2", "fp8-exact-sums", "fp8-weights")
METHODS = {"prefix": "{{method: prefix, length: {length}, start: random, prefix_dropout: 0}}", "lora": "{{method: lora, rank: 8}}"}
RATES = {"prefix": 0.02, "lora": 0.0005}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base")
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--columns", nargs=2, default=("content", "summary"), help="prompts and answers")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--rows", type=int, default=16, help="of a step")
    parser.add_argument("--length", type=int, default=128, help="of the prefix")
    parser.add_argument("--tokens", type=int, nargs=2, default=(96, 144), help="most of a prompt and of an answer")
    parser.add_argument("--method", choices=METHODS, default="prefix")
    parser.add_argument("--rate", type=float, help="the learning rate")
    parser.add_argument("--seed", type=int, action="append", help="may be repeated; 0 if not given")
    parser.add_argument("--variant", choices=VARIANTS, action="append", help="only these beside bf16; may be repeated")
    parser.add_argument("--out", type=Path, help="append the lines to this file too")
    options = parser.parse_args()
    if not torch.cuda.is_available():  # plain PyTorch instead of tensor cores
        patch.object(scaled_matmul, "_usable", lambda device: device.type == "cpu").start()
        patch.object(scaled_matmul, "DTYPES", {torch.float32}).start()
    report = reporter(options.out, base=Path(options.base).name, method=options.method)
    for seed in options.seed or [0]:
        exact: dict[str, float] = {}
        for variant in ["bf16", *(options.variant or VARIANTS[1:])]:
            began = time.perf_counter()
            losses = run(variant, seed, options)
            exact = exact or losses
            report(
                variant=variant,
                seed=seed,
                **{name: round(loss, 4) for name, loss in losses.items()},
                percent_off={name: round(100 * (loss / exact[name] - 1), 3) for name, loss in losses.items()},
                seconds=round(time.perf_counter() - began, 1),
            )


def run(variant: str, seed: int, options: argparse.Namespace) -> dict[str, float]:
    """The losses of a run."""
    kind = torch.float8_e5m2 if variant == "fp8-e5m2" else FP8
    prompts, answers = options.columns
    with tempfile.TemporaryDirectory() as folder:
        recipe = Path(folder) / "recipe.yaml"
        recipe.write_text(
            f"output: {folder}/run\nmodel: {{path: '{options.base}'}}\ntune: {METHODS[options.method].format(length=options.length)}\n"
            f"data: {{train: '{options.train.resolve()}', prompt_column: {prompts}, response_column: {answers}, dev_share: 0.02,"
            f" max_source_length: {options.tokens[0]}, max_target_length: {options.tokens[1]}}}\n"
            f"optimizer: {{learning_rate: {options.rate or RATES[options.method]}, warmup_steps: {options.steps // 20}}}\n"
            f"train: {{steps: {options.steps}, batch_size: {options.rows}, micro_batch_size: {options.rows}, seed: {seed},"
            f" watch_prompts: 0, evaluate_every: {options.steps}, save_every: {options.steps}, checkpointing: false}}\n"
            "forgetting: {measure: false}\n",
            encoding="utf-8",
        )
        knobs = [] if variant == "bf16" else ["model.quantize=fp8", *(["model.kernels=plain"] if variant == "fp8-weights" else [])]
        ends = tuple(Fp8(plain_ends=2) if one.name == "fp8" and "two" in variant else one for one in formats.FORMATS)
        sums = patch.object(scaled, "FAST_SUMS", variant != "fp8-exact-sums")
        with patch.object(scaled, "GRADIENTS", kind), sums, patch.object(formats, "FORMATS", ends):
            if code := imprint(["train", str(recipe), *knobs]):
                raise SystemExit(code)
        events = read_events(RunFolder(Path(folder) / "run"))
    return summary([event.loss for event in events if isinstance(event, Step) and event.loss is not None], evaluations(events))


def evaluations(events: Sequence[object]) -> list[float]:
    """The losses of the held-out rows, in order."""
    return [event.eval_loss for event in events if isinstance(event, Evaluation) and event.eval_loss is not None]


def summary(losses: Sequence[float], held_out: Sequence[float]) -> dict[str, float]:
    """What is compared."""
    return {
        "mean": statistics.fmean(losses),
        "last_third": statistics.fmean(losses[-(len(losses) // 3) :]),
        "held_out_before": held_out[0],
        "held_out_after": held_out[-1],
    }


if __name__ == "__main__":
    main()
