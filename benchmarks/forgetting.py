"""How much of the embedded base each method forgets while it learns the twenty identity rows, with and without general rows.

    python benchmarks/forgetting.py [FOLDER] [PICTURE.png]

Ten runs of 100 steps on the CPU; a run whose result is in FOLDER/results.json is skipped. Each step has ten identity rows, with or
without general rows, so that each identity row is trained on fifty times. Prints the table of docs/identity.md and draws its picture.
"""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from imprint.config import read_recipe
from imprint.data.dataset import load_held_out
from imprint.data.section import DataSection
from imprint.demo.identity import write_identity
from imprint.evaluate.review import read_review
from imprint.files.atomic import write_json
from imprint.forgetting.fill_recall import recalls_fill
from imprint.forgetting.probes import read_probes
from imprint.forgetting.result import ProbeResult
from imprint.inference.decoder import PrefixedNetwork
from imprint.inference.generate import generate
from imprint.inference.request import Request
from imprint.loading.base import EMBEDDED, base_folder
from imprint.loading.load import load
from imprint.training.job import TrainJob
from imprint.training.recipe import Recipe
from imprint.training.run import train_recipe
from imprint.training.state import TrainProgress

RECIPE = Path(__file__).parents[1] / "recipes" / "identity-lora.yaml"
TEXT = "纸鸢镇"
"""The initial text of the prefix: a name that is frequent in the base's corpus. docs/identity.md compares other texts."""
METHODS = {
    "LoRA": ("{method: lora, rank: 16, targets: all}", 0.003),
    "P-Tuning, text start": (f"{{method: prefix, length: 8, start: text, text: {TEXT}}}", 0.1),
    "P-Tuning, zeros": ("{method: prefix, length: 8, start: zeros}", 0.1),
    "P-Tuning, random": ("{method: prefix, length: 8, start: random}", 0.1),
    "all parameters": ("{method: full}", 0.0003),
}
"""Name -> (tune section, peak learning rate)."""
OWN_ROWS = 10
"""Identity rows in a step."""
EVERY = 20
"""Steps between points of the curves."""
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#AA4499", "#2B2B2B")


def overrides(name: str, folder: Path, *, mixed: bool) -> list[str]:
    """The overrides of the shipped recipe for this run."""
    tune, rate = METHODS[name]
    data = [f"data.train={folder}/data/train.jsonl", f"data.dev={folder}/data/held-out.jsonl"]
    size = 4 * OWN_ROWS if mixed else OWN_ROWS
    batch = [
        "train.steps=100",
        f"train.batch_size={size}",
        f"train.micro_batch_size={size}",
        f"train.save_every={EVERY}",
        "train.watch_prompts=0",
    ]
    mix = ["data.mix_general.share=0.75"] if mixed else ["data.mix_general=null"]
    run = f"{name.replace(', ', '-').replace(' ', '-')}{'-mixed' if mixed else ''}"
    return [f"output={folder}/{run}", f"tune={tune}", f"optimizer.learning_rate={rate}", "model.device=cpu", *data, *batch, *mix]


def probe_callback(points: list[dict[str, float]], recipe: Recipe) -> Callable[[TrainJob, TrainProgress], None]:
    """A callback that asks the probes and the paraphrases whenever a state is saved."""
    probes = read_probes(recipe.forgetting.probes_path(base_folder(EMBEDDED)))
    base = load(EMBEDDED, device="cpu")
    before = [base.tokenizer.decode(answer) for answer in base.generate([base.prompt(probe.question) for probe in probes], 48)]
    assert isinstance(recipe.data, DataSection)
    rows = load_held_out(recipe.data)
    texts = tuple(recipe.data.fill.values())

    def answers(job: TrainJob, questions: Sequence[str]) -> list[str]:
        prompts = [job.model.prompt(question) for question in questions]
        model = PrefixedNetwork(job.model.network, job.tuner.eval().prefix())
        outputs = generate(model, [Request(prompt, 48) for prompt in prompts])
        return [job.model.tokenizer.decode(answer) for answer in outputs]

    def watch(job: TrainJob, state: TrainProgress) -> None:
        probe_answers = zip(probes, before, answers(job, [probe.question for probe in probes]), strict=True)
        fates = [ProbeResult.compare(probe.question, probe.accepted, was, now).fate for probe, was, now in probe_answers]
        row_answers = zip(rows, answers(job, [row.query for row in rows]), strict=True)
        new = sum(recalls_fill(row.answer, answer, texts) for row, answer in row_answers) / len(rows)
        counted = [fate for fate in fates if fate != "never"]
        points.append({"step": state.step, "new": new, "kept": sum(fate != "lost" for fate in counted) / len(counted)})

    return watch


