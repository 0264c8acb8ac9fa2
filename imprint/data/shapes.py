"""Samples from rows: named columns if the first row has them, else the shapes of published data sets.

Sources of the shapes: README of ChatGLM-6B's ptuning (content/summary, prompt/response/history), Stanford Alpaca
(instruction/input/output), ChatGLM-Tuning (context/target), and the conversations of `turns.py`.
"""

import ast
import difflib
import itertools
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Final, Literal

from imprint.data.readers.bad_rows import (
    BadRowError,
    describe_value,
    is_missing,
    label_as_text,
    non_empty_text,
    quote,
    quote_names,
    valid_unicode,
)
from imprint.data.sample import Sample
from imprint.data.tool_turns import (
    ToolTurn,
    is_tool_turn,
    join_parts,
    offered_tools,
    samples_from_tool_turns,
    spoken,
    tool_turn,
    unread_keys,
)
from imprint.data.turns import ROLES, SPEAKER_KEYS, TEXT_KEYS, is_learned, is_turn, numbered_turns, refuse_rejected, speaker, turns_of_lists
from imprint.templates import Message

CONVERSATION_COLUMNS: Final = ("messages", "conversations", "conversation")
"""Columns of a list of turns."""
PARAGRAPH: Final = "paragraph"
"""Another one, if its list holds turns."""
COLUMN_PAIRS: Final = (
    ("prompt", "response"),
    ("prompt", "completion"),
    ("query", "response"),
    ("question", "answer"),
    ("context", "target"),
    ("input", "target"),
    ("input", "output"),
    ("human", "assistant"),
    ("q", "a"),
    ("问题", "答案"),
    ("问题", "回答"),
    ("提问", "回答"),
)
MAX_COMPARED: Final = 1000
"""Number of columns among which a similar name is looked for."""
MAX_TURNS: Final = 1000
"""Maximum number of turns of a conversation: each answer is a sample with all turns before it."""
MAX_LITERAL: Final = 100_000
"""Maximum characters of a list that Python has printed."""
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
    known: bool = True
    """Whether the first row has these columns, or the recipe names them."""
    names: Mapping[str, str] = field(default_factory=dict)
    """Name of an optional column -> the same in the case of the first row, if that differs."""

    @property
    def optional_columns(self) -> tuple[str, ...]:
        """The columns that are read if present."""
        earlier = () if self.history else (self.name_of("history"),)
        return {
            "named": (),
            "pair": (*earlier, self.name_of("system")),
            "alpaca": (*earlier, self.name_of("system")),
            "conversation": (self.name_of("system"), "tools"),
        }[self.kind]

    def name_of(self, column: str) -> str:
        """The name of an optional column in this file."""
        return self.names.get(column, column)

    @property
    def read_columns(self) -> tuple[str, ...]:
        """All columns that are read."""
        question = (self.prompt, self.name_of("input")) if self.kind == "alpaca" else (self.prompt,)
        return (*question, *(name for name in (self.response, self.history) if name), *self.optional_columns)

    def summary(self) -> str:
        """How the columns are read, as text."""
        if self.kind == "conversation":
            return f'"{self.prompt}" holds the turns of a conversation, each answer is a row'
        more = self.name_of("input")
        question = f'"{self.prompt}" and "{more}" are the question' if self.kind == "alpaca" else f'"{self.prompt}" is the question'
        return f'{question}, "{self.response}" the answer' + (f', "{self.history}" the earlier turns' if self.history else "")


def detect_shape(row: Mapping[str, object], columns: Columns) -> RowShape:
    """The shape of a file by its first row: the named columns if present or not the default ones, else a known shape that fits.

    Known names may be written in another case. If nothing fits, the shape of the named columns, so that `samples_from_row` reports the
    missing ones.
    """
    named = RowShape("named", columns.prompt, columns.response, columns.history)
    if not columns.is_default or (columns.prompt in row and columns.response in row):
        return named
    if shape := published_shape(row, columns.history):
        return shape
    actual = _by_case(row)
    if columns.prompt in actual and columns.response in actual:
        return replace(named, prompt=actual[columns.prompt], response=actual[columns.response])
    return replace(named, known=False)


