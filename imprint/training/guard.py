"""Watches the losses and answers of a run and decides: go on, warn, return to a good state, or stop with advice.

The guard sees the events of the log and nothing else, so a run that resumes after a kill replays them and decides as if it had not been
killed.

A loss has exploded when each of the latest steps lies well above the best stretch of the run, and when the very rows of that stretch have
become as much worse: noisy batches, harder rows and a rough start do the first, and only broken weights do the second.
"""

import math
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from imprint.events import Evaluation, Event, Rescued, SampledAnswer, Step
from imprint.messages import Bilingual

RESCUES = 3
WORSE_NATS = 1.5
"""How much worse, in nats a token, is broken: every right token less than a quarter as likely."""
BEST_STEPS = 10
"""Steps of the best stretch."""
NONFINITE_STEPS = 5
"""Steps in a row without a finite loss or gradient, where rows alone are not at fault."""
HOPELESS_STEPS = 10
"""Steps in a row that teach nothing: no loss of the run was ever finite or above 0, or each batch has a row that spoils it."""
MEMORIZED_LOSS = 0.02
"""A loss, in nats a token, below which there is nothing left to learn."""
SAME_LOSSES = 20
"""Losses in a row without a change."""
RATE_FACTOR, RESTART_RATE_FACTOR = 0.3, 0.1
"""What the rate is multiplied by in a rescue; the second where the run begins again."""
NOTHING_FINITE = Bilingual(
    "no evaluation loss was ever finite, so nothing is kept. Lower optimizer.learning_rate, use model.dtype=float32, or check the base's "
    "weights; then train in a new folder.",
    "评估损失从未是有限值，因此没有保留任何结果。请减小 optimizer.learning_rate，改用 "
    "model.dtype=float32，或检查底座权重，并换一个新目录训练。",
)
"""Advice for a run that ends without a result."""
MANY_REPEATS = 4
LONGEST_UNIT = 16


@dataclass(frozen=True)
class GuardWarning:
    """Worth a sentence; the run goes on."""

    message: Bilingual
    """The sentence."""


@dataclass(frozen=True)
class SpikeSuspected:
    """Losses so high that the rows of the best stretch must be computed again; `Guard.confirmed` then decides."""

    steps: tuple[int, ...]
    """The steps of that stretch."""
    before: float
    """Their mean loss then."""
    reason: str
    """What was seen, for the rescue."""


@dataclass(frozen=True)
class Diverged:
    """The weights are broken, or about to be: go back to a state of step `good` or before."""

    good: int
    """The newest step whose weights were seen to be good."""
    reason: str
    """What was seen."""


@dataclass(frozen=True)
class Unrecoverable:
    """No rate would help: end with this advice."""

    message: Bilingual
    """What was seen and what to change."""


Decision = GuardWarning | SpikeSuspected | Diverged | Unrecoverable | None


@dataclass(frozen=True)
class _Stretch:
    steps: tuple[int, ...]
    loss: float


