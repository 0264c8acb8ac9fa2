"""Samples from rows: named columns if the first row has them, else the shapes of published data sets.

Sources of the shapes: README of ChatGLM-6B's ptuning (content/summary, prompt/response/history), Stanford Alpaca
(instruction/input/output), ShareGPT (conversations of from/value), OpenAI and ChatGLM3's finetune_demo (messages or conversations of
role/content), ChatGLM-Tuning (context/target).
"""

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from imprint.data.readers.bad_rows import BadRowError, describe_value, label_as_text, non_empty_text, quote, valid_unicode
from imprint.data.sample import Sample
from imprint.data.tool_turns import ToolTurn, is_tool_turn, offered_tools, samples_from_tool_turns, tool_turn
from imprint.templates import Message

CONVERSATION_COLUMNS: Final = ("messages", "conversations", "conversation")
COLUMN_PAIRS: Final = (
    ("prompt", "response"),
    ("prompt", "completion"),
    ("query", "response"),
    ("question", "answer"),
    ("context", "target"),
    ("问题", "答案"),
    ("问题", "回答"),
    ("提问", "回答"),
)
ROLES: Final[Mapping[str, Literal["user", "assistant", "system"]]] = {
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "system": "system",
    "developer": "system",
}
NO_TOOLS: Final = "and the template of this model does not support tools. Leave this conversation out, or write the turn as plain text."


@dataclass(frozen=True)
class Columns:
    """The columns named in a recipe."""

    prompt: str = "content"
    """The column of the question."""
    response: str = "summary"
    """The column of the answer."""
    history: str | None = None
    """The column of the earlier turns, if any."""

    @property
    def is_default(self) -> bool:
        """Whether question and answer have their default names, so that other shapes are tried too."""
        return (self.prompt, self.response) == ("content", "summary")


@dataclass(frozen=True)
class RowShape:
    """The columns that make the samples of a row."""

    kind: Literal["named", "pair", "alpaca", "conversation"]
    """How the columns are read."""
    prompt: str
    """The column of the question; of a conversation, the column of its turns."""
    response: str = ""
    """The column of the answer; a conversation has none."""
    history: str | None = None
    """The column of the earlier turns if named in the recipe; every row must have it."""

    @property
    def optional_columns(self) -> tuple[str, ...]:
        """The columns that are read if present."""
        earlier = () if self.history else ("history",)
        return {"named": (), "pair": (*earlier, "system"), "alpaca": (*earlier, "system"), "conversation": ("system",)}[self.kind]

    @property
    def read_columns(self) -> tuple[str, ...]:
        """All columns that are read."""
        question = (self.prompt, "input") if self.kind == "alpaca" else (self.prompt,)
        return (*question, *(name for name in (self.response, self.history) if name), *self.optional_columns)

    def summary(self) -> str:
        """How the columns are read, as text."""
        if self.kind == "conversation":
            return f'"{self.prompt}" holds the turns of a conversation, each answer is a row'
        question = '"instruction" and "input" are the question' if self.kind == "alpaca" else f'"{self.prompt}" is the question'
        return f'{question}, "{self.response}" the answer' + (f', "{self.history}" the earlier turns' if self.history else "")


def detect_shape(row: Mapping[str, object], columns: Columns) -> RowShape:
    """The shape of a file by its first row: the named columns if present or not the default ones, else a known shape that fits.

    If nothing fits, the shape of the named columns, so that `samples_from_row` reports the missing ones.
    """
    named = RowShape("named", columns.prompt, columns.response, columns.history)
    if not columns.is_default or (columns.prompt in row and columns.response in row):
        return named
    return published_shape(row, columns.history) or named


def published_shape(row: Mapping[str, object], history: str | None = None) -> RowShape | None:
    """The first published shape that fits a row; None if none does."""
    for name in CONVERSATION_COLUMNS:
        if isinstance(_parse_list(row.get(name)), list):
            return RowShape("conversation", name)
    if {"instruction", "output"} <= row.keys():
        return RowShape("alpaca", "instruction", "output", history)
    for prompt, response in COLUMN_PAIRS:
        if prompt in row and response in row:
            return RowShape("pair", prompt, response, history)
    return None