def published_shape(row: Mapping[str, object], history: str | None = None) -> RowShape | None:
    """The first published shape that fits a row; None if none does."""
    actual = _by_case(row)
    names = {name: actual[name] for name in ("history", "system", "input") if actual.get(name, name) != name}
    for name in (*CONVERSATION_COLUMNS, PARAGRAPH):
        turns = _turn_list(row.get(actual.get(name, "")), strict=False)
        if isinstance(turns, list) and (name != PARAGRAPH or any(is_turn(turn) for turn in turns)):
            return RowShape("conversation", actual[name], names=names)
    if "instruction" in actual and "output" in actual:
        return RowShape("alpaca", actual["instruction"], actual["output"], history, names=names)
    if "instruction" in actual and "response" in actual:
        more = {"input": actual["context"]} if "context" in actual and "input" not in actual else {}
        return RowShape("alpaca", actual["instruction"], actual["response"], history, names=names | more)
    for prompt, response in COLUMN_PAIRS:
        if prompt in actual and response in actual:
            return RowShape("pair", actual[prompt], actual[response], history, names=names)
    return None


def _by_case(row: Mapping[str, object]) -> dict[str, str]:
    """Column in lower case -> its name; names that are in lower case win, and of two other ones none counts."""
    names: dict[str, str] = {}
    for name in row:
        lower = name.lower()
        names[lower] = name if lower not in names else lower
    return {lower: name for lower, name in names.items() if name in row}


def samples_from_row(row: object, shape: RowShape, location: str, *, tools: bool = False) -> list[Sample]:
    """The samples of a row: one, or for a conversation one for each answer, with the earlier turns as its history.

    `tools`: whether the template supports tools; otherwise tool calls and results are errors, and tool descriptions are ignored.
    Raises BadRowError for a bad row, also if `row` is a BadRowError.
    """
    if isinstance(row, BadRowError):
        raise row
    if not isinstance(row, dict):
        raise BadRowError(f"must be a JSON object with columns, got {describe_value(row)}.")
    if shape.kind != "named":
        refuse_rejected(row)
    if shape.kind == "conversation":
        return _conversation(row, shape, location, tools=tools)
    if not shape.known:
        _refuse_unknown(row, shape)
    answer_knob = "response_column" if shape.kind == "named" else None
    if shape.kind == "alpaca":
        query = _instruction(row, shape)
    else:
        query = non_empty_text(_column(row, shape.prompt, "prompt_column" if shape.kind == "named" else None), shape.prompt)
    answer = non_empty_text(label_as_text(_column(row, shape.response, answer_knob)), shape.response)
    if shape.history is not None:
        history = _history(_column(row, shape.history, "history_column"), shape.history)
    else:
        earlier = shape.name_of("history")
        history = _history(row.get(earlier), earlier) if shape.kind != "named" else None
    return [Sample(query, answer, history, location, _system(row, shape.name_of("system")) if shape.kind != "named" else None)]


def _refuse_unknown(row: Mapping[str, object], shape: RowShape) -> None:
    """Raise BadRowError if neither of two columns is there that the recipe has not named."""
    if shape.prompt not in row and shape.response not in row:
        raise BadRowError(
            f"has no question and no answer under a known name; the columns are: {quote_names(row)}. Name those of both: prompt_column=... "
            "response_column=..."
        )


def _column(row: Mapping[str, object], name: str, knob: str | None) -> object:
    if name in row:
        return row[name]
    columns = quote_names(row)
    by_lower_case = {key.lower(): key for key in islice(row, MAX_COMPARED)}
    close = difflib.get_close_matches(name.lower(), by_lower_case, n=1)
    hint = f" Did you mean {quote(by_lower_case[close[0]])}?" if close else ""
    if knob is None:
        raise BadRowError(f'there is no column "{name}", which the first row has; the columns are: {columns}.{hint}')
    if not hint and (known := published_shape(row)):
        hint = f" The row has a known shape ({known.summary()}): leave {knob} out to read it."
    raise BadRowError(f'there is no column "{name}", which {knob} names; the columns are: {columns}.{hint}')


def _instruction(row: Mapping[str, object], shape: RowShape) -> str:
    """The question of an alpaca row: its instruction and, if any, its input on the next line."""
    names = (shape.prompt, shape.name_of("input"))
    parts = [None if is_missing(row.get(name)) else row[name] for name in names]
    texts = [valid_unicode(part, quote(name)) for part, name in zip(parts, names, strict=True) if isinstance(part, str)]
    for part, name in zip(parts, names, strict=True):
        if part is not None and not isinstance(part, str):
            raise BadRowError(f'"{name}" must be a text, got {describe_value(part)}.')
    query = "\n".join(text for text in texts if text.strip())
    return query or non_empty_text(_column(row, shape.prompt, None), shape.prompt)


