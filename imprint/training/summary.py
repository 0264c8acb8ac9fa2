"""The summary of a finished run in plain language: how good its loss is, whether it is still falling, and what to try next."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from imprint.events import Event, Step, evaluation_losses
from imprint.messages import Bilingual
from imprint.report.headline import MIN_GAIN
from imprint.report.next_steps import NextStep

FLAT_SHARE = 0.01
"""Relative change of the evaluation loss, or share of its total decrease, that counts as no change."""
MEMORIZED_LOSS = 0.02
"""Loss, in nats per token, below which the rows are memorized."""


TRIAL_TIMES = 10
"""How many times as many steps are advised at most, beside a whole epoch, after a run that was shorter than one."""


@dataclass(frozen=True)
class PartOfEpoch:
    """How far a run came that ended within its first epoch."""

    rows: int
    """Training rows that were learned from, each once."""
    epoch_steps: int
    """Optimizer steps of a whole epoch."""


@dataclass(frozen=True)
class RunSummary:
    """The figures on which the verdict is based."""

    evaluations: Sequence[tuple[int, float]]
    """(step, evaluation loss), finite, by step; step 0 is before tuning. The kept weights are among them, after a rescue too."""
    epochs: float
    """How many times each training row was used."""
    rows: int
    """Number of training rows."""
    held_out: int
    """Number of rows held out for evaluation."""
    steps: int
    """Optimizer steps of the run."""
    skipped: int
    """Number of skipped steps."""
    part: PartOfEpoch | None = None
    """How far the run came; None if every row was learned from."""
    flags: Mapping[str, str] = field(default_factory=dict)
    """Knob -> what is typed for it, where the run was started without a recipe; empty: the knobs themselves."""
    several_answers: bool = False
    """Whether rows of the file hold several answers: `rows` and `held_out` then count answers, and the messages say so."""

    @classmethod
    def from_log(
        cls,
        events: Sequence[Event],
        *,
        rows: int,
        held_out: int,
        epochs: float,
        steps: int,
        part: PartOfEpoch | None = None,
        flags: Mapping[str, str] | None = None,
        several_answers: bool = False,
    ) -> "RunSummary":
        """The summary of a run's events, which end with `Finished`."""
        skipped = sum(isinstance(event, Step) and event.loss is None for event in events)
        return cls(list(evaluation_losses(events).items()), epochs, rows, held_out, steps, skipped, part, flags or {}, several_answers)

    def typed(self, knob: str, value: object = None) -> str:
        """What to type for a knob, with its value: `train.steps=60`, or `--max_steps 60`."""
        name = self.flags.get(knob)
        if name is None:
            return knob if value is None else f"{knob}={value}"
        return name if value is None else f"{name} {value}"


def verdict_messages(summary: RunSummary) -> list[Bilingual]:
    """How the run went and what to try next, one message per point."""
    trend = _trend(summary)
    sentences = [_quality(summary), *([trend] if trend is not None else [])]
    if summary.skipped:
        sentences.append(
            Bilingual(
                f"{summary.skipped} of {summary.steps} steps were skipped because their loss or gradient was not finite; "
                "log.jsonl names the rows.",
                f"有 {summary.skipped} 步因损失或梯度不是有限值而被跳过，相关行见 log.jsonl。",
            )
        )
    return sentences


def _quality(summary: RunSummary) -> Bilingual:
    """How good the best evaluation loss is."""
    learned = _coverage(summary)
    coverage, chinese = learned.english, learned.chinese
    if not summary.evaluations:
        cure = summary.flags.get("data.dev")
        settings = ("data.dev, or data.dev_share=0.02", "data.dev 或 data.dev_share=0.02") if cure is None else (cure, cure)
        return Bilingual(
            f"verdict: {coverage}; no row was held out, so nothing is known about new ones. Set {settings[0]}.",
            f"结论：{chinese}；没有留出数据，无法判断对新数据的效果，请设 {settings[1]}。",
        )
    first, (step, best) = summary.evaluations[0], min(summary.evaluations, key=lambda evaluation: evaluation[1])
    start = f"{first[1]:.2f} before tuning -> " if first[0] == 0 else ""
    choices = f"{math.exp(min(best, 20)):,.{0 if best > 2.3 else 1}f}"
    counted = "answers" if summary.several_answers else "rows"
    hint = f" ({summary.held_out} {counted} are few: take it as a hint)" if summary.held_out < 20 else ""
    return Bilingual(
        f"verdict: evaluation loss {start}{best:.2f} at step {step}; {coverage}. At a loss of {best:.2f} the model is as unsure of each "
        f"token as of a choice among {choices}; compare losses on the same rows only{hint}.",
        f"结论：评估损失最低 {best:.2f}（第 {step} 步），{chinese}；相当于每个词元在约 {choices} 个候选中猜一个。",
    )


