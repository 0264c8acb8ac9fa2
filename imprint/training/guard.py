"""The guard: detects divergence from losses and answers, and decides to continue, warn, rescue from a good state, or stop with advice.

The guard sees only the events of the log. A run that resumes after a kill replays them, so it decides as if it had not been killed.

A run has diverged if two conditions hold: each of the most recent losses is far above the mean of the best window, and the loss on the rows
of that window, computed again, is as much higher. Noisy batches, harder rows and a rough start can cause the first; only broken weights
cause the second.
"""

import math
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from imprint.events import Evaluation, Event, Rescued, Step, WatchedAnswer
from imprint.messages import Bilingual

MAX_RESCUES = 3
"""Most rescues of a run."""
WORSE_NATS = 1.5
"""Increase of the loss, in nats per token, that counts as divergence: each target token is less than a quarter as likely."""
WINDOW_STEPS = 10
"""Steps of the best window."""
MAX_NONFINITE_STEPS = 5
"""Consecutive steps without a finite loss or gradient that count as divergence, if single rows are not the cause."""
HOPELESS_STEPS = 10
"""Consecutive steps without learning after which a run stops: its losses were never finite or always 0, or each batch has a bad row."""
MEMORIZED_LOSS = 0.02
"""Loss, in nats per token, below which there is nothing left to learn."""
CONSTANT_STEPS = 20
"""Consecutive equal losses that cause a warning."""
RATE_FACTOR, RESTART_RATE_FACTOR = 0.3, 0.1
"""Factor of the learning rate at a rescue: back to a saved state, and back to the start of the run."""
NOTHING_FINITE = Bilingual(
    "no evaluation loss was ever finite, so nothing is kept. Lower optimizer.learning_rate, use model.dtype=float32, or check the base's "
    "weights; then train in a new folder.",
    "评估损失从未是有限值，因此没有保留任何结果。请减小 optimizer.learning_rate，改用 "
    "model.dtype=float32，或检查底座权重，并换一个新目录训练。",
)
"""Advice for a run that ends without a result."""
MIN_REPEATS = 4
"""Fewest repeats of a text that make an answer broken."""
MAX_UNIT = 16
"""Most characters of a text whose repeats are counted."""


@dataclass(frozen=True)
class GuardWarning:
    """The run continues with a warning."""

    message: Bilingual
    """The warning."""


@dataclass(frozen=True)
class SpikeSuspected:
    """Losses so high that the rows of the best window must be computed again; `Guard.confirm` then decides."""

    steps: tuple[int, ...]
    """The steps of the best window."""
    before: float
    """Their mean loss at that time."""
    reason: str
    """Description of the losses, for the rescue."""


@dataclass(frozen=True)
class Diverged:
    """The weights are broken, or about to be: the rescue goes back to a state of step `good_step` or earlier."""

    good_step: int
    """The last step whose weights are known to be good."""
    reason: str
    """Description of what was observed."""


@dataclass(frozen=True)
class Unrecoverable:
    """A lower learning rate would not help: the run stops with advice."""

    message: Bilingual
    """What was observed and what to change."""


Decision = GuardWarning | SpikeSuspected | Diverged | Unrecoverable | None


@dataclass(frozen=True)
class _Window:
    """Consecutive steps with their mean loss."""

    steps: tuple[int, ...]
    loss: float