def run_case(name: str, folder: Path, *, mixed: bool) -> dict[str, Any]:
    """One run: its curve, and the forgetting that `imprint train` measures."""
    recipe = read_recipe(RECIPE, overrides(name, folder, mixed=mixed), Recipe)
    assert isinstance(recipe.data, DataSection)
    points = [{"step": 0.0, "new": 0.0, "kept": 1.0}]
    run = train_recipe(recipe, on_save=probe_callback(points, recipe))
    forgetting, rows = read_review(run)
    assert forgetting is not None
    texts = tuple(recipe.data.fill.values())
    new = sum(recalls_fill(row.reference, row.tuned, texts) for row in rows)
    lines = [json.loads(line) for line in run.log.read_text(encoding="utf-8").splitlines()]
    seconds = max(line["seconds"] for line in lines if "seconds" in line)
    before = sum(recalls_fill(row.reference, row.base, texts) for row in rows)
    return {
        "method": name,
        "mixed": mixed,
        "before": before,
        "new": new,
        "rows": len(rows),
        "kept": forgetting.kept,
        "counted": forgetting.counted,
        "kl": forgetting.kl,
        "seconds": seconds,
        "points": points,
    }


def table(results: Sequence[dict[str, Any]]) -> str:
    """The table of the page."""
    lines = [
        "| method | general rows | paraphrases with the new identity | answers kept | KL, nats a token | training, s |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for one in results:
        kept, new = one["kept"] / one["counted"], one["new"] / one["rows"]
        mixed = "3 in 4" if one["mixed"] else "none"
        lines.append(f"| {one['method']} | {mixed} | {new:.1%} | {kept:.1%} | {one['kl']:.4f} | {one['seconds']:.0f} |")
    return "\n".join(lines)


def draw(results: Sequence[dict[str, Any]], picture: Path) -> None:
    """Both curves of every run: solid lines with general rows, dashed without."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.6), dpi=100, facecolor="white", layout="constrained")
    panels = figure.subplots(1, 2, sharex=True)
    for panel, key, title in zip(panels, ("new", "kept"), ("paraphrases with the new identity", "answers of the base kept"), strict=True):
        for one in results:
            colour = COLOURS[list(METHODS).index(one["method"])]
            steps, values = [point["step"] for point in one["points"]], [100 * point[key] for point in one["points"]]
            label = one["method"] if one["mixed"] else None
            panel.plot(
                steps, values, color=colour, linestyle="-" if one["mixed"] else "--", linewidth=1.8, marker="o", markersize=3, label=label
            )
        panel.axhline(90, color="#999999", linewidth=0.8, linestyle=":")
        panel.set_title(f"{title}, %", loc="left", fontsize=11)
        panel.set_xlabel("step")
        panel.set_ylim(-3, 103)
        panel.spines[["top", "right"]].set_visible(False)
    lines, names = panels[0].get_legend_handles_labels()
    title = "solid lines: 3 in 4 rows are general; dashed: none"
    figure.legend(lines, names, loc="outside lower center", ncols=len(names), frameon=False, fontsize=9, title=title, title_fontsize=9)
    figure.savefig(picture)


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path("runs/forgetting")
    picture = Path(sys.argv[2]) if len(sys.argv) > 2 else folder / "forgetting.png"
    write_identity(folder / "data")
    results_file = folder / "results.json"
    results: list[dict[str, Any]] = json.loads(results_file.read_text(encoding="utf-8")) if results_file.exists() else []
    for name in METHODS:
        for mixed in (True, False):
            if not any((one["method"], one["mixed"]) == (name, mixed) for one in results):
                results.append(run_case(name, folder, mixed=mixed))
                write_json(results_file, results)
    print(table(results))
    draw(results, picture)


if __name__ == "__main__":
    main()
