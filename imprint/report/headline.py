"""The sentence with which the report of a run begins: what was learned, what it cost, and the cure where that was much."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

from imprint.events import Finished, Step, evaluation_losses, last_start, values_by_step
from imprint.forgetting.result import Forgetting, forgetting_advice
from imprint.messages import Bilingual
from imprint.report.run_report import RunReport
from imprint.report.run_scores import EvaluationScores, before_and_after

Level = Literal["good", "fair", "bad"]
MIN_GAIN: Final = 0.03
"""Relative decrease of the loss below which a run has hardly learned."""
FEW_KEPT_SHARE: Final = 0.7
"""Below this share of kept answers, the run is bad."""
FEW_FILLED_SHARE: Final = 0.8
"""Below this share of answers with the new texts, they are not learned well."""


@dataclass(frozen=True)
class Headline:
    """What was learned and what it cost."""

    level: Level
    """Whether it is good, worth a look, or bad."""
    sentence: Bilingual
    """The sentence."""
    cures: tuple[Bilingual, ...]
    """What to do where it is not good."""


def headline(report: RunReport) -> Headline:
    """The sentence of a run, and how good it is."""
    parts = [*_learned(report), _cost(report.forgetting)]
    unfinished = _unfinished(report)
    sentence = Bilingual(
        f"{unfinished.english if unfinished else ''}{_capitalized('; '.join(part.english for part in parts), first=unfinished is None)}.",
        f"{unfinished.chinese if unfinished else ''}{'；'.join(part.chinese for part in parts)}。",
    )
    findings = list(_findings(report))
    levels = [level for level, _cures in findings]
    level: Level = "bad" if "bad" in levels else "fair" if levels else "good"
    return Headline(level, sentence, tuple(cure for _level, cures in findings for cure in cures))


def _capitalized(text: str, *, first: bool) -> str:
    return text[0].upper() + text[1:] if first else text


def _unfinished(report: RunReport) -> Bilingual | None:
    """How far a run has come that has not ended; None for a finished one, and for the logs of earlier versions, which do not say."""
    start = last_start(report.events)
    if start is None or any(isinstance(event, Finished) for event in report.events):
        return None
    step = max((event.step for event in report.events if isinstance(event, Step)), default=0)
    return Bilingual(f"Not finished, step {step} of {start.steps}: ", f"尚未完成（第 {step} 步，共 {start.steps} 步）：")


def _learned(report: RunReport) -> list[Bilingual]:
    """What was learned, by the best measures that the run has: the new texts and the scores; without them the loss."""
    parts = []
    if (filled := report.filled) is not None:
        name = (
            Bilingual("held-out questions", "个留出问题") if report.example_kind == "held-out" else Bilingual("learned rows", "行训练数据")
        )
        parts.append(
            Bilingual(
                f"{filled.after} of {filled.rows} {name.english} are answered with the new texts ({filled.before} before)",
                f"{filled.rows} {name.chinese}中有 {filled.after} 个的回答含有新内容（微调前 {filled.before} 个）",
            )
        )
    if (scores := _scores(report)) is not None:
        parts.append(scores)
    return parts or [_loss(report)]


def _scores(report: RunReport) -> Bilingual | None:
    """The score of the largest evaluation, before and after."""
    for base, tuned in before_and_after(list(report.scores)):
        metric = tuned.metric if tuned.metric in tuned.means else next(iter(tuned.means))
        before = f"{base.means[metric]:.2f} -> " if base is not None and base.rows == tuned.rows and metric in base.means else ""
        value, name = f"{metric.upper()} {before}{tuned.means[metric]:.2f}", _rows_of(tuned)
        return Bilingual(f"{value} on {name.english}", f"{name.chinese}上 {value}")
    return None


def _score_fell(report: RunReport) -> bool:
    """Whether the score of the sentence is worse than the base's."""
    for base, tuned in before_and_after(list(report.scores))[:1]:
        metric = tuned.metric
        if base is None or base.rows != tuned.rows or metric not in tuned.means or metric not in base.means:
            return False
        return tuned.means[metric] < base.means[metric]
    return False


