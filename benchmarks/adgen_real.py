"""ADGEN on a real base, one command a phase: settings by evaluation loss, the best of each method on the dev rows, and what was forgotten.

    python benchmarks/adgen_real.py search BASE --train train.jsonl --dev dev.jsonl --general general.jsonl --out OUT
    python benchmarks/adgen_real.py remix BASE --train train.jsonl --dev dev.jsonl [--general general.jsonl] --out OUT --best NAME ...
    python benchmarks/adgen_real.py sweep BASE --train train.jsonl --out OUT
    python benchmarks/adgen_real.py final BASE --train train.jsonl --dev dev.jsonl --out OUT --best prefix=random:0.02 lora=0.001 full=5e-05
    python benchmarks/adgen_real.py mixed BASE --train train.jsonl --general general.jsonl --out OUT --best ...

The runs of a phase share one GPU, each a process of its own. Settings are chosen by rows of train.jsonl that no run learns from: in
`sweep` by the evaluation loss of 400 of them, in `search` by the BLEU-4 of greedy answers to 402. Only the chosen runs answer the dev rows,
greedily and sampled as the original does (top_p 0.7, temperature 0.95). `remix` is the last part of `search` alone: chosen settings with a
fifth general rows, or without `--general` as they are.
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
SEARCH = {
    "prefix-0.1": "{method: prefix, length: 128, start: random} 0.1 5",
    "prefix-0.2": "{method: prefix, length: 128, start: random} 0.2 4",
    "lora-32": "{method: lora, rank: 32, targets: all} 0.001 4",
    "lora-64-dropout": "{method: lora, rank: 64, targets: all, dropout: 0.1} 0.001 4",
    "lora-128-slow": "{method: lora, rank: 128, targets: all, dropout: 0.05} 0.0005 4",
    "lora-64-fast": "{method: lora, rank: 64, targets: all, dropout: 0.1} 0.002 3",
    "full-5e-5": "{method: full} 0.00005 4",
    "full-1e-4": "{method: full} 0.0001 4",
    "full-2e-4": "{method: full} 0.0002 4",
}
"""Name -> tune, learning rate, epochs. Of each run the weights with the lowest loss on 2 % of its rows are kept, as always."""
HELD_EVERY = 23
"""Every 23rd training row is held out by `search`."""
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


def draw(out: Path, picture: Path) -> None:
    """The evaluation loss of every run of `search` over its epochs; dashed with general rows."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.6), dpi=100, facecolor="white", layout="constrained")
    panel = figure.subplots()
    for name, setting in SEARCH.items():
        epochs = float(setting.rsplit(" ", 1)[1])
        for run in (out / name, out / f"{name}-mixed"):
            if points := eval_losses(run) if (run / "log.jsonl").is_file() else []:
                steps, losses = zip(*points[1:], strict=True)  # the loss before tuning would flatten the rest
                line = panel.plot(
                    [step / steps[-1] * epochs for step in steps], losses, "--" if run.name.endswith("mixed") else "-", label=run.name
                )
                panel.plot(steps[losses.index(min(losses))] / steps[-1] * epochs, min(losses), "o", color=line[0].get_color())
    panel.set_title("evaluation loss over epochs; the dot is what is kept", loc="left", fontsize=11)
    panel.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right upper", frameon=False, fontsize=9)
    figure.savefig(picture)


def hold_rows_out(train: Path, out: Path) -> tuple[Path, Path]:
    """Write train.jsonl in two parts: rows to learn, rows held out."""
    lines = train.read_text(encoding="utf-8").splitlines(keepends=True)
    out.mkdir(parents=True, exist_ok=True)
    learned, held = out / "learned.jsonl", out / "held.jsonl"
    learned.write_text("".join(line for index, line in enumerate(lines) if index % HELD_EVERY), encoding="utf-8")
    held.write_text("".join(lines[::HELD_EVERY]), encoding="utf-8")
    return learned, held