def _system(row: Mapping[str, object], column: str) -> str | None:
    value = row.get(column)
    if is_missing(value) or (isinstance(value, str) and not value.strip()):
        return None
    return non_empty_text(value, column)


def _history(value: object, column: str) -> tuple[tuple[str, str], ...] | None:
    """The turns of a history; null and an empty table cell mean no history."""
    parsed = _parse_list(value)
    if is_missing(parsed):
        return None
    if not isinstance(parsed, list):
        raise BadRowError(f'"{column}" must be a list of [question, answer] pairs, got {describe_value(value)}.')
    if parsed and all(is_turn(turn) for turn in parsed):
        return _paired([_Turn.parse(turn, number, column) for number, turn in numbered_turns(parsed)], column)
    turns = []
    for number, turn in enumerate(parsed, start=1):
        match turn:
            case [str(question), str(answer)]:
                turns.append((valid_unicode(question, quote(column)), valid_unicode(answer, quote(column))))
            case _:
                raise BadRowError(f'turn {number} of "{column}" must be a [question, answer] pair of texts, got {describe_value(turn)}.')
    return tuple(turns)


def _paired(turns: Sequence["_Turn"], column: str) -> tuple[tuple[str, str], ...]:
    """The pairs of a history of turns of its user and its assistant."""
    for turn, role in zip(turns, itertools.cycle(("user", "assistant")), strict=False):
        if turn.role != role:
            raise BadRowError(f'turn {turn.number} of "{column}" is by the {turn.role}, but user and assistant must take turns.')
    if len(turns) % 2:
        raise BadRowError(f'"{column}" ends with the user (turn {turns[-1].number}), so an answer is missing.')
    return tuple((question.text, answer.text) for question, answer in zip(turns[::2], turns[1::2], strict=True))


def _parse_list(value: object, *, strict: bool = True) -> object:
    """The list in a table cell, of JSON or as Python prints it; None for a blank text; any other value unchanged.

    Raises BadRowError for a repeated key in it, of whose values one would be lost, if `strict`.
    """
    if not isinstance(value, str):
        return value
    if not value.strip():
        return None
    if value.lstrip().startswith("["):
        try:
            return json.loads(value, object_pairs_hook=_unique_keys if strict else None)
        except BadRowError:
            raise
        except (ValueError, RecursionError):
            return _python_list(value)
    return value


def _unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """The object of a cell. Raises BadRowError for a repeated key."""
    value = dict(pairs)
    if len(value) < len(pairs):
        counts = Counter(key for key, _value in pairs)
        raise BadRowError(f"has {quote(next(key for key in counts if counts[key] > 1))} twice in one object of a cell. Leave one out.")
    return value


def _turn_list(value: object, *, strict: bool = True) -> object:
    """The turns in a column, also as text or as an object of lists; any other value unchanged. `strict`: see `_parse_list`."""
    return turns_of_lists(_parse_list(value, strict=strict))


def with_last_answer(row: Mapping[str, object], shape: RowShape, answer: str) -> Mapping[str, object]:
    """A conversation whose last turn is a question with this answer to it; any other row unchanged."""
    turns = _turn_list(row.get(shape.prompt), strict=False)
    last = turns[-1] if isinstance(turns, list) and turns else None
    if not isinstance(last, dict) or ROLES.get(str(speaker(last)).lower()) != "user":
        return row
    assert isinstance(turns, list)
    return {**row, shape.prompt: [*turns, {"role": "assistant", "content": answer}]}


def unread_turn_keys(row: Mapping[str, object], shape: RowShape) -> list[str]:
    """The keys of the turns of a conversation that are not read, though they have a value."""
    turns = _turn_list(row.get(shape.prompt), strict=False) if shape.kind == "conversation" else None
    keys = [key for turn in turns if isinstance(turn, dict) for key in unread_keys(turn)] if isinstance(turns, list) else []
    return list(dict.fromkeys(keys))