def samples_from_row(row: object, shape: RowShape, location: str, *, tools: bool = False) -> list[Sample]:
    """The samples of a row: one, or for a conversation one for each answer, with the earlier turns as its history.

    `tools`: whether the template supports tools; otherwise tool calls and results are errors, and tool descriptions are ignored.
    Raises BadRowError for a bad row, also if `row` is a BadRowError.
    """
    if isinstance(row, BadRowError):
        raise row
    if not isinstance(row, dict):
        raise BadRowError(f"must be a JSON object with columns, got {describe_value(row)}.")
    if shape.kind == "conversation":
        return _conversation(row, shape.prompt, location, tools=tools)
    answer_knob = "response_column" if shape.kind == "named" else None
    if shape.kind == "alpaca":
        query = _instruction(row)
    else:
        query = non_empty_text(_column(row, shape.prompt, "prompt_column" if shape.kind == "named" else None), shape.prompt)
    answer = non_empty_text(label_as_text(_column(row, shape.response, answer_knob)), shape.response)
    if shape.history is not None:
        history = _history(_column(row, shape.history, "history_column"), shape.history)
    else:
        history = _history(row.get("history"), "history") if "history" in shape.optional_columns else None
    return [Sample(query, answer, history, location, _system(row) if "system" in shape.optional_columns else None)]


def _column(row: Mapping[str, object], name: str, knob: str | None) -> object:
    if name in row:
        return row[name]
    columns = ", ".join(map(quote, row)) or "none"
    by_lower_case = {key.lower(): key for key in row}
    close = difflib.get_close_matches(name.lower(), by_lower_case, n=1)
    hint = f" Did you mean {quote(by_lower_case[close[0]])}?" if close else ""
    if knob is None:
        raise BadRowError(f'there is no column "{name}", which the first row has; the columns are: {columns}.{hint}')
    if not hint and (known := published_shape(row)):
        hint = f" The row has a known shape ({known.summary()}): leave {knob} out to read it."
    raise BadRowError(f'there is no column "{name}", which {knob} names; the columns are: {columns}.{hint}')


def _instruction(row: Mapping[str, object]) -> str:
    """The question of an alpaca row: its instruction and, if any, its input on the next line."""
    parts = [row.get("instruction"), row.get("input")]
    texts = [valid_unicode(part, quote(name)) for part, name in zip(parts, ("instruction", "input"), strict=True) if isinstance(part, str)]
    for part, name in zip(parts, ("instruction", "input"), strict=True):
        if part is not None and not isinstance(part, str):
            raise BadRowError(f'"{name}" must be a text, got {describe_value(part)}.')
    query = "\n".join(text for text in texts if text.strip())
    return query or non_empty_text(_column(row, "instruction", None), "instruction")


def _system(row: Mapping[str, object]) -> str | None:
    value = row.get("system")
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    return non_empty_text(value, "system")


def _history(value: object, column: str) -> tuple[tuple[str, str], ...] | None:
    """The turns of a history; null and an empty table cell mean no history."""
    parsed = _parse_list(value)
    if parsed is None:
        return None
    if not isinstance(parsed, list):
        raise BadRowError(f'"{column}" must be a list of [question, answer] pairs, got {describe_value(value)}.')
    turns = []
    for number, turn in enumerate(parsed, start=1):
        match turn:
            case [str(question), str(answer)]:
                turns.append((valid_unicode(question, quote(column)), valid_unicode(answer, quote(column))))
            case _:
                raise BadRowError(f'turn {number} of "{column}" must be a [question, answer] pair of texts, got {describe_value(turn)}.')
    return tuple(turns)