class Guard:
    """The state of the guard after the events it has seen, which must come in the order of the log."""

    def __init__(self, steps: int) -> None:
        self.patience = max(6, min(20, steps // 8))
        """How many losses in a row must be high before a spike is suspected."""
        self.good_step = 0
        """The last step whose weights are known to be good, because the loss of the next step was."""
        self._window: deque[tuple[int, float]] = deque(maxlen=WINDOW_STEPS)
        self._best: _Window | None = None
        self._recent: deque[float] = deque(maxlen=self.patience)
        self._losses_and_norms: deque[tuple[float, float]] = deque(maxlen=CONSTANT_STEPS)
        self._nonfinite: list[tuple[int, bool]] = []
        self._zero_steps: list[int] = []
        self._last_loss: float | None = None
        self._evaluations: list[tuple[float, int]] = []
        self._had_good_answer = False
        self._warned: set[str] = set()

    @classmethod
    def replay(cls, events: Iterable[Event], steps: int) -> "Guard":
        """A guard that has seen these events; its decisions about them were carried out at the time."""
        guard = cls(steps)
        for step, group in groupby((event for event in events if not isinstance(event, Rescued)), key=lambda event: event.step):
            answers = []
            for event in group:
                if isinstance(event, WatchedAnswer):
                    answers.append(event.answer)
                elif isinstance(guard.observe(event), SpikeSuspected):
                    guard.accept(step)
            guard.observe_answers(answers)
        return guard

    @property
    def unstable(self) -> bool:
        """Whether the latest losses are high, zero or not finite: then the newest good state must not be deleted."""
        return bool(self._nonfinite or self._zero_steps) or self._is_high()

    def observe(self, event: Event) -> Decision:
        """Decide about a step or an evaluation; other events are ignored."""
        if isinstance(event, Evaluation) and event.eval_loss is not None:
            self._evaluations.append((event.eval_loss, event.step))
        if not isinstance(event, Step):
            return None
        step, loss = event.step, event.loss
        if loss is None:
            return self._track_nonfinite(step, caused_by_rows=0 < len(event.broken_rows) < len(event.skipped_rows))
        self._nonfinite.clear()
        if loss == 0:
            return self._track_zero(step)
        self._zero_steps.clear()
        self._last_loss = loss
        self._losses_and_norms.append((loss, event.gradient_norm or 0.0))
        return self._track_finite(step, loss) or self._check_constant()

    def observe_answers(self, texts: Sequence[str]) -> Decision:
        """Decide about the answers to the watched prompts after a step."""
        if not texts:
            return None
        if not all(map(is_broken_answer, texts)):
            self._had_good_answer = True
            return None
        if not self._had_good_answer:  # a randomly initialized prefix cannot answer yet
            return None
        reason = "the watched answers have become endless repetition or unknown characters"
        (best, good_step), (now, _step) = min(self._evaluations, default=(0.0, 0)), (self._evaluations or [(0.0, 0)])[-1]
        if now > best + WORSE_NATS:
            return Diverged(good_step, f"{reason}, and the evaluation loss rose from {best:.2f} to {now:.2f}")
        return self._warn_once(
            "answers",
            Bilingual(
                f"{reason}. If this continues, lower optimizer.learning_rate or train.steps.",
                "观察的回答变成了无尽的重复或乱码。若一直如此，请减小 optimizer.learning_rate 或 train.steps。",
            ),
        )

    def confirm(self, suspicion: SpikeSuspected, now: float, step: int) -> Diverged | None:
        """Decide about a suspected spike, given the loss of the best window's rows computed `now`; if it is fine, accept `step`."""
        if math.isfinite(now) and now <= suspicion.before + WORSE_NATS:
            self.accept(step)
            return None
        return Diverged(self.good_step, f"{suspicion.reason}, and on the rows of its best steps from {suspicion.before:.2f} to {now:.2f}")

    def accept(self, step: int) -> None:
        """Mark the weights after `step` as good and forget the recent losses."""
        self._recent.clear()
        self.good_step = step

    def _warn_once(self, kind: str, message: Bilingual) -> GuardWarning | None:
        """The warning, or None if one of this kind was given before."""
        if kind in self._warned:
            return None
        self._warned.add(kind)
        return GuardWarning(message)

    def _is_high(self) -> bool:
        """Whether the last loss is far above the best window."""
        return self._best is not None and bool(self._recent) and self._recent[-1] > self._best.loss + WORSE_NATS

    def _track_finite(self, step: int, loss: float) -> Decision:
        """Update the best window, and suspect a spike if all recent losses are far above it."""
        self._window.append((step, loss))
        self._recent.append(loss)
        mean = sum(one for _step, one in self._window) / len(self._window)
        if self._best is None or mean < self._best.loss:
            self._best = _Window(tuple(one for one, _loss in self._window), mean)
        if not self._is_high():
            self.good_step = max(self.good_step, step - 1)
        return self._check_spike() if len(self._recent) == self.patience else None

    def _check_spike(self) -> Decision:
        if self._best is None or min(self._recent) <= self._best.loss + WORSE_NATS:
            return None
        now = sum(self._recent) / len(self._recent)
        return SpikeSuspected(self._best.steps, self._best.loss, f"the loss rose from {self._best.loss:.2f} to {now:.2f}")

    def _track_nonfinite(self, step: int, *, caused_by_rows: bool) -> Decision:
        """Decide about a skipped step: a single one is harmless, many in a row are not; `caused_by_rows` if only some rows are bad."""
        self._nonfinite.append((step, caused_by_rows))
        count, row_count = len(self._nonfinite), sum(caused for _step, caused in self._nonfinite)
        if self._last_loss is None and count >= HOPELESS_STEPS:
            return Unrecoverable(
                Bilingual(
                    f"loss or gradient was not finite in the first {count} steps, before anything was learned: the base itself cannot be "
                    "computed in this precision, or its weights are damaged. Use model.dtype=float32, or check the base; then train in a "
                    "new folder.",
                    "从第一步起损失或梯度就不是有限值：底座在该精度下无法计算，或其权重已损坏。请用 model.dtype=float32 "
                    "或检查底座，并换一个新目录训练。",
                )
            )
        if count >= HOPELESS_STEPS and row_count == count:
            return Unrecoverable(
                Bilingual(
                    f"each of the last {count} steps had rows whose loss is not finite while its other rows are fine. "
                    "Take these rows out of the data (`imprint data check FILE` checks them), or use model.dtype=float32; then "
                    "train in a new folder.",
                    "最近每一步都有损失不是有限值的行，同批的其他行正常。请从数据中去掉这些行，或用 "
                    "model.dtype=float32，并换一个新目录训练。",
                )
            )
        if self._last_loss is not None and (count - row_count >= MAX_NONFINITE_STEPS or (count >= HOPELESS_STEPS and row_count < count)):
            return Diverged(min(self.good_step, self._nonfinite[0][0] - 2), f"loss or gradient was not finite {count} times in a row")
        return None

    def _track_zero(self, step: int) -> Decision:
        self._zero_steps.append(step)
        if len(self._zero_steps) != HOPELESS_STEPS:
            return None
        if self._last_loss is None:
            return Unrecoverable(
                Bilingual(
                    f"the loss was 0 in each of the first {HOPELESS_STEPS} steps: nothing is learned. Either no token of these rows "
                    "is a target (an empty answer column: see data.response_column), or the base's weights are damaged.",
                    "从第一步起损失就是 0：什么也学不到。请检查 data.response_column 是否为空，或底座权重是否损坏。",
                )
            )
        if self._last_loss > 0.1:
            return Diverged(min(self.good_step, self._zero_steps[0] - 2), f"the loss fell from {self._last_loss:.2f} to 0 at once")
        return self._warn_memorized(f"the loss is 0 since step {self._zero_steps[0]}")

    def _warn_memorized(self, observation: str) -> GuardWarning | None:
        return self._warn_once(
            "memorized",
            Bilingual(
                f"{observation}: the rows are known by heart, and more steps teach nothing. Use more rows or fewer steps.",
                "损失已降到 0 附近：这些数据已被背下来，再训练也没有收获。请增加数据或减少步数。",
            ),
        )

    def _check_constant(self) -> Decision:
        losses = [loss for loss, _norm in self._losses_and_norms]
        if len(losses) < CONSTANT_STEPS or max(losses) - min(losses) > 1e-5 * max(losses):
            return None
        has_gradient = any(norm for _loss, norm in self._losses_and_norms)
        self._losses_and_norms.clear()
        if losses[-1] < MEMORIZED_LOSS:
            return self._warn_memorized(f"the loss has been {losses[-1]:.4f} for {CONSTANT_STEPS} steps")
        why = (
            "the steps are too small: raise optimizer.learning_rate"
            if has_gradient
            else "no gradient arrives: check model.dtype and the base"
        )
        return self._warn_once(
            "constant",
            Bilingual(
                f"the loss has been {losses[-1]:.4f} for {CONSTANT_STEPS} steps without any change; {why}, or the data is one row "
                "over and over.",
                f"损失连续 {CONSTANT_STEPS} 步没有任何变化：请提高 optimizer.learning_rate，"
                "检查 model.dtype 与底座，或检查数据是否全部相同。",
            ),
        )


def is_broken_answer(text: str) -> bool:
    """Whether an answer ends in endless repetition or has unknown characters (except a last character that is cut in half)."""
    compact = "".join(text.split())
    if any(mark in compact.rstrip("\ufffd") for mark in ("\ufffd", "<unk>", "\u2047")):
        return True
    for size in range(1, MAX_UNIT + 1):
        unit, repeats = compact[-size:], 1
        while len(unit) == size and compact.endswith(unit * (repeats + 1)):
            repeats += 1
        if repeats >= MIN_REPEATS and repeats * size >= max(12, len(compact) / 2):
            return True
    return False


def lowered_rate_scale(rate_scale: float, back_to: int) -> float:
    """The scale of the learning rate after a rescue that goes back to step `back_to`."""
    return rate_scale * (RATE_FACTOR if back_to else RESTART_RATE_FACTOR)


def final_advice(reason: str, *, rate: float, warmup: int, dtype: str, rows: Bilingual) -> Bilingual:
    """What to change after the last rescue; `rate` is the last peak learning rate, `rows` are those at the divergence."""
    lower_rate = f"optimizer.learning_rate={RATE_FACTOR * rate:.1g}"
    longer_warmup = f"optimizer.warmup_steps={max(20, 2 * warmup)}"
    is_fp32 = dtype == "float32"
    return Bilingual(
        f"{reason}, even after {MAX_RESCUES} rescues, each with a lower rate. In a new folder set {lower_rate} (last: {rate:.1g}) "
        f"and {longer_warmup} (now {warmup}){'' if is_fp32 else f', and model.dtype=float32 (now {dtype})'}; check the rows at which the "
        f"divergence began: {rows.english}.",
        f"已回到完好的状态并降低学习率 {MAX_RESCUES} 次，仍然失败。请在新目录中设 {lower_rate}、{longer_warmup}"
        f"{'' if is_fp32 else '、model.dtype=float32'}，并检查失控开始时的数据行：{rows.chinese}。",
    )
