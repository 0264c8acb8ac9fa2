"""How fast two trees do the demo's training and answer its 400 held-out rows: in turns, so that a busy hour slows both.

    python -m tests.paired BEFORE AFTER --rounds 3

Of each tree: the median of the wall clock and of the processor's own time, which a busy machine changes less, and the second tree's share
of the first. Starting Python and loading PyTorch is in it; the last line holds the seconds of the steps alone, as the run logs them.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from tests.snapshot import python_path

SHORT = ("train.report=false", "forgetting.measure=false", "model.device=cpu")
"""Nothing but training is timed."""


def main() -> None:
    """Print a line for each round and for each thing that was timed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("trees", nargs=2, type=Path, metavar="TREE")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    trees = [tree.resolve() for tree in options.trees]
    times: list[dict[str, list[float]]] = [{}, {}]
    for number in range(options.rounds):
        for place in (0, 1) if number % 2 == 0 else (1, 0):
            found = timed(trees[place], options.threads)
            say(f"round {number + 1}  {trees[place]}  " + "  ".join(f"{name} {seconds:.1f} s" for name, seconds in found.items()))
            for name, seconds in found.items():
                times[place].setdefault(name, []).append(seconds)
    say(f"{'':24}{'first':>10}{'second':>10}{'second / first':>16}")
    for name, values in times[0].items():
        before, after = median(values), median(times[1][name])
        say(f"{name:24}{before:10.2f}{after:10.2f}{after / before:16.3f}")


def timed(tree: Path, threads: int) -> dict[str, float]:
    """What was timed -> its seconds, in one tree."""
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        run(tree, folder, threads, "demo", "rows", "runs/demo-data")
        found["training, wall"], found["training, processor"] = run(tree, folder, threads, "train", str(tree / "recipes/demo.yaml"), *SHORT)
        answers = ("evaluate", "runs/demo", "--data", "runs/demo-data/dev.jsonl")
        found["answers, wall"], found["answers, processor"] = run(tree, folder, threads, *answers)
        log = (folder / "runs/demo/log.jsonl").read_text(encoding="utf-8").splitlines()
        found["steps alone, wall"] = max(json.loads(line).get("seconds", 0.0) for line in log)
    return found


def run(tree: Path, folder: Path, threads: int, *words: str) -> tuple[float, float]:
    """The wall clock and the processor's time of `imprint WORDS`."""
    surroundings = {**os.environ, "PYTHONPATH": python_path(tree), "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    began, before = time.monotonic(), os.times()
    subprocess.run([sys.executable, "-m", "imprint", *words], cwd=folder, env=surroundings, check=True, stdout=subprocess.DEVNULL)
    after = os.times()
    processor = after.children_user + after.children_system - before.children_user - before.children_system
    return time.monotonic() - began, processor


def say(line: str) -> None:
    print(line, flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
