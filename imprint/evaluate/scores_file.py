"""scores.json of an evaluation, the confusion matrix picture, and the table that is printed."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from imprint.data.sample import Sample
from imprint.evaluate.answering import Answers, refuse_unknown_labels
from imprint.evaluate.section import EvaluateSection, reference_limit
from imprint.evaluate.training_rows import TrainingRows
from imprint.files.atomic import write_json
from imprint.messages import Bilingual
from imprint.metrics.baseline import BASELINE, baseline_predictions
from imprint.metrics.protocols import PROTOCOLS
from imprint.metrics.rates import FailureRates, copied_share, failure_warnings
from imprint.metrics.task_scores import TASK_METRICS, TaskScores, score_task
from imprint.task import ClassificationTask, TextTask

CONFUSION = "confusion.png"


def write_scores(
    answers: Answers, section: EvaluateSection, data: str, output: Path, *, training: TrainingRows, baseline: TaskScores | None
) -> dict[str, Any]:
    """Write scores.json, with a confusion picture of a classification, and return its content.

    Questions without references have rates but no scores. `data` says where the rows are from. `training` are the rows that the model was
    trained on, and what is to be said of them, `baseline` are the scores of the classical baseline.
    """
    summary, rates, scores = answers.summary, answers.rates, answers.scores
    report: dict[str, Any] = {"data": data, "rows": len(answers.predictions)}
    if answers.scored:
        report |= {"protocol": summary.protocol, **{name: asdict(mean) for name, mean in summary.means.items()}}
        report |= {"dropped": summary.dropped, "references_cut_to": reference_limit(section)}
    if answers.scored and section.task is not None and not isinstance(section.task, TextTask):
        report |= {"task": section.task.kind, **({"signatures": scores.signatures} if scores.signatures else {})}
    report |= {"empty": summary.empty, "unfinished_share": rates.unfinished, "repeated_share": rates.repeated}
    report |= {"cut_prompts": answers.cut_prompts}
    if training.samples:
        report["copied_share"] = copied_share(answers.predictions, [sample.answer for sample in training.samples])
    if training.note is not None and training.recorded:
        report["training_rows"] = training.note.english
    if scores.classes is not None and isinstance(section.task, ClassificationTask):
        report |= {"classes": [asdict(class_score) for class_score in scores.classes.classes], "confusion": scores.classes.confusion}
        draw_confusions({"model": scores, BASELINE: baseline}, section.task, output / CONFUSION)
        if baseline is not None:
            report["baseline"] = {"name": BASELINE, **{name: asdict(mean) for name, mean in baseline.summary.means.items()}}
    report |= {"settings": section.model_dump(mode="json")}
    write_json(output / "scores.json", report)
    return report


def baseline_of(training: Sequence[Sample], samples: Sequence[Sample], section: EvaluateSection) -> TaskScores | None:
    """Scores of the classical baseline, trained on the rows `training`, on the samples of a classification.

    None for other tasks, where the recipe turns it off, where there is nothing to score, and where the rows have fewer than two labels.
    """
    task, references = section.task, [sample.answer for sample in samples]
    if not isinstance(task, ClassificationTask) or not task.baseline or not any(answer.strip() for answer in references):
        return None
    questions, labels = [sample.query for sample in training], [sample.answer for sample in training]
    if len({label.strip() for label in labels}) < 2:
        return None
    refuse_unknown_labels(task, samples)
    return score_task(task, baseline_predictions(questions, labels, [sample.query for sample in samples]), references)


def draw_confusions(scores: Mapping[str, TaskScores | None], task: ClassificationTask, out: Path) -> None:
    """Draw the confusion matrices of several classifiers side by side, each with its name."""
    from imprint.report.confusion import Panel, draw_confusion_matrices

    panels = [Panel(name, model.classes.confusion) for name, model in scores.items() if model is not None and model.classes is not None]
    draw_confusion_matrices(panels, task.labels, out)


def references_note(limit: int | None) -> str:
    """Whether references were truncated, as text."""
    return "references whole" if limit is None else f"references cut to {limit} tokens, as ChatGLM-6B's script cuts them"


def score_lines(report: dict[str, Any], output: Path) -> list[str]:
    """The scores as printed lines, warnings first."""
    rates = FailureRates(report["empty"] / report["rows"], report["repeated_share"], report["unfinished_share"])
    lines = [line for warning in failure_warnings(rates) for line in (f"warning: {warning.english}", f"警告：{warning.chinese}")]
    if "protocol" in report:
        lines += _table_lines(report)
    return [*lines, _shares(report).line, Bilingual(f"written to {output}", "已写入").line]


def _shares(report: dict[str, Any]) -> Bilingual:
    """How many rows were answered, and how many answers are not as they should be."""
    unfinished, repeated = f"{report['unfinished_share']:.1%}", f"{report['repeated_share']:.1%}"
    parts = [
        Bilingual(f"{report['empty']} empty", f"空回答 {report['empty']} 个"),
        Bilingual(f"{unfinished} not ended", f"未结束 {unfinished}"),
        Bilingual(f"{repeated} repeat themselves", f"自我重复 {repeated}"),
    ]
    if "copied_share" in report and "classes" not in report:
        copied = f"{report['copied_share']:.1%}"
        parts.append(Bilingual(f"{copied} copied from the training rows", f"照抄训练数据 {copied}"))
    if report["cut_prompts"]:
        limit = f"max_source_length={report['settings']['max_source_length']}"
        parts.append(Bilingual(f"{report['cut_prompts']} prompts were cut to {limit}", f"{report['cut_prompts']} 个提问被截断到 {limit}"))
    english, chinese = ", ".join(part.english for part in parts), "，".join(part.chinese for part in parts)
    return Bilingual(f"{report['rows']} rows: {english}", f"{report['rows']} 行：{chinese}")


def _table_lines(report: dict[str, Any]) -> Iterator[str]:
    """The table of scores and the protocol; for a classification also its classes and the baseline."""
    metrics = TASK_METRICS[report.get("task", "text")]
    yield f"{'':10}{'mean':>7}   95 % interval / 均值与 95% 区间"
    for name in metrics:
        mean = report[name]
        yield f"{name:10}{mean['value']:7.2f}   {mean['low']:.2f} - {mean['high']:.2f}"
    if "baseline" in report:
        yield f"{report['baseline']['name']}, trained on the same rows / 同样数据上的传统基线"
        for name in metrics:
            mean = report["baseline"][name]
            yield f"{name:10}{mean['value']:7.2f}   {mean['low']:.2f} - {mean['high']:.2f}"
    for one in report.get("classes", []):
        shares = f"precision {one['precision']:5.1f}  recall {one['recall']:5.1f}  F1 {one['f1']:5.1f}"
        yield f"  {shares}  {one['rows']:6,} rows  {one['label']}"
    for name, signature in report.get("signatures", {}).items():
        yield f"{name}: {signature}"
    if (protocol := PROTOCOLS.get(report["protocol"])) is not None:
        dropped = f", {report['dropped']} rows left out of the means" if report["dropped"] else ""
        yield f"protocol {protocol.name}: BLEU-4 over {protocol.bleu_tokens}, {references_note(report['references_cut_to'])}{dropped}"
