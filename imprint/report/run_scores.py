"""The scores that `imprint evaluate` and `imprint compare` wrote into a run folder."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from imprint.files.typed_json import read_typed
from imprint.messages import Bilingual, UserError
from imprint.metrics.task_scores import METRIC_BY_NAME, ROW_METRICS
from imprint.runs import RunFolder

MAX_SCORE = 1e9
"""Scores are percentages and perplexities; a number above, or one that is not finite, is none."""
BASE_SUFFIX = "-base"
"""End of the name of an evaluation of the base."""
DEFAULT_METRIC = "rouge-l"


@dataclass(frozen=True)
class EvaluationScores:
    """One evaluation of a run."""

    name: str
    """Name of its folder: the rows, and `-base` or an adapter if those were evaluated."""
    metric: str
    """The metric that ranks answers of its task."""
    rows: int | None
    """How many rows were answered; None if the file does not say."""
    means: Mapping[str, float]
    """Metric -> value, in the order of the file; empty if there were no references."""


def read_scores(run: RunFolder) -> list[EvaluationScores]:
    """All evaluations in a run folder, by name; one that is being written or is damaged is left out."""
    found = []
    for file in sorted(run.evaluations.glob("*/scores.json")):
        try:
            values = read_typed(file, dict[str, Any], Bilingual("Evaluate again.", "请重新评估。"))
        except UserError:  # the evaluation itself says more
            continue
        known = {name: mean for name, mean in values.items() if name in METRIC_BY_NAME and isinstance(mean, dict)}
        means = {name: mean["value"] for name, mean in known.items() if _is_score(mean.get("value"))}
        task, rows = values.get("task"), values.get("rows")
        metric = ROW_METRICS.get(task, DEFAULT_METRIC) if isinstance(task, str) else DEFAULT_METRIC
        found.append(EvaluationScores(file.parent.name, metric, rows if type(rows) is int else None, means))
    return found


def _is_score(value: object) -> bool:
    return type(value) in (int, float) and -MAX_SCORE < value < MAX_SCORE  # type: ignore[operator]


def before_and_after(scores: list[EvaluationScores]) -> list[tuple[EvaluationScores | None, EvaluationScores]]:
    """(the base's scores of the same rows or None, the tuned model's) of each evaluation of the tuned model, most rows first."""
    by_name = {one.name: one for one in scores}
    tuned = [one for one in scores if one.means and not one.name.endswith(BASE_SUFFIX)]
    tuned.sort(key=lambda one: -(one.rows or 0))
    return [(by_name.get(one.name + BASE_SUFFIX), one) for one in tuned]
