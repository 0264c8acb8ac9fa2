"""ADGEN on a real base, one command a phase: settings by evaluation loss, the best of each method on the dev rows, and what was forgotten.

    python benchmarks/adgen_real.py sweep BASE --train train.jsonl --out OUT
    python benchmarks/adgen_real.py final BASE --train train.jsonl --dev dev.jsonl --out OUT --best prefix=random:0.02 lora=0.001 full=5e-05
    python benchmarks/adgen_real.py mixed BASE --train train.jsonl --general general.jsonl --out OUT --best ...

The runs of a phase share one GPU, each a process of its own. Settings are chosen by the evaluation loss of 400 rows of train.jsonl that no
run learns from; only the chosen runs answer the dev rows, greedily and sampled as the original does (top_p 0.7, temperature 0.95).
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from imprint.files.atomic import read_jsonl

KNOBS = (
    "data.dev_share=0.0432",  # 400 of 9,265 rows
    "data.prompt_column=content",
    "data.response_column=summary",
    "data.max_source_length=96",
    "data.max_target_length=144",
    "optimizer.warmup_steps=20",
    "train.batch_size=32",
    "train.micro_batch_size=32",
    "train.watch_prompts=0",
    "train.keep_states=1",
    "train.save_every=100000",
)
SWEEP = {
    "prefix": ("random:0.01", "random:0.02", "random:0.05", "text:0.005", "text:0.02"),
    "lora": ("0.0005", "0.001", "0.002"),
    "full": ("2e-05", "5e-05", "0.0001", "0.0002"),
}
DECODINGS = {"greedy": (), "sampled": ("temperature=0.95", "top_p=0.7", "seed=1")}


def settings(method: str, value: str) -> list[str]:
    """The knobs of a method with a learning rate; a prefix also names its start."""
    start, _, rate = value.rpartition(":")
    tune = {"prefix": f"{{method: prefix, length: 128, start: {start or 'random'}}}", "lora": "{method: lora, rank: 32, targets: all}"}
    return [f"tune={tune.get(method, '{method: full}')}", f"optimizer.learning_rate={rate}"]


def run_all(commands: Mapping[str, Sequence[str]], out: Path) -> dict[str, float]:
    """Run commands of imprint at the same time, each with a log file; returns the seconds of each."""
    out.mkdir(parents=True, exist_ok=True)
    began, seconds = time.perf_counter(), dict[str, float]()
    running = {
        name: subprocess.Popen(
            [sys.executable, "-m", "imprint", *command], stdout=(out / f"{name}.log").open("w"), stderr=subprocess.STDOUT
        )
        for name, command in commands.items()
    }
    while running:
        time.sleep(0.5)
        for name, process in [*running.items()]:
            if process.poll() is not None:
                seconds[name] = round(time.perf_counter() - began, 1)
                print(f"{name}: exit {process.returncode} after {seconds[name]} s", flush=True)
                del running[name]
    return seconds


def write_recipe(base: Path, train: Path, out: Path) -> Path:
    """The recipe that every run changes."""
    recipe = out / "recipe.yaml"
    out.mkdir(parents=True, exist_ok=True)
    recipe.write_text(f"output: {out}/run\nmodel: {{path: {base}, dtype: bfloat16}}\ndata: {{train: {train}}}\n", encoding="utf-8")
    return recipe


def eval_losses(run: Path) -> list[tuple[int, float]]:
    """(step, evaluation loss) of a run."""
    return [(line["step"], line["eval_loss"]) for line in read_jsonl(run / "log.jsonl") if line["event"] == "evaluation"]


def report(out: Path, seconds: Mapping[str, float]) -> None:
    """Print losses, scores and forgetting of every run below `out` as JSON lines."""
    for run in sorted(path.parent for path in out.glob("*/config.yaml")):
        line: dict[str, object] = {"run": run.name, "seconds": seconds.get(run.name), "eval_loss": eval_losses(run)}
        if (run / "forgetting.json").is_file():
            line["forgetting"] = {key: value for key, value in json.loads((run / "forgetting.json").read_text()).items() if key != "rows"}
        print(json.dumps(line, ensure_ascii=False), flush=True)
    for file in sorted(out.glob("answers/*/scores.json")):
        scores = json.loads(file.read_text(encoding="utf-8"))
        print(
            json.dumps({"answers": file.parent.name, **{name: value for name, value in scores.items() if name != "settings"}}), flush=True
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("phase", choices=["sweep", "final", "mixed"])
    parser.add_argument("base", type=Path)
    for name in ("train", "dev", "general", "out"):
        parser.add_argument(f"--{name}", type=Path)
    parser.add_argument("--epochs", default="1")
    parser.add_argument("--best", nargs="*", default=[], metavar="METHOD=SETTING")
    options = parser.parse_args()
    recipe, out = write_recipe(options.base, options.train, options.out), options.out
    chosen = [(method, value) for method, values in SWEEP.items() for value in values] if options.phase == "sweep" else []
    chosen += [(method, value) for word in options.best for method, _, value in [word.partition("=")]]
    extra = [f"train.epochs={options.epochs}", "train.report=false", "forgetting.measure=false"]
    if options.phase == "mixed":
        extra += [f"data.mix_general={{rows: {options.general}, share: 0.2}}"]
    names = {f"{method}-{value.replace(':', '-')}": (method, value) for method, value in chosen}
    trainings = {
        name: ["train", str(recipe), f"output={out / name}", *KNOBS, *settings(method, value), *extra]
        for name, (method, value) in names.items()
    }
    seconds = run_all(trainings, out)
    if options.phase == "final":
        scoring = ["--data", str(options.dev), "batch_size=256", "max_new_tokens=144"]
        models = {"base": options.base, **{name: out / name for name in names}}
        answers = {
            f"{name}-{kind}": ["evaluate", str(model), *scoring, *decoding, f"output={out / 'answers' / f'{name}-{kind}'}"]
            for name, model in models.items()
            for kind, decoding in DECODINGS.items()
        }
        seconds |= run_all(answers, out)
    if options.phase != "sweep":
        seconds |= run_all({f"{name}-forgetting": ["forgetting", str(out / name)] for name in names}, out)
    report(out, seconds)


if __name__ == "__main__":
    main()
