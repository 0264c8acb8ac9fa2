"""Refuses knobs of `evaluate` and `compare` that nothing would read: one that is given and ignored makes the scores another thing."""

from collections.abc import Sequence
from typing import Final, Literal

from imprint.data.sample import Sample
from imprint.evaluate.section import EvaluateSection
from imprint.messages import Bilingual, UserError
from imprint.task import ClassificationTask

Reads = Literal["rows", "questions", "held-out rows"]
"""What is answered: the rows of --data, the questions of --prompts, or the rows that the run holds out."""
COLUMNS: Final = ("prompt_column", "response_column", "history_column", "fill")
UNREAD: Final[dict[Reads, tuple[tuple[str, ...], Bilingual]]] = {
    "rows": ((), Bilingual("", "")),
    "questions": (
        ("response_column", "history_column", "fill"),
        Bilingual(
            "questions (--prompts) are read without answers, earlier turns and placeholders. Leave it out, or give rows with --data",
            "用 --prompts 给出的只是问题，不读答案、历史和占位符：请去掉该项，或改用 --data",
        ),
    ),
    "held-out rows": (
        COLUMNS,
        Bilingual(
            "the held-out rows of a run are read as its own recipe says. Leave it out, or give rows with --data FILE",
            "留出的数据按该结果自己的配方读取：请去掉该项，或用 --data 指定文件",
        ),
    ),
}
"""What is answered -> the knobs that nothing reads then, and why."""


def refuse_unread_columns(section: EvaluateSection, reads: Reads) -> None:
    """Raise UserError for a knob that was given about the reading of rows, and that counts for other rows only."""
    names, reason = UNREAD[reads]
    for name in names:
        if name in section.model_fields_set and getattr(section, name) is not None:
            raise _unused(name, reason)


def refuse_unused_decoding(section: EvaluateSection, given: frozenset[str], samples: Sequence[Sample]) -> None:
    """Raise UserError for a knob of `given` that has no effect beside the others and for these rows. `section` is resolved."""
    if "max_length" in given and section.max_length is not None and section.truncation != "original":
        limits = Bilingual(
            "it counts only with truncation=original. Give max_source_length and max_new_tokens, or truncation=original",
            "仅在 truncation=original 时有效：请改用 max_source_length 与 max_new_tokens，或加上 truncation=original",
        )
        raise _unused("max_length", limits)
    if section.temperature == 0 and (sampling := [name for name in ("top_p", "top_k") if name in given and _is_set(section, name)]):
        greedy = Bilingual(
            "nothing is sampled while temperature is 0. Give a temperature, such as temperature=0.95, or leave it out",
            "temperature 为 0 时不做采样：请同时给出 temperature（如 0.95），或去掉该项",
        )
        raise _unused(sampling[0], greedy)
    if not isinstance(section.task, ClassificationTask) or not section.task.constrained or not any(one.answer.strip() for one in samples):
        return
    for name in ("temperature", "num_beams", "max_new_tokens", "top_k", "repetition_penalty", "stop"):
        if name in given and _is_set(section, name):
            chosen = Bilingual(
                "the most probable label is chosen, and nothing generated. Leave it out, or set task.constrained=false",
                "该任务只选概率最高的标签，不生成文本：请去掉该项，或设 task.constrained=false",
            )
            raise _unused(name, chosen)


def _is_set(section: EvaluateSection, name: str) -> bool:
    """Whether a knob has another value than none and its default."""
    return getattr(section, name) not in (None, EvaluateSection.model_fields[name].default)


def _unused(name: str, reason: Bilingual) -> UserError:
    return UserError(Bilingual(f"{name}: would be ignored: {reason.english}.", f"{name}：不会起作用：{reason.chinese}。"))