def _python_list(text: str) -> object:
    """The list that Python has printed as this text, such as pandas in a cell; the text if it is none."""
    if len(text) > MAX_LITERAL:
        return text
    try:
        value: object = ast.literal_eval(text.strip())
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return text
    return value if isinstance(value, list) else text


def _conversation(row: Mapping[str, object], shape: RowShape, location: str, *, tools: bool) -> list[Sample]:
    column = shape.prompt
    parsed = _turn_list(_column(row, column, None))
    if not isinstance(parsed, list):
        raise BadRowError(f'"{column}" must be a list of turns, got {describe_value(row[column])}.')
    if len(parsed) > MAX_TURNS:
        raise BadRowError(f'"{column}" has {len(parsed):,} turns, more than {MAX_TURNS:,}. Divide it into several rows.')
    numbered = list(numbered_turns(parsed))
    turns = [turn for _number, turn in numbered]
    if tools and (offered_tools(row, turns) or any(isinstance(turn, dict) and is_tool_turn(turn) for turn in turns)):
        return _tool_conversation(row, turns, shape, location)
    system, dialogue = _split_system(
        _system(row, shape.name_of("system")), [_Turn.parse(turn, number, column) for number, turn in numbered], column
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


def _tool_conversation(row: Mapping[str, object], turns: Sequence[object], shape: RowShape, location: str) -> list[Sample]:
    """The samples of a conversation with tools: one for each answer and each tool call."""
    column = shape.prompt
    plain = [None if isinstance(turn, dict) and is_tool_turn(turn) else turn for turn in turns]
    parsed = [None if turn is None else _Turn.parse(turn, number, column) for number, turn in enumerate(plain, start=1)]
    system, _ = _split_system(_system(row, shape.name_of("system")), [turn for turn in parsed if turn is not None], column)
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
        if is_tool_turn(fields):
            raise BadRowError(f'turn {number} of "{column}" is a call or a result of a tool, {NO_TOOLS}')
        role_key = "role" if "role" in fields else "from" if "from" in fields else ""
        text_key = "content" if "content" in fields else "value" if "value" in fields else ""
        if len(fields) > len(SPEAKER_KEYS):
            _refuse_two_meanings(fields, f'turn {number} of "{column}"')
        if not role_key or not text_key:
            raise BadRowError(
                f'turn {number} of "{column}" must have "role" and "content" (or "from" and "value"), got {describe_value(turn)}.'
            )
        role = fields[role_key]
        if not isinstance(role, str) or role.lower() not in ROLES:
            allowed = ", ".join(ROLES)
            raise BadRowError(f'turn {number} of "{column}": "{role_key}" must be one of {allowed}, got {describe_value(role)}.')
        subject = f'turn {number} of "{column}"'
        content = spoken(fields, fields[text_key], subject) if ROLES[role.lower()] == "assistant" else join_parts(fields[text_key])
        empty = ROLES[role.lower()] == "system" and (content is None or (isinstance(content, str) and not content.strip()))
        text = "" if empty else non_empty_text(content, f"{text_key} of turn {number}")
        return cls(number, ROLES[role.lower()], text, ROLES[role.lower()] != "assistant" or is_learned(fields, subject))


def _refuse_two_meanings(turn: Mapping[str, object], subject: str) -> None:
    """Raise BadRowError for a turn with two speakers or two texts that differ."""
    for keys in (SPEAKER_KEYS, TEXT_KEYS):
        values = [turn[key] for key in keys if turn.get(key) is not None]
        if len(values) > 1:
            first, second = (ROLES.get(value.lower(), value) if isinstance(value, str) else value for value in values)
            if first != second:
                raise BadRowError(f'{subject} has both "{keys[0]}" and "{keys[1]}", which differ. Leave one out.')


def _split_system(system: str | None, turns: Sequence[_Turn], column: str) -> tuple[str | None, Sequence[_Turn]]:
    """The system prompt, from a column or the first turn, and the other turns."""
    if turns and turns[0].role == "system":
        if system is not None and turns[0].text not in ("", system):
            raise BadRowError(f'"system" and turn 1 of "{column}" differ: {quote(system)} and {quote(turns[0].text)}.')
        system, turns = turns[0].text or system, turns[1:]
    for turn in turns:
        if turn.role == "system":
            raise BadRowError(f'turn {turn.number} of "{column}" is by the system, which may only come first.')
    return system, turns