def _parse_list(value: object) -> object:
    """The list in a table cell of JSON text; None for a blank text; any other value unchanged."""
    if not isinstance(value, str):
        return value
    if not value.strip():
        return None
    if value.lstrip().startswith("["):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def _conversation(row: Mapping[str, object], column: str, location: str, *, tools: bool) -> list[Sample]:
    turns = _parse_list(_column(row, column, None))
    if not isinstance(turns, list):
        raise BadRowError(f'"{column}" must be a list of turns, got {describe_value(row[column])}.')
    if tools and (offered_tools(row, turns) or any(isinstance(turn, dict) and is_tool_turn(turn) for turn in turns)):
        return _tool_conversation(row, turns, column, location)
    system, dialogue = _split_system(
        _system(row), [_Turn.parse(turn, number, column) for number, turn in enumerate(turns, start=1)], column
    )
    if not dialogue:
        raise BadRowError(f'"{column}" holds no question and no answer.')
    samples: list[Sample] = []
    history: tuple[tuple[str, str], ...] = ()
    for index, turn in enumerate(dialogue):
        expected = "assistant" if index % 2 else "user"
        if turn.role != expected:
            raise BadRowError(
                f'turn {turn.number} of "{column}" is by the {turn.role}, but user and assistant must take turns, the user first.'
            )
        if expected == "assistant":
            question = dialogue[index - 1].text
            if turn.learned:
                samples.append(Sample(question, turn.text, history or None, location, system))
            history = (*history, (question, turn.text))
    if len(dialogue) % 2:
        raise BadRowError(f'"{column}" ends with the user (turn {dialogue[-1].number}), so an answer is missing.')
    return samples


def _tool_conversation(row: Mapping[str, object], turns: Sequence[object], column: str, location: str) -> list[Sample]:
    """The samples of a conversation with tools: one for each answer and each tool call."""
    plain = [None if isinstance(turn, dict) and is_tool_turn(turn) else turn for turn in turns]
    parsed = [None if turn is None else _Turn.parse(turn, number, column) for number, turn in enumerate(plain, start=1)]
    system, _ = _split_system(_system(row), [turn for turn in parsed if turn is not None], column)
    tool_turns = [
        ToolTurn((Message("assistant" if turn.role == "assistant" else "user", turn.text),), turn.learned)
        if turn is not None
        else tool_turn(raw if isinstance(raw, dict) else {}, number, column)
        for number, (turn, raw) in enumerate(zip(parsed, turns, strict=True), start=1)
        if turn is None or turn.role != "system"
    ]
    return list(samples_from_tool_turns(tool_turns, system, offered_tools(row, turns), column, location))


@dataclass(frozen=True)
class _Turn:
    number: int
    role: Literal["user", "assistant", "system"]
    text: str
    learned: bool

    @classmethod
    def parse(cls, turn: object, number: int, column: str) -> "_Turn":
        """A turn in either form, role/content or from/value."""
        fields = turn if isinstance(turn, dict) else {}
        role = fields.get("role", fields.get("from"))
        if is_tool_turn(fields):
            raise BadRowError(f'turn {number} of "{column}" is a call or a result of a tool, {NO_TOOLS}')
        if not ({"role", "content"} <= fields.keys() or {"from", "value"} <= fields.keys()):
            raise BadRowError(
                f'turn {number} of "{column}" must have "role" and "content" (or "from" and "value"), got {describe_value(turn)}.'
            )
        role_key, text_key = ("role", "content") if "role" in fields else ("from", "value")
        if not isinstance(role, str) or role.lower() not in ROLES:
            allowed = ", ".join(ROLES)
            raise BadRowError(f'turn {number} of "{column}": "{role_key}" must be one of {allowed}, got {describe_value(role)}.')
        text = non_empty_text(_join_parts(fields[text_key]), f"{text_key} of turn {number}")
        return cls(number, ROLES[role.lower()], text, fields.get("loss") is not False and fields.get("weight") != 0)


def _join_parts(content: object) -> object:
    """The joined text of a content of parts, as in OpenAI's format."""
    if isinstance(content, list) and all(isinstance(part, dict) and isinstance(part.get("text"), str) for part in content):
        return "".join(part["text"] for part in content)
    return content


def _split_system(system: str | None, turns: Sequence[_Turn], column: str) -> tuple[str | None, Sequence[_Turn]]:
    """The system prompt, from a column or the first turn, and the other turns."""
    if turns and turns[0].role == "system":
        if system is not None and system != turns[0].text:
            raise BadRowError(f'"system" and turn 1 of "{column}" differ: {quote(system)} and {quote(turns[0].text)}.')
        system, turns = turns[0].text, turns[1:]
    for turn in turns:
        if turn.role == "system":
            raise BadRowError(f'turn {turn.number} of "{column}" is by the system, which may only come first.')
    return system, turns
