"""`imprint compare RUN`: the same prompts through the base and the tuned model, side by side on one page."""

from collections.abc import Sequence
from pathlib import Path

from imprint.config import read_overrides
from imprint.data.dataset import load_held_out
from imprint.errors import UserError
from imprint.evaluate import (
    Answers,
    EvaluateSection,
    answer_all,
    answers_folder,
    open_asked,
    read_data,
    resolve,
    write_scores,
)
from imprint.metrics import gains
from imprint.report import Compared, Comparison, write_html, write_markdown
from imprint.runs import RunFolder
from imprint.trained import read_run

SHOWN_ROWS = 100


def compare(path: Path, *, data: Path | None = None, limit: int | None = None, overrides: Sequence[str] = ()) -> Path:
    """Write compare.md and compare.html into a run folder; returns the page.

    Without `data` the run's held-out rows are asked. All rows are scored, the first hundred are shown.
    """
    folder, run = RunFolder(path), read_run(path)
    if run is None:
        raise UserError(f"{path}: is a model folder, and there is nothing to compare it with. Give a run folder.")
    section = resolve(read_overrides(overrides, EvaluateSection), run)
    if given := [name for name in ("base", "adapter", "output") if getattr(section, name)]:
        raise UserError(f"{given[0]}: is decided by the comparison itself: base and tuned model, into the run folder. Leave it out.")
    source = data or run.data.dev or run.data.train
    samples = load_held_out(run.data)[:limit] if data is None else read_data(section, data, limit)
    if not samples:
        raise UserError(f"{path}: this run holds out no rows. Name a file with --data.")
    name = "held-out" if data is None else data.stem
    said: list[Answers] = []
    for base in (True, False):
        chosen = section.model_copy(update={"base": base})
        output = answers_folder(path, run, chosen, name, limit)
        said.append(answer_all(open_asked(path, run, chosen), samples, chosen, output))
        write_scores(said[-1], chosen, run, source, output)
    before, after = said
    rows = [
        Compared(sample.query, reference, old, new, old_scores, new_scores)
        for sample, reference, old, new, old_scores, new_scores in zip(
            samples, before.references, before.predictions, after.predictions, before.scores, after.scores, strict=True
        )
    ]
    comparison = Comparison(
        title=path.name,
        base_name=str(run.model.path),
        tuned_name=path.name,
        rows=tuple(rows[:SHOWN_ROWS]),
        base_summary=before.summary,
        tuned_summary=after.summary,
        facts={"data": str(source), "decoding": decoding(section), "seed": str(section.seed)},
        gains=gains(before.scores, after.scores),
    )
    page = folder.comparison.with_suffix(".html")
    write_markdown(comparison, folder.comparison.with_suffix(".md"))
    write_html(comparison, page)
    for metric, old in comparison.base_summary.means.items():
        new = comparison.tuned_summary.means[metric]
        print(f"{metric:10}{old.value:7.2f} -> {new.value:6.2f}")  # noqa: T201
    print(f"{len(samples)} rows compared; open {page}")  # noqa: T201
    return page


def decoding(section: EvaluateSection) -> str:
    """How answers were chosen, in words."""
    if section.num_beams > 1:
        return f"{section.num_beams} beams"
    return "greedy" if section.temperature == 0 else f"sampled, temperature {section.temperature:g}, top_p {section.top_p:g}"