def _rows_of(scores: EvaluationScores) -> Bilingual:
    """The rows of an evaluation: how many, and of which file."""
    rows = "" if scores.rows is None else f"{scores.rows:,} "
    if scores.name == "held-out":
        return Bilingual(f"{rows}held-out rows", f"{rows}行留出数据" if rows else "留出数据")
    return Bilingual(f"{rows}rows of {scores.name}", f"{scores.name} 的 {rows}行" if rows else f" {scores.name} ")


def _loss(report: RunReport) -> Bilingual:
    losses = evaluation_losses(report.events)
    if losses:
        before = f"{losses[0]:.2f} -> " if 0 in losses and len(losses) > 1 else ""
        return Bilingual(f"evaluation loss {before}{min(losses.values()):.2f}", f"评估损失 {before}{min(losses.values()):.2f}")
    learned = list(values_by_step(report.events, "loss").values())
    if not learned:
        return Bilingual("no loss has been logged yet", "尚未记录损失")
    return Bilingual(
        f"training loss {learned[0]:.2f} -> {learned[-1]:.2f}, and no row was held out",
        f"训练损失 {learned[0]:.2f} -> {learned[-1]:.2f}，没有留出数据",
    )


def _cost(forgetting: Forgetting | None) -> Bilingual:
    """What was lost: old answers, or where the base answers hardly any, the distance from it on the neutral text."""
    if forgetting is None:
        return Bilingual("what was forgotten has not been measured", "未评估遗忘")
    if forgetting.says_little:
        return forgetting.text_message()
    lost, counted = forgetting.counted - forgetting.kept, forgetting.counted
    if not lost:
        return Bilingual(f"none of {counted} old answers is lost", f"原有的 {counted} 个回答没有丢失")
    return Bilingual(f"{lost} of {counted} old answers {'is' if lost == 1 else 'are'} lost", f"原有的 {counted} 个回答丢失 {lost} 个")


def _findings(report: RunReport) -> Iterator[tuple[Level, tuple[Bilingual, ...]]]:
    """(how bad, the cures) of everything that is not good. What the loss says, the messages below the sentence say with its cure."""
    if _unfinished(report) is not None:
        yield "fair", (Bilingual("the run goes on with the command that started it", "用开始时的命令可继续训练"),)
    losses = evaluation_losses(report.events)
    if len(losses) > 1 and 0 in losses:
        best = min(losses.values())
        if best >= losses[0]:
            yield "bad", ()
        elif best > losses[0] * (1 - MIN_GAIN):
            yield "fair", ()
    if (filled := report.filled) is not None and filled.after < FEW_FILLED_SHARE * filled.rows:
        cure = Bilingual(
            "many answers lack the new texts: take more train.steps, or more rows that ask for them in other words",
            "不少回答没有新内容：可增加 train.steps，或增加换一种问法的数据",
        )
        yield "bad" if filled.after <= filled.before else "fair", (cure,)
    if _score_fell(report):
        cure = Bilingual(
            "the score is lower than the base's: look at the answers with `imprint compare`, then try more train.steps, rows or another "
            "optimizer.learning_rate",
            "得分低于底座：请用 `imprint compare` 查看回答，再尝试增加 train.steps、增加数据或调整 optimizer.learning_rate",
        )
        yield "fair", (cure,)
    if (forgetting := report.forgetting) is None:
        yield "fair", (Bilingual(f"`imprint forgetting {report.path}` measures it", f"可运行 `imprint forgetting {report.path}` 评估遗忘"),)
        return
    if advice := tuple(forgetting_advice(forgetting, mixed=report.mixed)):
        few = forgetting.share is not None and forgetting.share < FEW_KEPT_SHARE and not forgetting.says_little
        yield "bad" if few or forgetting.text_changed else "fair", advice
