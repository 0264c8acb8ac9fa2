"""Scores predictions with the metrics of their task."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Final

import numpy as np

from imprint.messages import Bilingual, UserError
from imprint.metrics.classification import ClassificationScores, score_classification
from imprint.metrics.corpus_metric import CorpusMetric, estimate, mean_metric, metric_gain
from imprint.metrics.means import METRICS, Mean, Summary, gains, require_rows, summary
from imprint.metrics.protocols import get_protocol
from imprint.metrics.rates import normalize_text
from imprint.metrics.scores import RowScore, require_pairs, score_rows
from imprint.metrics.translation import score_translation
from imprint.task import MAX_LABELS, ClassificationTask, CodeCommentsTask, Task, TextTask, TranslationTask


@dataclass(frozen=True)
class Metric:
    """One metric in a table of scores."""

    name: str
    """Its name in tables and files."""
    description: Bilingual
    """What it counts."""
    lower_is_better: bool = False
    """Whether lower is better."""


_LISTED: Final = (
    Metric("rouge-1", Bilingual("F score of shared words", "共有词的 F 值")),
    Metric("rouge-2", Bilingual("F score of shared pairs of words", "共有词对的 F 值")),
    Metric("rouge-l", Bilingual("F score of the longest common subsequence of words", "最长公共子序列的 F 值")),
    Metric("bleu-4", Bilingual("runs of one to four shared tokens, row by row", "逐行计算的一到四元共有片段")),
    Metric(
        "bleu",
        Bilingual(
            "corpus BLEU by sacreBLEU: runs of one to four shared tokens, added up over the file",
            "sacreBLEU 的语料级 BLEU：一到四元共有片段，先对全文件累加",
        ),
    ),
    Metric(
        "chrf",
        Bilingual(
            "chrF2 by sacreBLEU: F score of shared runs of one to six characters", "sacreBLEU 的 chrF2：一到六个字符的共有片段的 F 值"
        ),
    ),
    Metric("accuracy", Bilingual("share of correct labels", "标签正确的比例")),
    Metric(
        "macro-f1",
        Bilingual("mean of the labels' F1, a rare label counting as much as a frequent one", "各标签 F1 的平均，少见与常见的标签同等重要"),
    ),
    Metric(
        "perplexity",
        Bilingual(
            "among how many equally probable tokens the model hesitates at each token of the reference; lower is better",
            "对参考答案的每个词元，模型相当于在多少个等可能的词元间犹豫；越低越好",
        ),
        lower_is_better=True,
    ),
    Metric(
        "exact",
        Bilingual(
            "share of answers that are the reference, blanks and the width of punctuation aside",
            "与参考答案相同的比例（不计空白与标点的全半角）",
        ),
    ),
)
METRIC_BY_NAME: Final[Mapping[str, Metric]] = MappingProxyType({metric.name: metric for metric in _LISTED})
"""Name -> metric."""

TASK_METRICS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "text": METRICS,
        "summary": ("rouge-1", "rouge-2", "rouge-l"),
        "translation": ("bleu", "chrf"),
        "classification": ("accuracy", "macro-f1"),
        "continuation": ("perplexity", "rouge-l"),
        "code_comments": ("bleu-4", "rouge-l", "exact"),
    }
)
"""Kind of task -> its metrics, in table order."""
ROW_METRICS: Final[Mapping[str, str]] = MappingProxyType({"translation": "chrf", "classification": "accuracy"})
"""Kind of task -> the metric that ranks answers of one row; ROUGE-L for all others."""

TASK_PROTOCOLS: Final = ("sacrebleu-zh", "sacrebleu-13a", "sacrebleu-intl", "sacrebleu-char", "labels", "exact")
"""Protocols of other tasks besides `PROTOCOLS`: translation, classification, exact match."""


@dataclass(frozen=True)
class Likelihood:
    """The likelihood of a reference answer under a model."""

    log_probability: float
    """Natural logarithm, including the end token."""
    tokens: int
    """Number of tokens, including the end token."""


@dataclass(frozen=True)
class TaskScores:
    """The scores of one model's predictions for one file."""

    summary: Summary
    """The mean of each metric."""
    row_scores: list[dict[str, float]]
    """Scores of each row, for metrics that have row scores."""
    row_metric: str
    """The metric of `row_scores` that ranks two answers."""
    rouge_bleu: list[RowScore] = field(default_factory=list)
    """ROUGE and BLEU-4 of each row, if the task uses them."""
    corpus_metrics: dict[str, CorpusMetric] = field(default_factory=dict)
    """Metrics that are not means of row scores in `rouge_bleu`."""
    signatures: dict[str, str] = field(default_factory=dict)
    """Metric -> sacreBLEU's signature."""
    classes: ClassificationScores | None = None
    """Per-class scores and confusion matrix of a classification."""