def answer_commands(models: Mapping[str, Path], rows: Path, decodings: Mapping[str, Sequence[str]], out: Path) -> dict[str, list[str]]:
    """Commands that answer rows with each model and decoding."""
    scoring = ["--data", str(rows), "batch_size=256", "max_new_tokens=144"]
    return {
        f"{name}-{kind}": ["evaluate", str(model), *scoring, *decoding, f"output={out / 'answers' / f'{name}-{kind}'}"]
        for name, model in models.items()
        for kind, decoding in decodings.items()
    }


def training(name: str, label: str, options: argparse.Namespace, *more: str) -> list[str]:
    """The command that trains a setting of SEARCH on the rows that are not held out."""
    knobs = [knob for knob in KNOBS if not knob.startswith("data.dev_share")] + ["train.report=false", "forgetting.measure=false"]
    tune, rate, epochs = SEARCH[name].rsplit(" ", 2)
    return ["train", str(options.out / "recipe.yaml"), f"output={options.out / label}", *knobs, f"tune={tune}",
            f"optimizer.learning_rate={rate}", f"train.epochs={epochs}", *more]  # fmt: skip


def search_settings(options: argparse.Namespace) -> dict[str, float]:
    """Train all of SEARCH, choose one of each method by its answers to the held-out rows; returns the seconds of each command."""
    out = options.out
    learned, held = hold_rows_out(options.train, out)
    write_recipe(options.base, learned, out)
    seconds = run_all({name: training(name, name, options) for name in SEARCH}, out)
    seconds |= run_all(answer_commands({name: out / name for name in SEARCH}, held, {"held": ()}, out), out)
    bleu = {name: json.loads((out / f"answers/{name}-held/scores.json").read_text(encoding="utf-8"))["bleu-4"]["value"] for name in SEARCH}
    print(json.dumps({"bleu-4 of held-out rows": bleu}), flush=True)
    best = {method: max((name for name in SEARCH if name.startswith(method)), key=bleu.__getitem__) for method in SWEEP}
    chosen = {name: out / name for name in best.values()}
    forgetting = {f"{name}-forgetting": ["forgetting", str(path)] for name, path in chosen.items()}
    seconds |= run_all(answer_commands(chosen, options.dev, DECODINGS, out) | forgetting, out)
    report(out, seconds)
    return seconds | train_mixed(options, list(chosen))


def remix(options: argparse.Namespace) -> dict[str, float]:
    """`train_mixed` for the settings of `--best`, without the search before it."""
    learned, _ = hold_rows_out(options.train, options.out)
    write_recipe(options.base, learned, options.out)
    return train_mixed(options, options.best)


def train_mixed(options: argparse.Namespace, names: Sequence[str]) -> dict[str, float]:
    """Train settings with a fifth general rows, where there are some, answer the dev rows and measure what was forgotten."""
    out = options.out
    general = [f"data.mix_general={{rows: {options.general}, share: 0.2}}"] if options.general else []
    labels = {name: f"{name}-mixed" if general else name for name in names}
    mixed = {label: training(name, label, options, *general) for name, label in labels.items()}
    seconds = run_all(mixed, out)
    models = {name: out / name for name in mixed}
    forgetting = {f"{name}-forgetting": ["forgetting", str(path)] for name, path in models.items()}
    return seconds | run_all(answer_commands(models, options.dev, {"greedy": ()}, out) | forgetting, out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("phase", choices=["search", "remix", "sweep", "final", "mixed"])
    parser.add_argument("base", type=Path)
    for name in ("train", "dev", "general", "out"):
        parser.add_argument(f"--{name}", type=Path)
    parser.add_argument("--epochs", default="1")
    parser.add_argument("--best", nargs="*", default=[], metavar="METHOD=SETTING")
    options = parser.parse_args()
    if options.phase == "search":
        report(options.out, search_settings(options))
        return draw(options.out, options.out / "curves.png")
    if options.phase == "remix":
        report(options.out, remix(options))
        return draw(options.out, options.out / "curves.png")
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
        models = {"base": options.base, **{name: out / name for name in names}}
        answers = answer_commands(models, options.dev, DECODINGS, out)
        seconds |= run_all(answers, out)
    if options.phase != "sweep":
        seconds |= run_all({f"{name}-forgetting": ["forgetting", str(out / name)] for name in names}, out)
    return report(out, seconds)


if __name__ == "__main__":
    main()
