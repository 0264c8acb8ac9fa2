"""The turns of a conversation without tools: who speaks, what is said, and whether it is learned."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from imprint.data.readers.bad_rows import BadRowError, describe_value, has_both, key_in, must_be, non_empty_text, quote, turn_of
from imprint.data.tool_turns import content_with_reasoning, is_tool_turn, join_parts
from imprint.data.turns import ROLES, SPEAKER_KEYS, TEXT_KEYS, is_learned, text_of
from imprint.messages import Bilingual

NO_TOOLS: Final = Bilingual(
    "and the template of this model does not support tools. Leave this conversation out, or write the turn as plain text.",
    "而该模型的模板不支持工具：请去掉这段对话，或把该轮写成普通文本。",
)


@dataclass(frozen=True)
class ParsedTurn:
    """A turn of either form, role/content or from/value."""

    number: int
    """Its number in the row, from 1."""
    role: Literal["user", "assistant", "system"]
    """Who speaks."""
    text: str
    """What is said."""
    learned: bool
    """Whether it is learned, if it is an answer."""

    @classmethod
    def parse(cls, turn: object, number: int, column: str) -> "ParsedTurn":
        """Parse a turn. Raises BadRowError for a turn of a tool, an unknown role, and a text that is none or blank."""
        fields, subject = turn if isinstance(turn, dict) else {}, turn_of(number, column)
        if is_tool_turn(fields):
            raise BadRowError(
                Bilingual(
                    f"{subject.english} is a call or a result of a tool, {NO_TOOLS.english}",
                    f"{subject.chinese}是工具的调用或结果，{NO_TOOLS.chinese}",
                )
            )
        role_key = "role" if "role" in fields else "from" if "from" in fields else ""
        text_key = "content" if "content" in fields else "value" if "value" in fields else ""
        if len(fields) > len(SPEAKER_KEYS):
            _refuse_two_meanings(fields, subject)
        if not role_key or not text_key:
            found = describe_value(turn)
            raise BadRowError(
                Bilingual(
                    f'{subject.english} must have "role" and "content" (or "from" and "value"), got {found.english}.',
                    f'{subject.chinese}须有 "role" 和 "content"（或 "from" 和 "value"），实际为{found.chinese}。',
                )
            )
        role = fields[role_key]
        if not isinstance(role, str) or role.lower() not in ROLES:
            allowed = ", ".join(ROLES)
            raise must_be(key_in(subject, role_key), f"one of {allowed}", f" {allowed} 之一", role)
        is_answer, is_system = ROLES[role.lower()] == "assistant", ROLES[role.lower()] == "system"
        content = join_parts(fields[text_key])
        empty = is_system and (content is None or (isinstance(content, str) and not content.strip()))
        text = "" if empty else non_empty_text(content, text_of(number, text_key))
        if is_answer:
            text = non_empty_text(content_with_reasoning(fields, text, subject), text_of(number, text_key))
        return cls(number, ROLES[role.lower()], text, not is_answer or is_learned(fields, subject))


def paired(turns: Sequence[ParsedTurn], column: str) -> list[tuple[ParsedTurn, ParsedTurn]]:
    """The questions with their answers. Raises BadRowError if user and assistant do not take turns, and for a question left open."""
    for turn, role in zip(turns, itertools.cycle(("user", "assistant")), strict=False):
        if turn.role != role:
            subject = turn_of(turn.number, column)
            raise BadRowError(
                Bilingual(
                    f"{subject.english} is by the {turn.role}, but user and assistant must take turns, the user first.",
                    f"{subject.chinese}是 {turn.role} 的，而用户和助手须轮流发言，由用户开始。",
                )
            )
    if len(turns) % 2:
        number = turns[-1].number
        raise BadRowError(
            Bilingual(
                f"{quote(column)} ends with the user (turn {number}), so an answer is missing.",
                f"{quote(column)} 以用户的第 {number} 轮结束，缺少回答。",
            )
        )
    return list(zip(turns[::2], turns[1::2], strict=True))


def split_system(system: str | None, turns: Sequence[ParsedTurn], column: str) -> tuple[str | None, Sequence[ParsedTurn]]:
    """The system prompt, from a column or the first turn, and the other turns. Raises BadRowError for a second, or a later one."""
    if turns and turns[0].role == "system":
        if system is not None and turns[0].text not in ("", system):
            both = f"{quote(system)} and {quote(turns[0].text)}"
            raise BadRowError(
                Bilingual(
                    f'"system" and {turn_of(1, column).english} differ: {both}.',
                    f'"system" 与 {turn_of(1, column).chinese}不同：{quote(system)} 和 {quote(turns[0].text)}。',
                )
            )
        system, turns = turns[0].text or system, turns[1:]
    for turn in turns:
        if turn.role == "system":
            subject = turn_of(turn.number, column)
            raise BadRowError(
                Bilingual(
                    f"{subject.english} is by the system, which may only come first.", f"{subject.chinese}是 system 的，而它只能在最前。"
                )
            )
    return system, turns


def _refuse_two_meanings(turn: Mapping[str, object], subject: Bilingual) -> None:
    """Raise BadRowError for a turn with two speakers or two texts that differ."""
    for keys in (SPEAKER_KEYS, TEXT_KEYS):
        values = [turn[key] for key in keys if turn.get(key) is not None]
        if len(values) > 1:
            first, second = (ROLES.get(value.lower(), value) if isinstance(value, str) else value for value in values)
            if first != second:
                raise has_both(subject, keys, Bilingual(", which differ", "，而二者不同"))