def _coverage(summary: RunSummary) -> Bilingual:
    """How often the training rows were learned from."""
    english, chinese, unit = ("answers", "每个回答", "个回答") if summary.several_answers else ("rows", "每行数据", "行")
    if summary.part is None:
        return Bilingual(
            f"each of {summary.rows} {english} was learned from {summary.epochs:.1f} times", f"{chinese}学了 {summary.epochs:.1f} 遍"
        )
    seen, rows, steps = f"{summary.part.rows:,}", f"{summary.rows:,}", f"{summary.part.epoch_steps:,}"
    return Bilingual(
        f"{seen} of {rows} {english} were learned from once; an epoch is {steps} steps",
        f"{rows} {unit}中只学了 {seen} {unit[0]}，各一遍；一轮是 {steps} 步",
    )


def _longer(summary: RunSummary) -> Bilingual:
    """How to train for longer: twice as long, or, where rows were never seen, all of them once or a longer trial."""
    if summary.part is None:
        steps = summary.typed("train.steps", 2 * summary.steps)
        return Bilingual(f"{steps} with the same command", f"{steps}，命令不变")
    whole, trial, steps = summary.part.epoch_steps, TRIAL_TIMES * summary.steps, summary.typed("train.steps")
    epoch, times = summary.typed("train.epochs", 1), f"{whole / summary.steps:.3g}"
    every = Bilingual(
        f"{epoch} in place of {steps}: every row once, in {times} times the time",
        f"用 {epoch} 代替 {steps}（每行学一遍，用时约 {times} 倍）",
    )
    if trial >= whole:
        return every
    shorter = summary.typed("train.steps", trial)
    return Bilingual(f"{shorter}, or {every.english}", f"{shorter}，或{every.chinese}")


def _trend(summary: RunSummary) -> Bilingual | None:
    """How the evaluation loss developed, and what to do about it; None if there are fewer than two evaluations."""
    if len(summary.evaluations) < 2:
        return None
    rate, length = summary.typed("optimizer.learning_rate"), summary.typed("train.steps")
    (step, best), (last_step, last) = min(summary.evaluations, key=lambda evaluation: evaluation[1]), summary.evaluations[-1]
    if best < MEMORIZED_LOSS:
        return Bilingual(
            "next to nothing is left to learn: these rows are known by heart. Hold out rows that are not like those learned from, or use "
            "fewer steps.",
            "几乎没有可学的了：这些数据已被背下来。请留出不同的数据来评估，或减少步数。",
        )
    if step == 0 and last > best * (1 + FLAT_SHARE):
        return Bilingual(
            f"it was best before tuning: this rate or this data makes it worse. Try a tenth of {rate}, and look at the rows with "
            "`imprint data show FILE`.",
            f"微调前反而最好：请把 {rate} 降到十分之一，并用 imprint data show 检查数据。",
        )
    first_step, first = summary.evaluations[0]
    if first_step == 0 and best > first * (1 - MIN_GAIN):
        return Bilingual(
            f"hardly better than before tuning: the steps are too few or too small. Try more {length}, or three times the {rate}.",
            f"几乎没有变化：步数太少或学习率太小。请增加 {length}，或把 {rate} 提高到三倍。",
        )
    if last > best * (1 + FLAT_SHARE) and step < last_step:
        return Bilingual(
            f"rising since step {step}: the rows are being learned by heart. The result is that of step {step}; to do better use more "
            f"rows, fewer steps ({summary.typed('train.steps', step)}) or a lower rate.",
            f"从第 {step} 步起上升（过拟合）：保留的是第 {step} 步；可增加数据、减少步数或降低学习率。",
        )
    earlier = [loss for step, loss in summary.evaluations if step <= last_step * 2 / 3]
    if earlier and min(earlier) - last > FLAT_SHARE * max(min(earlier), first - last):
        return Bilingual(
            f"still falling: more steps would help, for instance {_longer(summary).english}.",
            f"仍在下降：可以训练更久，例如 {_longer(summary).chinese}。",
        )
    before = min(earlier) if earlier else first
    return Bilingual(
        f"it hardly changed in the last third of the steps ({before:.3g} -> {last:.3g}): the run has settled, and more steps like these "
        f"would change little. Look at the answers; if they are not good enough, add rows or improve them, or try another {rate}.",
        f"最后三分之一的步数里评估损失几乎不变（{before:.3g} -> {last:.3g}）：训练已趋稳，照此再多训练作用不大。"
        f"请看回答；如果还不够好，请增加或改进数据，或换一个 {rate}。",
    )


def next_lines(steps: Sequence[NextStep]) -> list[str]:
    """What to do next, as printed lines."""
    return ["next / 接下来:", *(f"  {one.command}    {one.purpose.line}" for one in steps)]
