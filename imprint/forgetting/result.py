"""The result of a forgetting measurement: its figures, file form and messages."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

from imprint.files.typed_json import typed
from imprint.forgetting.probes import is_correct, is_same
from imprint.messages import Bilingual

Fate = Literal["same", "right", "lost", "never"]
"""Whether the tuned answer is the same as the base's, still correct, or lost. `never`: the base was wrong, so nothing could be lost."""
LOW_KEPT_SHARE: Final = 0.9
"""Below this share of kept answers, the messages include advice."""
FEW_COUNTED_SHARE: Final = 0.2
"""Below this share of counted questions, kept answers say little, and the messages say what to measure by instead."""
LARGE_LOSS_RISE: Final = 0.5
"""A rise of the loss of the neutral text, in nats a token, above which much was lost where kept answers say little."""
MEASURE_AGAIN: Final = Bilingual(
    "Delete it, and measure again with `imprint forgetting`.", "请删除它，再用 `imprint forgetting` 重新评估。"
)


@dataclass(frozen=True)
class ProbeResult:
    """One question with both answers and their comparison."""

    question: str
    """The question."""
    keys: tuple[str, ...]
    """Accepted texts; empty if there is no reference."""
    base: str
    """The base's answer."""
    tuned: str
    """The tuned model's answer."""
    fate: Fate
    """Whether the base's answer was kept or lost."""

    @classmethod
    def compare(cls, question: str, keys: tuple[str, ...], base: str, tuned: str) -> "ProbeResult":
        """Compare a pair of answers."""
        if keys and not is_correct(base, keys):
            return cls(question, keys, base, tuned, "never")
        if is_same(base, tuned):
            return cls(question, keys, base, tuned, "same")
        return cls(question, keys, base, tuned, "right" if is_correct(tuned, keys) else "lost")


@dataclass(frozen=True)
class Forgetting:
    """The measured forgetting of a run."""

    rows: tuple[ProbeResult, ...]
    """All questions."""
    kl: float | None
    """KL divergence (base || tuned) of the next-token distributions: mean over the tokens of the text, in nats; None if not finite."""
    tokens: int
    """The number of tokens of the text."""
    probes_from: str
    """The file of the questions."""
    text_from: str
    """The file of the text."""
    seconds: float
    """Duration of the measurement."""
    base_loss: float | None = None
    """The base's loss of the text, nats a token; None if not finite, or missing in an older file."""
    tuned_loss: float | None = None
    """The tuned model's loss of the text, nats a token."""

    @property
    def counted(self) -> int:
        """Questions that the base answers correctly, or that have no reference."""
        return sum(row.fate != "never" for row in self.rows)

    @property
    def kept(self) -> int:
        """Counted questions whose answer is the same as before, or still right."""
        return sum(row.fate in ("same", "right") for row in self.rows)

    @property
    def share(self) -> float | None:
        """The share (0 to 1) of kept answers; None if no question counts."""
        return self.kept / self.counted if self.counted else None

    @property
    def says_little(self) -> bool:
        """Whether the base answers so few questions that the kept ones say little."""
        return self.counted < FEW_COUNTED_SHARE * len(self.rows)

    @property
    def text_changed(self) -> bool:
        """Whether kept answers say little, and the text has become much less probable."""
        if self.base_loss is None:
            return False
        return self.says_little and (self.tuned_loss is None or self.tuned_loss - self.base_loss > LARGE_LOSS_RISE)

    def text_message(self) -> Bilingual:
        """KL divergence and losses of the neutral text as a message."""
        values = (self.kl, self.base_loss, self.tuned_loss)
        kl, before, after = ("not finite" if value is None else f"{value:.4f}" for value in values)
        english = f"on {self.tokens} tokens of neutral text KL divergence {kl} nats a token, loss {before} -> {after}"
        kl, before, after = ("非有限值" if value is None else f"{value:.4f}" for value in values)
        return Bilingual(english, f"在 {self.tokens} 个词元的中性文本上，每词元 KL 散度 {kl}，损失 {before} -> {after}")

    def as_json(self) -> dict[str, Any]:
        """All fields, with the figures first."""
        figures = {"kept_share": self.share, "kept": self.kept, "counted": self.counted, "asked": len(self.rows)}
        return {**figures, **asdict(self)}


def parse_forgetting(values: Mapping[str, Any], source: str) -> Forgetting:
    """The inverse of `as_json`; `source` names the file in the UserError raised for anything else."""
    figures = {"kept_share", "kept", "counted", "asked"}  # which follow from the rows
    return typed({name: value for name, value in values.items() if name not in figures}, Forgetting, source, MEASURE_AGAIN)


def forgetting_messages(result: Forgetting, *, mixed: bool) -> list[Bilingual]:
    """The result as a message, and the advice of `forgetting_advice`."""
    if result.share is None:
        english, chinese = f"the base answers none of {len(result.rows)} questions correctly", "底座没有答对任何探测问题"
    else:
        english = f"{result.kept} of {result.counted} answers of the base are kept ({result.share:.1%})"
        chinese = f"原有回答保留 {result.kept}/{result.counted}（{result.share:.1%}）"
    text = result.text_message()
    message = Bilingual(f"forgetting: {english}; {text.english}", f"遗忘评估：{chinese}；{text.chinese}")
    return [message, *forgetting_advice(result, mixed=mixed)]


def forgetting_advice(result: Forgetting, *, mixed: bool) -> list[Bilingual]:
    """What to do where much was lost, which depends on whether general rows were `mixed` in, or where kept answers say little."""
    messages = []
    if result.says_little:
        messages.append(
            Bilingual(
                f"the base answers only {result.counted} of {len(result.rows)} questions, so kept answers say little: is it a chat model? "
                "Judge by KL divergence and by the loss of the text, or give questions that it can answer (forgetting.probes=FILE)",
                f"底座只答对 {len(result.rows)} 个问题中的 {result.counted} 个，保留率说明不了什么（它是对话模型吗？）："
                "请看 KL 散度和文本损失，或给出它能答的问题（forgetting.probes=FILE）",
            )
        )
    if (result.share is not None and result.share < LOW_KEPT_SHARE) or result.text_changed:
        messages.append(
            Bilingual(
                "much was lost: take more general rows (data.mix_general.share), answered by the base itself "
                "(data.mix_general.answers=base), fewer steps or a lower optimizer.learning_rate",
                "遗忘较多：可提高通用数据的比例（data.mix_general.share）、由底座自己回答（data.mix_general.answers=base）、"
                "减少步数、降低学习率",
            )
            if mixed
            else Bilingual(
                "much was lost: mix general rows in, which helps most (data.mix_general={}, or data.mix_general.rows=FILE if the base "
                "has none), or take fewer steps or a lower optimizer.learning_rate",
                "遗忘较多：混入通用数据最有效（data.mix_general={}，底座没有自带时用 data.mix_general.rows=FILE）；"
                "也可减少步数、降低学习率",
            )
        )
    return messages


def lost_rows(rows: Sequence[ProbeResult]) -> list[ProbeResult]:
    """The questions whose answers were lost."""
    return [row for row in rows if row.fate == "lost"]