def score_task(
    task: Task,
    predictions: Sequence[str],
    references: Sequence[str],
    *,
    protocol: str = "chatglm-6b",
    likelihoods: Sequence[Likelihood] | None = None,
) -> TaskScores:
    """Score predictions for a task. `protocol` is for ROUGE and BLEU-4; `likelihoods` are those of the references.

    An empty prediction scores 0 and counts, unless the protocol says otherwise. Raises UserError for lists that are empty or differ in
    length, for an unknown protocol, and for references that are none of a classification's labels.
    """
    require_pairs(predictions, references)
    require_rows(len(predictions))
    row_metric = ROW_METRICS.get(task.kind, "rouge-l")
    if isinstance(task, TranslationTask):
        translation = score_translation(predictions, references, task.tokenizer)
        metrics = {"bleu": translation.bleu, "chrf": translation.chrf}
        means = _summary(f"sacrebleu-{task.tokenizer}", predictions, metrics)
        return TaskScores(means, translation.rows, row_metric, corpus_metrics=metrics, signatures=translation.signatures)
    if isinstance(task, ClassificationTask):
        classes = score_classification(predictions, references, task.labels)
        metrics = {"accuracy": classes.accuracy, "macro-f1": classes.macro_f1}
        rows = [{"accuracy": 100.0 * correct} for correct in classes.correct]
        return TaskScores(_summary("labels", predictions, metrics), rows, row_metric, corpus_metrics=metrics, classes=classes)
    rouge_bleu = score_rows(predictions, references, protocol)
    metrics = _corpus_metrics(task, predictions, references, likelihoods)
    row_metrics = [name for name in TASK_METRICS[task.kind] if name in METRICS]
    rows = [{name: row.by_metric()[name] for name in row_metrics} for row in rouge_bleu]
    row_summary = summary(rouge_bleu, protocol)
    if isinstance(task, TextTask):
        return TaskScores(row_summary, rows, row_metric, rouge_bleu=rouge_bleu)
    by_name = {**row_summary.means, **{name: estimate(metric) for name, metric in metrics.items()}}
    ordered = {name: by_name[name] for name in TASK_METRICS[task.kind] if name in by_name}
    notes = (named_description(protocol, get_protocol(protocol).description), *_notes(metrics))
    return TaskScores(replace(row_summary, means=ordered, notes=notes), rows, row_metric, rouge_bleu=rouge_bleu, corpus_metrics=metrics)


def score_by_protocol(name: str, predictions: Sequence[str], references: Sequence[str]) -> TaskScores:
    """Score predictions by one of `TASK_PROTOCOLS`; the labels are those of the references.

    Raises UserError as `score_task` does, and for references with fewer than two labels.
    """
    if name == "labels":
        labels = tuple(sorted({reference.strip() for reference in references}))
        if len(labels) < 2 or "" in labels:
            is_single = labels[:1] not in ((), ("",))
            english, chinese = (
                (f"one label ({labels[0]})", f"只有一种标签（{labels[0]}）") if is_single else ("none in some rows", "有的行没有标签")
            )
            raise UserError(
                Bilingual(
                    f"--protocol labels: the references hold {english}; each row needs one, and all rows at least two different ones.",
                    f"--protocol labels：参考答案中{chinese}；每行都要有标签，且至少有两种。",
                )
            )
        if len(labels) > MAX_LABELS:
            raise UserError(
                Bilingual(
                    f"--protocol labels: the references hold {len(labels):,} different texts, more than {MAX_LABELS:,}. Are they labels? "
                    "Other protocols score texts; `exact` counts equal ones.",
                    f"--protocol labels：参考答案中有 {len(labels):,} 种不同的文本，超过 {MAX_LABELS:,} 种，它们是标签吗？"
                    "文本请用其他协议，exact 计相同的比例。",
                )
            )
        return score_task(ClassificationTask(kind="classification", labels=labels), predictions, references)
    if name == "exact":
        metrics = _corpus_metrics(CodeCommentsTask(kind="code_comments"), predictions, references, None)
        return TaskScores(_summary(name, predictions, metrics), [], name, corpus_metrics=metrics)
    tokenizer = name.removeprefix("sacrebleu-")
    return score_task(TranslationTask.model_validate({"kind": "translation", "tokenizer": tokenizer}), predictions, references)


def task_gains(before: TaskScores, after: TaskScores) -> dict[str, Mean]:
    """The gain of each metric from one model to another on the same rows, with the interval of the difference.

    Raises UserError if the rows do not match or there are none.
    """
    means = gains(before.rouge_bleu, after.rouge_bleu) if before.rouge_bleu else {}
    paired = before.corpus_metrics.keys() & after.corpus_metrics.keys()
    means |= {name: metric_gain(before.corpus_metrics[name], after.corpus_metrics[name]) for name in paired}
    return {name: means[name] for name in before.summary.means if name in means}


def _corpus_metrics(
    task: Task, predictions: Sequence[str], references: Sequence[str], likelihoods: Sequence[Likelihood] | None
) -> dict[str, CorpusMetric]:
    """The metrics of a task besides ROUGE and BLEU-4."""
    if task.kind == "continuation" and likelihoods is not None:
        statistics = np.array([(likelihood.log_probability, likelihood.tokens) for likelihood in likelihoods], dtype=np.float64)
        return {"perplexity": CorpusMetric(statistics, lambda sums: float(np.exp(-sums[0] / sums[1])))}
    if task.kind == "code_comments":
        is_equal = [
            normalize_text(prediction) == normalize_text(reference) != ""
            for prediction, reference in zip(predictions, references, strict=True)
        ]
        return {"exact": mean_metric(100.0 * np.array(is_equal))}
    return {}


def _summary(protocol: str, predictions: Sequence[str], metrics: Mapping[str, CorpusMetric]) -> Summary:
    means = {name: estimate(metric) for name, metric in metrics.items()}
    return Summary(protocol, len(predictions), sum(not text.strip() for text in predictions), means, notes=tuple(_notes(metrics)))


def _notes(names: Iterable[str]) -> list[Bilingual]:
    return [named_description(name, METRIC_BY_NAME[name].description) for name in names]


def named_description(name: str, description: Bilingual) -> Bilingual:
    """The name of a metric or protocol followed by its description."""
    return Bilingual(f"{name}: {description.english}", f"{name}：{description.chinese}")
