"""The fast paths of training in several processes: the losses and the time of a step, beside those of one process.

    python benchmarks/processes.py FOLDER --vocabulary CHATGLM --train train.jsonl [--gpus 2] [--layers 8] [--case NAME] [--out FILE]

Writes a base of ChatGLM-6B's width and random fp16 weights into FOLDER, beside the configuration and the vocabulary of CHATGLM (a folder
of the original, without weights). Then `imprint train` tunes it for 200 steps of 16 rows, with one process and with one for each GPU.
Prints one JSON line per run, with its notices and the largest difference of its losses from those of one process. Without a GPU the toy
base is tuned for 20 steps by two processes on the CPU, to check that the script runs.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from commands import write_base
from results import reporter

STEPS, ROWS = (200 if torch.cuda.is_available() else 20), 16
"""Steps of a run and rows of a step; the time of its second half counts, behind the first steps, which record graphs."""
PREFIX, LORA, FULL = "tune={method: prefix, length: 128}", "tune={method: lora, rank: 8}", "tune={method: full}"
CASES = {
    "prefix": (PREFIX, ""),
    "prefix, DDP": (PREFIX, "engine.deepspeed=null"),
    "prefix, ZeRO-2": (PREFIX, "engine.deepspeed=zero2"),
    "lora": (LORA, ""),
    "lora, DDP": (LORA, "engine.deepspeed=null"),
    "full": (FULL, ""),
    "full, DDP": (FULL, "engine.deepspeed=null"),
    "full, FSDP": (FULL, "engine.fsdp=true"),
    "full, ZeRO-2": (FULL, "engine.deepspeed=zero2"),
    "full, ZeRO-3": (FULL, "engine.deepspeed=zero3"),
}
"""What is tuned, and how several processes share it; one process where nothing is said."""
RECIPE = f"""\
data: {{prompt_column: content, response_column: summary, max_source_length: 64, max_target_length: 64, dev_share: 0}}
optimizer: {{learning_rate: 0.00005, schedule: constant, warmup_steps: 0}}
train: {{steps: {STEPS}, batch_size: {ROWS}, micro_batch_size: 8, save_every: {STEPS}, watch_prompts: 0, report: false}}
forgetting: {{measure: false}}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the base and the runs are written")
    parser.add_argument("--vocabulary", type=Path, help="a folder with the original's config.json and vocabulary")
    parser.add_argument("--train", type=Path, required=True, help="rows with content and summary")
    parser.add_argument("--gpus", type=int, default=2)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--case", choices=CASES, action="append", help="only these; may be repeated")
    parser.add_argument("--out", type=Path, help="append the lines to this file too")
    options = parser.parse_args()
    gpu = torch.cuda.is_available()
    options.folder.mkdir(parents=True, exist_ok=True)
    base = str(write_base(options.folder / f"base-{options.layers}", options.vocabulary, num_layers=options.layers)) if gpu else "embedded"
    recipe = options.folder / "recipe.yaml"
    recipe.write_text(RECIPE, encoding="utf-8")
    report = reporter(options.out)
    alone: dict[str, list[float]] = {}
    for name in options.case or CASES:
        method, strategy = CASES[name]
        knobs = [
            f"model={{path: {base}{', dtype: bfloat16' if gpu else ', device: cpu'}}}",
            f"data.train={options.train}#{STEPS * ROWS}",
            method,
        ]
        knobs += [f"engine.processes={options.gpus if strategy else 1}", *([strategy] if strategy else [])]
        line = run(recipe, options.folder / name.replace(", ", "-").lower(), knobs)
        losses = line["losses"]
        if not strategy and losses:
            alone[method] = losses
        if losses and method in alone:
            line["from_one_process"] = round(max(abs(one - other) for one, other in zip(alone[method], losses, strict=True)), 6)
        report(case=name, **line)


def run(recipe: Path, output: Path, knobs: list[str]) -> dict[str, Any]:
    """What a run's log says; of a run that failed, its last words."""
    shutil.rmtree(output, ignore_errors=True)
    command = [sys.executable, "-m", "imprint", "train", str(recipe), f"output={output}", *knobs]
    process = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    if process.returncode:
        return {"losses": [], "failed": (process.stdout + process.stderr)[-1500:]}
    lines = [json.loads(line) for line in (output / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    steps = [line for line in lines if line["event"] == "step"]
    times = [after["seconds"] - before["seconds"] for before, after in pairwise(steps)]
    return {
        "losses": [step["loss"] for step in steps],
        "step_ms": round(1000 * statistics.median(times[STEPS // 2 :]), 1),
        "first_step_seconds": steps[0]["seconds"],
        "memory_gib": steps[-1]["memory_gib"],
        "notices": [line["english"] for line in lines if line["event"] == "notice"],
    }


if __name__ == "__main__":
    main()
