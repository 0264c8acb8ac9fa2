"""What was kept and what was lost, as numbers and as sentences."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

from imprint.errors import UserError
from imprint.forgetting.probes import is_right, is_same

Fate = Literal["same", "right", "lost", "never"]
"""The tuned answer is the base's, or right in other words, or neither; `never`: the base had it wrong, so there was nothing to keep."""
ENOUGH: Final = 0.9
"""A run that keeps a smaller share of the answers is told what helps."""


@dataclass(frozen=True)
class Asked:
    """One question and what became of its answer."""

    question: str
    """What was asked."""
    keys: tuple[str, ...]
    """What a right answer holds; empty where nobody said."""
    base: str
    """What the base answers."""
    tuned: str
    """What the tuned model answers."""
    fate: Fate
    """What became of it."""

    @classmethod
    def of(cls, question: str, keys: tuple[str, ...], base: str, tuned: str) -> "Asked":
        """Judge a pair of answers."""
        if keys and not is_right(base, keys):
            return cls(question, keys, base, tuned, "never")
        if is_same(base, tuned):
            return cls(question, keys, base, tuned, "same")
        return cls(question, keys, base, tuned, "right" if is_right(tuned, keys) else "lost")


@dataclass(frozen=True)
class Forgetting:
    """The forgetting of a run."""

    rows: tuple[Asked, ...]
    """Every question that was asked."""
    kl: float | None
    """Kullback-Leibler divergence of the next-token distributions, base || tuned, in nats, the mean over the tokens of the text."""
    tokens: int
    """How many tokens that is."""
    probes_from: str
    """Where the questions were read."""
    text_from: str
    """Where the text was read."""
    seconds: float
    """How long it took."""

    @property
    def counted(self) -> int:
        """Questions that the base answers rightly, or that have no right answer."""
        return sum(row.fate != "never" for row in self.rows)

    @property
    def kept(self) -> int:
        """Those whose answer is the same as before, or right in other words."""
        return sum(row.fate in ("same", "right") for row in self.rows)

    @property
    def share(self) -> float | None:
        """The share (0 to 1) of answers kept; None where the base had none to lose."""
        return self.kept / self.counted if self.counted else None

    def as_json(self) -> dict[str, Any]:
        """Everything, with the numbers on top."""
        numbers = {"kept_share": self.share, "kept": self.kept, "counted": self.counted, "asked": len(self.rows)}
        return {**numbers, **asdict(self)}


def forgetting_from(values: Mapping[str, Any], place: str) -> Forgetting:
    """What `as_json` wrote. Raises UserError where it is something else."""
    try:
        rows = tuple(Asked(**{**row, "keys": tuple(row["keys"])}) for row in values["rows"])
        names = ("kl", "tokens", "probes_from", "text_from", "seconds")
        return Forgetting(rows, **{name: values[name] for name in names})
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{place}: is not what Imprint wrote ({error}). Delete it, and measure again with `imprint forgetting`.") from error


def told(found: Forgetting, *, mixed: bool) -> list[str]:
    """One line in two languages; where much was lost, a second one with what helps a run that general rows were `mixed` into or not."""
    divergence = "not finite" if found.kl is None else f"{found.kl:.4f}"
    if found.share is None:
        english, chinese = f"the base answers none of {len(found.rows)} questions rightly", "底座没有答对任何探测问题"
    else:
        english = f"{found.kept} of {found.counted} answers of the base are kept ({found.share:.1%})"
        chinese = f"原有回答保留 {found.kept}/{found.counted}（{found.share:.1%}）"
    measured = f"KL divergence {divergence} nats a token over {found.tokens} tokens of neutral text"
    lines = [f"forgetting: {english}; {measured}\n遗忘评估：{chinese}；中性文本上每词元 KL 散度 {divergence}"]
    if found.share is not None and found.share < ENOUGH:
        lines.append(
            "much was lost: take more general rows (data.mix_general.share), fewer steps or a lower optimizer.learning_rate\n"
            "遗忘较多：可提高通用数据的比例（data.mix_general.share）、减少步数、降低学习率"
            if mixed
            else "much was lost: mix general rows in, which helps most (data.mix_general={}, or data.mix_general.rows=FILE where the base "
            "brings none), or take fewer steps or a lower optimizer.learning_rate\n"
            "遗忘较多：混入通用数据最有效（data.mix_general={}，底座没有自带时用 data.mix_general.rows=FILE）；也可减少步数、降低学习率"
        )
    return lines


def lost(rows: Sequence[Asked]) -> list[Asked]:
    """The questions whose answers are gone."""
    return [row for row in rows if row.fate == "lost"]
