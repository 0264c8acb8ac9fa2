"""Predictions scored as their task wants it: one call, whatever the task, and one value that tables and pages are made from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Final

import numpy as np

from imprint.errors import UserError
from imprint.metrics.classification import Classified, classified
from imprint.metrics.means import METRICS, Mean, Note, Summary, gains, refuse_nothing, summary
from imprint.metrics.protocols import protocol_named
from imprint.metrics.rates import folded
from imprint.metrics.scores import RowScore, refuse_unpaired, score_rows
from imprint.metrics.tally import Tally, mean_tally, tallied, tally_gain
from imprint.metrics.translation import translated
from imprint.task import ClassificationTask, CodeCommentsTask, Task, TextTask, TranslationTask


@dataclass(frozen=True)
class Metric:
    """One figure of a table of scores."""

    name: str
    """What it is called in tables and files."""
    english: str
    """What it counts."""
    chinese: str
    """The same in Chinese."""
    falls: bool = False
    """Whether lower is better."""


_LISTED: Final = (
    Metric("rouge-1", "F score of shared words", "共有词的 F 值"),
    Metric("rouge-2", "F score of shared pairs of words", "共有词对的 F 值"),
    Metric("rouge-l", "F score of the longest common subsequence of words", "最长公共子序列的 F 值"),
    Metric("bleu-4", "runs of one to four shared tokens, row by row", "逐行计算的一到四元共有片段"),
    Metric(
        "bleu",
        "corpus BLEU by sacreBLEU: runs of one to four shared tokens, added up over the file",
        "sacreBLEU 的语料级 BLEU：一到四元共有片段，先对全文件累加",
    ),
    Metric(
        "chrf", "chrF2 by sacreBLEU: F score of shared runs of one to six characters", "sacreBLEU 的 chrF2：一到六个字符的共有片段的 F 值"
    ),
    Metric("accuracy", "share of right labels", "标签正确的比例"),
    Metric(
        "macro-f1", "mean of the labels' F1, a rare label counting as much as a frequent one", "各标签 F1 的平均，少见与常见的标签同等重要"
    ),
    Metric(
        "perplexity",
        "among how many equally probable tokens the model hesitates at each token of the reference; lower is better",
        "对参考答案的每个词元，模型相当于在多少个等可能的词元间犹豫；越低越好",
        falls=True,
    ),
    Metric(
        "exact",
        "share of answers that are the reference, blanks and the width of punctuation aside",
        "与参考答案相同的比例（不计空白与标点的全半角）",
    ),
)
METRIC: Final[Mapping[str, Metric]] = MappingProxyType({metric.name: metric for metric in _LISTED})
"""Name -> what it counts."""

COUNTED: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "text": METRICS,
        "summary": ("rouge-1", "rouge-2", "rouge-l"),
        "translation": ("bleu", "chrf"),
        "classification": ("accuracy", "macro-f1"),
        "continuation": ("perplexity", "rouge-l"),
        "code_comments": ("bleu-4", "rouge-l", "exact"),
    }
)
"""Kind of a task -> its metrics, in the order of tables."""
KEYS: Final[Mapping[str, str]] = MappingProxyType({"translation": "chrf", "classification": "accuracy"})
"""Kind of a task -> the metric by which one answer is nearer than another; ROUGE-L for all others."""

TASK_PROTOCOLS: Final = ("sacrebleu-zh", "sacrebleu-13a", "sacrebleu-intl", "sacrebleu-char", "labels", "exact")
"""What a file of predictions can be scored by besides `PROTOCOLS`: translations, labels, and answers that are right or wrong."""


@dataclass(frozen=True)
class Likelihood:
    """How probable a model finds a reference answer."""

    log_probability: float
    """Natural logarithm, the end of the answer included."""
    tokens: int
    """Of how many tokens, the end included."""


@dataclass(frozen=True)
class Judged:
    """The predictions of one model for one file, scored."""

    summary: Summary
    """What they scored, metric by metric."""
    rows: list[dict[str, float]]
    """Each row's own scores, where a metric has them."""
    key: str
    """The metric of `rows` that says who is nearer to the reference."""
    scores: list[RowScore] = field(default_factory=list)
    """ROUGE and BLEU-4 of each row, where the task counts them."""
    tallies: dict[str, Tally] = field(default_factory=dict)
    """Metrics that are no means of `scores`."""
    signatures: dict[str, str] = field(default_factory=dict)
    """Metric -> sacreBLEU's signature."""
    classes: Classified | None = None
    """Classes and confusion, of a classification."""


