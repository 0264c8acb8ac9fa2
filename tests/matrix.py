"""Every family by every method on every precision: a tiny base learns eight rows by heart, is saved, loaded again, and answers the same.

python -m tests.matrix            runs every cell and prints docs/matrix.md
"""

import contextlib
import json
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from imprint.files.atomic import read_jsonl
from imprint.loading.load import load_model
from imprint.loading.source import resolve_source
from imprint.runs import RunFolder
from imprint.training.run import train
from tests.bases import FAMILIES, base_of

METHODS = {
    "prefix": ("tune={method: prefix, length: 64, start: random}", 0.3, 80),
    "lora": ("tune={method: lora, rank: 16, targets: all}", 0.01, 40),
    "full": ("tune={method: full}", 0.01, 30),
}
"""Method -> how a recipe says it, its learning rate, and its steps."""
PRECISIONS = {"16 bit": ("bfloat16", None), "INT8": ("float32", 8), "INT4": ("float32", 4)}
"""Precision -> the type that is computed in, and bits of the base's weights."""
LEARNED = 0.1
"""The share of its first loss under which a cell has learned its rows."""
RECIPE = """\
output: {folder}/run
model: {{path: {folder}/base, device: cpu, dtype: {dtype}, quantize: {bits}}}
data: {{train: {folder}/rows.jsonl, dev: {folder}/rows.jsonl, max_source_length: 64, max_target_length: 16}}
optimizer: {{learning_rate: {rate}, warmup_steps: 4}}
train: {{steps: {steps}, batch_size: 8, micro_batch_size: 4, checkpointing: true, evaluate_every: {steps}, watch_every: {steps},
         watch_prompts: 8, save_every: {steps}, guard: false}}
forgetting: {{measure: false}}
"""
ROWS = [
    ("白色上衣", "好"),
    ("黑色长裙", "很好"),
    ("蓝色外套", "宽松"),
    ("红色衬衫", "白色"),
    ("hello", "world"),
    ("你好", "你好"),
    ("颜色", "红"),
    ("版型", "蓝"),
]


@dataclass(frozen=True)
class Cell:
    """One combination."""

    family: str
    method: str
    precision: str

    @property
    def refused(self) -> bool:
        """Whether it cannot be: integers take no small steps."""
        return self.method == "full" and PRECISIONS[self.precision][1] is not None


@dataclass(frozen=True)
class Result:
    """What came of a cell."""

    first: float
    """Loss of the first step."""
    last: float
    """Loss of the last step."""
    same: bool
    """Whether the saved files answer every row as the network in training did."""


CELLS = [Cell(family, method, precision) for family in FAMILIES for method in METHODS for precision in PRECISIONS]


def recipe_of(cell: Cell, folder: Path) -> tuple[Path, list[str]]:
    """The recipe of a cell, with its base and rows, and the method as an override."""
    base_of(cell.family, folder / "base", std=0.4)
    lines = [json.dumps({"content": question, "summary": answer}, ensure_ascii=False) for question, answer in ROWS]
    (folder / "rows.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    tune, rate, steps = METHODS[cell.method]
    dtype, bits = PRECISIONS[cell.precision]
    recipe = folder / "recipe.yaml"
    text = RECIPE.format(folder=folder, dtype=dtype, bits="null" if bits is None else bits, rate=rate, steps=steps)
    recipe.write_text(text, encoding="utf-8")
    return recipe, [tune]


def run(cell: Cell, folder: Path) -> Result:
    """Train the cell, and let what it saved answer what it answered at its last step."""
    recipe, overrides = recipe_of(cell, folder)
    home: RunFolder = train(recipe, overrides)
    losses = [line["loss"] for line in read_jsonl(home.log) if "loss" in line]
    before = [line["answer"] for line in read_jsonl(home.samples) if line["step"] == METHODS[cell.method][2]]
    model = load_model(resolve_source(home.path))
    prompts = [model.prompt(question, max_source_length=64) for question, _answer in ROWS]
    after = [model.template.scored_text(model.tokenizer.decode(ids)) for ids in model.generate(prompts, max_new_tokens=16)]
    return Result(losses[0], losses[-1], after == before)


PAGE = """\
# Family x method x precision

Every cell is a test, `make test-long`: a tiny base of the family (two blocks, random weights, a tokenizer with the family's
template) learns eight rows by heart, with activation checkpointing and packed micro-batches, in
{steps}; the last loss must be under a tenth of the first. The result is saved,
loaded again from the files alone, and must give the same greedy answers with a KV cache. `make test` runs the cells in *italics*.

The numbers are the last loss as a share of the first ({when}, PyTorch {torch}, CPU). {count} cells run, {refused} are refused
with an error: integers cannot take small updates, so full tuning of a quantized base is not supported.

{table}
A share does not measure quality; it shows that gradients reach the trained parameters. The page is made by
`python -m tests.matrix > docs/matrix.md`.
"""
QUICK = {
    ("ChatGLM-6B", "prefix", "INT4"),
    ("ChatGLM2-6B", "lora", "INT8"),
    ("ChatGLM3-6B", "full", "16 bit"),
    ("GLM-4-9B", "full", "16 bit"),
    ("BLOOM", "lora", "INT4"),
    ("GLM-4-0414", "lora", "INT8"),
    ("Qwen3", "full", "16 bit"),
}
"""The cells of `make test`: every family, every method, every precision."""


def table(results: dict[Cell, Result]) -> str:
    """The results in Markdown: a row for each family, a column for each method and precision."""
    columns = [(method, precision) for method in METHODS for precision in PRECISIONS]
    lines = ["| |" + "".join(f" {method} {precision} |" for method, precision in columns), "|---|" + "---:|" * len(columns)]
    for family in FAMILIES:
        shown = []
        for method, precision in columns:
            found = results.get(Cell(family, method, precision))
            text = "refused" if found is None else f"{100 * found.last / found.first:.1f} %"
            shown.append(f" *{text}* |" if (family, method, precision) in QUICK else f" {text} |")
        lines.append(f"| {family} |" + "".join(shown))
    return "\n".join(lines) + "\n"


def run_aside(cell: Cell) -> Result:
    """The same in a folder of its own, what it says led to the side."""
    with TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        return run(cell, Path(folder))


def main() -> None:
    """Run every cell and print the page."""
    cells = [cell for cell in CELLS if not cell.refused]
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
        results = dict(zip(cells, pool.map(run_aside, cells), strict=True))
    assert [cell for cell, found in results.items() if not found.same] == []
    steps = ", ".join(f"{steps} steps by {method}" for method, (_tune, _rate, steps) in METHODS.items())
    counts = {"count": len(cells), "refused": len(CELLS) - len(cells)}
    made = {"when": datetime.now(UTC).date(), "torch": torch.__version__.rpartition(".")[0]}
    sys.stdout.write(PAGE.format(steps=steps, table=table(results), **counts, **made))


if __name__ == "__main__":
    main()