class Guard:
    """Sees each line of a log in its order, and the watched answers."""

    def __init__(self, steps: int) -> None:
        self.patience = max(6, min(20, steps // 8))
        self.good = 0
        """The newest step whose weights are known to be good: the step after it went well."""
        self._stretch: deque[tuple[int, float]] = deque(maxlen=BEST_STEPS)
        self._best: _Stretch | None = None
        self._latest: deque[float] = deque(maxlen=self.patience)
        self._same: deque[tuple[float, float]] = deque(maxlen=SAME_LOSSES)
        self._not_finite: list[tuple[int, bool]] = []
        self._zeros: list[int] = []
        self._last_loss: float | None = None
        self._evaluations: list[tuple[float, int]] = []
        self._answered_well = False
        self._warned: set[str] = set()

    @classmethod
    def replay(cls, events: Iterable[Event], steps: int) -> "Guard":
        """A guard that has seen a log; its decisions on that were acted on at the time."""
        guard = cls(steps)
        for step, group in groupby((event for event in events if not isinstance(event, Rescued)), key=lambda event: event.step):
            answers = []
            for event in group:
                if isinstance(event, SampledAnswer):
                    answers.append(event.answer)
                elif isinstance(guard.observe(event), SpikeSuspected):
                    guard.accept(step)
            guard.observe_answers(answers)
        return guard

    @property
    def unstable(self) -> bool:
        """Whether the latest steps were not like a good run's: no state that is good may be deleted now."""
        return bool(self._not_finite or self._zeros) or self._high()

    def observe(self, event: Event) -> Decision:
        """Take in a step or an evaluation; other events decide nothing."""
        if isinstance(event, Evaluation) and event.eval_loss is not None:
            self._evaluations.append((event.eval_loss, event.step))
        if not isinstance(event, Step):
            return None
        step, loss = event.step, event.loss
        if loss is None:
            return self._without_loss(step, by_rows=0 < len(event.broken_rows) < len(event.skipped_rows))
        self._not_finite.clear()
        if loss == 0:
            return self._zero(step)
        self._zeros.clear()
        self._last_loss = loss
        self._same.append((loss, event.gradient_norm or 0.0))
        return self._compare(step, loss) or self._unchanging()

    def observe_answers(self, texts: Sequence[str]) -> Decision:
        """Take in the answers to the watched prompts."""
        if not texts:
            return None
        if not all(map(is_broken_answer, texts)):
            self._answered_well = True
            return None
        if not self._answered_well:  # a prefix that starts at random cannot talk yet
            return None
        reason = "the watched answers have become endless repetition or unknown characters"
        (best, good), (now, _step) = min(self._evaluations, default=(0.0, 0)), (self._evaluations or [(0.0, 0)])[-1]
        if now > best + WORSE_NATS:
            return Diverged(good, f"{reason}, and the evaluation loss rose from {best:.2f} to {now:.2f}")
        return self._warn_once(
            "answers",
            Bilingual(
                f"{reason}. Should that stay so, lower optimizer.learning_rate or train.steps.",
                "观察的回答变成了无尽的重复或乱码。若一直如此，请减小 optimizer.learning_rate 或 train.steps。",
            ),
        )

    def confirm(self, suspicion: SpikeSuspected, now: float, step: int) -> Diverged | None:
        """Decide on a suspicion, given the mean loss of its rows now; the guard goes on as if it had never been where it was unfounded."""
        if math.isfinite(now) and now <= suspicion.before + WORSE_NATS:
            self.accept(step)
            return None
        return Diverged(self.good, f"{suspicion.reason}, and on the rows of its best steps from {suspicion.before:.2f} to {now:.2f}")

    def accept(self, step: int) -> None:
        """Take the weights of a step for good after all."""
        self._latest.clear()
        self.good = step

    def _warn_once(self, kind: str, message: Bilingual) -> GuardWarning | None:
        """A warning, at the first time of its kind."""
        if kind in self._warned:
            return None
        self._warned.add(kind)
        return GuardWarning(message)

    def _high(self) -> bool:
        return self._best is not None and bool(self._latest) and self._latest[-1] > self._best.loss + WORSE_NATS

    def _compare(self, step: int, loss: float) -> Decision:
        """Keep the best stretch, and suspect an explosion where all of the latest losses lie far above it."""
        self._stretch.append((step, loss))
        self._latest.append(loss)
        mean = sum(one for _step, one in self._stretch) / len(self._stretch)
        if self._best is None or mean < self._best.loss:
            self._best = _Stretch(tuple(one for one, _loss in self._stretch), mean)
        if not self._high():
            self.good = max(self.good, step - 1)
        return self._suspicion() if len(self._latest) == self.patience else None

    def _suspicion(self) -> Decision:
        if self._best is None or min(self._latest) <= self._best.loss + WORSE_NATS:
            return None
        now = sum(self._latest) / len(self._latest)
        return SpikeSuspected(self._best.steps, self._best.loss, f"the loss rose from {self._best.loss:.2f} to {now:.2f}")

    def _without_loss(self, step: int, *, by_rows: bool) -> Decision:
        """A step that was thrown away: of no matter by itself, for its rows may be at fault; of matter where it goes on so."""
        self._not_finite.append((step, by_rows))
        count, of_rows = len(self._not_finite), sum(found for _step, found in self._not_finite)
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
        if count >= HOPELESS_STEPS and of_rows == count:
            return Unrecoverable(
                Bilingual(
                    f"each of the last {count} steps had rows whose loss is not finite while the other rows of the step are well. "
                    "Take these rows out of the data (`imprint data check FILE` looks at them), or use model.dtype=float32; then "
                    "train in a new "
                    "folder.",
                    "最近每一步都有损失不是有限值的行，同批的其他行正常。请从数据中去掉这些行，或用 "
                    "model.dtype=float32，并换一个新目录训练。",
                )
            )
        if self._last_loss is not None and (count - of_rows >= NONFINITE_STEPS or (count >= HOPELESS_STEPS and of_rows < count)):
            return Diverged(min(self.good, self._not_finite[0][0] - 2), f"loss or gradient was not finite {count} times in a row")
        return None

    def _zero(self, step: int) -> Decision:
        self._zeros.append(step)
        if len(self._zeros) != HOPELESS_STEPS:
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
            return Diverged(min(self.good, self._zeros[0] - 2), f"the loss fell from {self._last_loss:.2f} to 0 at once")
        return self._memorized(f"the loss is 0 since step {self._zeros[0]}")

    def _memorized(self, seen: str) -> GuardWarning | None:
        return self._warn_once(
            "by heart",
            Bilingual(
                f"{seen}: the rows are known by heart, and more steps teach nothing. Use more rows or fewer steps.",
                "损失已降到 0 附近：这些数据已被背下来，再训练也没有收获。请增加数据或减少步数。",
            ),
        )

    def _unchanging(self) -> Decision:
        losses = [loss for loss, _norm in self._same]
        if len(losses) < SAME_LOSSES or max(losses) - min(losses) > 1e-5 * max(losses):
            return None
        flows = any(norm for _loss, norm in self._same)
        self._same.clear()
        if losses[-1] < MEMORIZED_LOSS:
            return self._memorized(f"the loss has been {losses[-1]:.4f} for {SAME_LOSSES} steps")
        why = "the steps are too small: raise optimizer.learning_rate" if flows else "no gradient arrives: check model.dtype and the base"
        return self._warn_once(
            "unchanging",
            Bilingual(
                f"the loss has been {losses[-1]:.4f} for {SAME_LOSSES} steps without any change; {why}, or the data is one row "
                "over and over.",
                f"损失连续 {SAME_LOSSES} 步没有任何变化：请提高 optimizer.learning_rate，检查 model.dtype 与底座，或检查数据是否全部相同。",
            ),
        )


def is_broken_answer(text: str) -> bool:
    """Whether an answer ends in the same characters over and over, or holds what is no text (but for a last character cut in half)."""
    compact = "".join(text.split())
    if any(sign in compact.rstrip("\ufffd") for sign in ("\ufffd", "<unk>", "\u2047")):
        return True
    for size in range(1, LONGEST_UNIT + 1):
        unit, times = compact[-size:], 1
        while len(unit) == size and compact.endswith(unit * (times + 1)):
            times += 1
        if times >= MANY_REPEATS and times * size >= max(12, len(compact) / 2):
            return True
    return False


def lowered_rate_scale(rate_scale: float, back_to: int) -> float:
    """The scale of the learning rate after a rescue."""
    return rate_scale * (RATE_FACTOR if back_to else RESTART_RATE_FACTOR)


def final_advice(reason: str, *, rate: float, warmup: int, dtype: str, rows: str) -> Bilingual:
    """What to change once the guard has lowered the rate as often as it may; `rate` is the last peak learning rate."""
    lower = f"optimizer.learning_rate={RATE_FACTOR * rate:.1g}"
    longer = f"optimizer.warmup_steps={max(20, 2 * warmup)}"
    exact = dtype == "float32"
    return Bilingual(
        f"{reason}, and that after {RESCUES} times back to a good state and a lower rate. In a new folder set {lower} (it was {rate:.1g} "
        f"at last) and {longer} (now {warmup}){'' if exact else f', and model.dtype=float32 (now {dtype})'}; look at the rows learned when "
        f"it began: {rows}.",
        f"已回到完好的状态并降低学习率 {RESCUES} 次，仍然失败。请在新目录中设 {lower}、{longer}"
        f"{'' if exact else '、model.dtype=float32'}，并检查上述数据行。",
    )