def judge(
    task: Task,
    predictions: Sequence[str],
    references: Sequence[str],
    *,
    protocol: str = "chatglm-6b",
    likelihoods: Sequence[Likelihood] | None = None,
) -> Judged:
    """Score predictions for a task. `protocol` says how ROUGE and BLEU-4 are counted, `likelihoods` are of the references.

    An empty prediction scores 0 and counts, unless the protocol says otherwise. Raises UserError for lists of different lengths or without
    rows, for an unknown protocol, and for references that are none of a classification's labels.
    """
    refuse_unpaired(predictions, references)
    refuse_nothing(len(predictions))
    key = KEYS.get(task.kind, "rouge-l")
    if isinstance(task, TranslationTask):
        found = translated(predictions, references, task.tokenizer)
        tallies = {"bleu": found.bleu, "chrf": found.chrf}
        made = _summary(f"sacrebleu-{task.tokenizer}", predictions, tallies)
        return Judged(made, found.rows, key, tallies=tallies, signatures=found.signatures)
    if isinstance(task, ClassificationTask):
        classes = classified(predictions, references, task.labels)
        tallies = {"accuracy": classes.accuracy, "macro-f1": classes.macro_f1}
        rows = [{"accuracy": 100.0 * right} for right in classes.right]
        return Judged(_summary("labels", predictions, tallies), rows, key, tallies=tallies, classes=classes)
    scores = score_rows(predictions, references, protocol)
    tallies = _more(task, predictions, references, likelihoods)
    shown = [name for name in COUNTED[task.kind] if name in METRICS]
    rows = [{name: row.by_metric()[name] for name in shown} for row in scores]
    counted = summary(scores, protocol)
    if isinstance(task, TextTask):
        return Judged(counted, rows, key, scores=scores)
    means = {**counted.means, **{name: tallied(tally) for name, tally in tallies.items()}}
    ordered = {name: means[name] for name in COUNTED[task.kind] if name in means}
    named = protocol_named(protocol)
    notes = (Note(f"{named.name}: {named.sentence}", f"{named.name}：{named.chinese}"), *_notes(tallies))
    return Judged(replace(counted, means=ordered, notes=notes), rows, key, scores=scores, tallies=tallies)


def judge_by(name: str, predictions: Sequence[str], references: Sequence[str]) -> Judged:
    """Score predictions by one of `TASK_PROTOCOLS`; the labels are those that the references hold.

    Raises UserError as `judge`, and for references that hold fewer than two labels.
    """
    if name == "labels":
        labels = tuple(sorted({reference.strip() for reference in references}))
        if len(labels) < 2 or "" in labels:
            held = f"one label ({labels[0]})" if labels[:1] not in ((), ("",)) else "none in some rows"
            raise UserError(f"--protocol labels: the references hold {held}; each row needs one, and all rows at least two different ones.")
        return judge(ClassificationTask(kind="classification", labels=labels), predictions, references)
    if name == "exact":
        tallies = _more(CodeCommentsTask(kind="code_comments"), predictions, references, None)
        return Judged(_summary(name, predictions, tallies), [], name, tallies=tallies)
    tokenizer = name.removeprefix("sacrebleu-")
    return judge(TranslationTask.model_validate({"kind": "translation", "tokenizer": tokenizer}), predictions, references)


def judged_gains(before: Judged, after: Judged) -> dict[str, Mean]:
    """How much each metric rose from one model to another on the same rows, with the interval of the difference.

    Raises UserError for different or no rows.
    """
    means = gains(before.scores, after.scores) if before.scores else {}
    means |= {name: tally_gain(tally, after.tallies[name]) for name, tally in before.tallies.items() if name in after.tallies}
    return {name: means[name] for name in before.summary.means if name in means}


def _more(task: Task, predictions: Sequence[str], references: Sequence[str], likelihoods: Sequence[Likelihood] | None) -> dict[str, Tally]:
    """What a task counts besides ROUGE and BLEU-4."""
    if task.kind == "continuation" and likelihoods is not None:
        counts = np.array([(one.log_probability, one.tokens) for one in likelihoods], dtype=np.float64)
        return {"perplexity": Tally(counts, lambda sums: float(np.exp(-sums[0] / sums[1])))}
    if task.kind == "code_comments":
        same = [folded(said) == folded(wanted) != "" for said, wanted in zip(predictions, references, strict=True)]
        return {"exact": mean_tally(100.0 * np.array(same))}
    return {}


def _summary(protocol: str, predictions: Sequence[str], tallies: Mapping[str, Tally]) -> Summary:
    means = {name: tallied(tally) for name, tally in tallies.items()}
    return Summary(protocol, len(predictions), sum(not text.strip() for text in predictions), means, notes=tuple(_notes(tallies)))


def _notes(names: Mapping[str, Tally]) -> list[Note]:
    """What metrics count, for a person."""
    return [Note(f"{name}: {METRIC[name].english}", f"{name}：{METRIC[name].chinese}") for name in names]
