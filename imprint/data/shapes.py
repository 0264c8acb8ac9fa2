"""Samples from rows: named columns if the first row has them, else the shapes of published data sets.

Sources of the shapes: README of ChatGLM-6B's ptuning (content/summary, prompt/response/history), Stanford Alpaca
(instruction/input/output), ChatGLM-Tuning (context/target), and the conversations of `turns.py`.
"""

import ast
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Final, Literal

from imprint.data.column_guess import HISTORY, PROMPT, RESPONSE, guessed_columns, knob_words
from imprint.data.long_rows import refuse_long_row
from imprint.data.other_layouts import other_layout
from imprint.data.parsed_turns import ParsedTurn, paired, split_system
from imprint.data.readers.bad_rows import (
    BadRowError,
    MissingColumnError,
    is_missing,
    label_as_text,
    must_be,
    non_empty_text,
    not_an_object,
    quote,
    quote_names,
    turn_of,
    valid_unicode,
)
from imprint.data.sample import Sample
from imprint.data.tool_turns import (
    TurnMessages,
    is_tool_turn,
    offered_tools,
    samples_from_turn_messages,
    tool_turn,
    unread_keys,
)
from imprint.data.turns import (
    ROLES,
    is_message,
    is_pair,
    is_turn,
    numbered_turns,
    refuse_undesirable,
    speaker,
    turns_from_texts,
    turns_of_lists,
)
from imprint.messages import SIMILAR, Bilingual, closest, did_you_mean
from imprint.templates import Message

CONVERSATION_COLUMNS: Final = ("messages", "conversations", "conversation")
"""Columns of a list of turns."""
PARAGRAPH: Final = "paragraph"
"""Another one, if its list holds turns."""
SYSTEM_PROMPT: Final = "system_prompt"
"""Another name of the column `system`, as in OpenOrca."""
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
    ("question", "response"),
    ("query", "answer"),
    ("prompt", "answer"),
    ("prompt", "output"),
    ("user", "assistant"),
    ("问题", "答案"),
    ("问题", "回答"),
    ("提问", "回答"),
)
SHORT: Final = 3
SIMILAR_SHORT: Final = 0.5
"""SIMILAR for names of at most SHORT characters: one of two is the same."""
MAX_COMPARED: Final = 1000
"""Number of columns among which a similar name is looked for."""
MAX_TURNS: Final = 1000
"""Maximum number of turns of a conversation: each answer is a sample with all turns before it."""
MISSING_CELLS: Final = ("none", "null", "nan")
"""How a missing value is printed in the cell of a list."""
MAX_LITERAL: Final = 100_000
"""Maximum characters of a list that Python has printed."""


@dataclass(frozen=True)
class Columns:
    """The columns named in a recipe."""

    prompt: str = "content"
    """The column of the question."""
    response: str = "summary"
    """The column of the answer."""
    history: str | None = None
    """The column of the earlier turns, if any."""
    knob_prefix: str = ""
    """What is typed before the names of the knobs that name them."""

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
    """Name of an optional column -> its name in the first row, if that differs."""
    knob_prefix: str = ""
    """What is typed before the names of the knobs that name the columns."""

    @property
    def optional_columns(self) -> tuple[str, ...]:
        """The columns that are read if present."""
        earlier = () if self.history else (self.name_of("history"),)
        return {
            "named": (),
            "pair": (*earlier, self.name_of("system")),
            "alpaca": (*earlier, self.name_of("system")),
            "conversation": (self.name_of("system"), self.name_of("tools")),
        }[self.kind]

    def name_of(self, column: str) -> str:
        """The name of an optional column in this file."""
        return self.names.get(column, column)

    @property
    def read_columns(self) -> tuple[str, ...]:
        """All columns that are read."""
        question = (self.prompt, self.name_of("input")) if self.kind == "alpaca" else (self.prompt,)
        return (*question, *(name for name in (self.response, self.history) if name), *self.optional_columns)

    def summary(self) -> Bilingual:
        """How the columns are read."""
        if self.kind == "conversation":
            english = f'"{self.prompt}" holds the turns of a conversation, each answer is learned'
            return Bilingual(english, f'"{self.prompt}" 是对话的各轮，每个回答都学')
        more = self.name_of("input")
        question = f'"{self.prompt}" and "{more}" are the question' if self.kind == "alpaca" else f'"{self.prompt}" is the question'
        chinese_question = f'"{self.prompt}" 和 "{more}"' if self.kind == "alpaca" else f'"{self.prompt}"'
        english, chinese = (f', "{self.history}" the earlier turns', f'，"{self.history}" 是此前各轮') if self.history else ("", "")
        return Bilingual(
            f'{question}, "{self.response}" the answer{english}', f'{chinese_question} 是提问，"{self.response}" 是回答{chinese}'
        )


def detect_shape(row: Mapping[str, object], columns: Columns) -> RowShape:
    """The shape of a file by its first row: the named columns if present or not the default ones, else a known shape that fits.

    Known names may be written in another case. If nothing fits, the shape of the named columns, so that `samples_from_row` reports the
    missing ones.
    """
    named = RowShape("named", columns.prompt, columns.response, columns.history, knob_prefix=columns.knob_prefix)
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
    names = {name: actual[name] for name in ("history", "system", "input", "tools") if actual.get(name, name) != name}
    if SYSTEM_PROMPT in actual and "system" not in actual:
        names["system"] = actual[SYSTEM_PROMPT]
    for name in (*CONVERSATION_COLUMNS, PARAGRAPH):
        turns = turns_of_lists(_parse_list(row.get(actual.get(name, "")), strict=False))
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
        raise not_an_object(row)
    try:
        samples = _samples_from_object(row, shape, location, tools=tools)
    except BadRowError as error:
        if error.is_empty or (layout := other_layout(row, shape.knob_prefix)) is None:
            raise
        raise type(error)(layout) from error
    refuse_long_row(samples)
    return samples


def _samples_from_object(row: dict[str, object], shape: RowShape, location: str, *, tools: bool) -> list[Sample]:
    if shape.kind != "named":
        refuse_undesirable(row)
    if shape.kind == "conversation":
        return _conversation(row, shape, location, tools=tools)
    if not shape.known:
        _refuse_unknown(row, shape)
    query = _instruction(row, shape) if shape.kind == "alpaca" else non_empty_text(_column(row, shape, PROMPT), shape.prompt)
    answer = non_empty_text(label_as_text(_column(row, shape, RESPONSE)), shape.response)
    system = _system(row, shape.name_of("system")) if shape.kind != "named" else None
    if shape.history is not None:
        system, history = _history(_column(row, shape, HISTORY), shape.history, system)
    elif shape.kind != "named":
        earlier = shape.name_of("history")
        system, history = _history(row.get(earlier), earlier, system)
    else:
        history = None
    return [Sample(query, answer, history, location, system)]


def _refuse_unknown(row: Mapping[str, object], shape: RowShape) -> None:
    """Raise BadRowError if neither of two columns is there that the recipe has not named."""
    if shape.prompt not in row and shape.response not in row:
        columns, guess = quote_names(row), guessed_columns(row, shape.prompt, shape.response, shape.knob_prefix)
        knobs = knob_words(guess or {f"{shape.knob_prefix}{knob}": "..." for knob in (PROMPT, RESPONSE)})
        english, chinese = (" (a guess from the first row: see whether it is right).", "（按首行猜测，请核对）") if guess else ("", "")
        raise MissingColumnError(
            Bilingual(
                f"has no question and no answer under a known name; the columns are: {columns.english}. Name those of both: "
                f"{knobs}{english}",
                f"没有已知名称的提问列和回答列；现有列：{columns.chinese}。请用 {knobs} 指定{chinese}。",
            ),
            guess,
        )


def _column(row: Mapping[str, object], shape: RowShape, role: str) -> object:
    """The value of the column of a question, an answer or the earlier turns, named by the knob `role`."""
    name = {PROMPT: shape.prompt, RESPONSE: shape.response, HISTORY: shape.history or ""}[role]
    knob = f"{shape.knob_prefix}{role}" if shape.kind == "named" or role == HISTORY else None
    if name in row:
        return row[name]
    columns = quote_names(row)
    close = closest(name, islice(row, MAX_COMPARED), cutoff=SIMILAR_SHORT if len(name) <= SHORT else SIMILAR)
    guess = guessed_columns(row, shape.prompt, shape.response, shape.knob_prefix) if knob is not None and role != HISTORY else {}
    hint, chinese = "", ""
    if close:
        meant = did_you_mean([quote(close[0])])
        hint, chinese = f" {meant.english.rstrip()}", meant.chinese
    elif knob is not None and (known := published_shape(row)):
        hint, chinese = (
            f" The row has a known shape ({known.summary().english}): leave {knob} out to read it.",
            f"这是已知的格式：去掉 {knob} 即可读取。",
        )
    elif guess:
        words = knob_words(guess)
        hint, chinese = (
            f" Perhaps {words} (a guess from the first row: see whether it is right).",
            f"也许是 {words}（按首行猜测，请核对）。",
        )
    which, whose = ("the first row has", "首行有的") if knob is None else (f"{knob} names", f" {knob} 指定的")
    raise MissingColumnError(
        Bilingual(
            f"there is no column {quote(name)}, which {which}; the columns are: {columns.english}.{hint}",
            f"缺少{whose} {quote(name)} 列；现有列：{columns.chinese}。{chinese}",
        ),
        guess,
    )


def _instruction(row: Mapping[str, object], shape: RowShape) -> str:
    """The question of an alpaca row: its instruction and, if any, its input on the next line."""
    names = (shape.prompt, shape.name_of("input"))
    parts = [None if is_missing(row.get(name)) else row[name] for name in names]
    texts = [valid_unicode(part, name) for part, name in zip(parts, names, strict=True) if isinstance(part, str)]
    for part, name in zip(parts, names, strict=True):
        if part is not None and not isinstance(part, str):
            raise must_be(name, "a text", "文本", part)
    query = "\n".join(text for text in texts if text.strip())
    return query or non_empty_text(_column(row, shape, PROMPT), shape.prompt)


def _system(row: Mapping[str, object], column: str) -> str | None:
    value = row.get(column)
    if is_missing(value) or (isinstance(value, str) and not value.strip()):
        return None
    return non_empty_text(value, column)


def _history(value: object, column: str, system: str | None) -> tuple[str | None, tuple[tuple[str, str], ...] | None]:
    """The system prompt, which the first turn of a history may be, and its turns; null and an empty table cell mean no history."""
    parsed = _parse_list(value)
    if is_missing(parsed) or (isinstance(parsed, str) and parsed.strip().lower() in MISSING_CELLS):
        return system, None
    if not isinstance(parsed, list):
        raise must_be(column, "a list of [question, answer] pairs", " [提问, 回答] 的列表", value)
    if parsed and all(is_message(turn) or is_pair(turn) for turn in parsed):
        system, dialogue = split_system(system, [ParsedTurn.parse(turn, number, column) for number, turn in numbered_turns(parsed)], column)
        return system, tuple((question.text, answer.text) for question, answer in paired(dialogue, column))
    turns = []
    for number, turn in enumerate(parsed, start=1):
        match turn:
            case [str(question), str(answer)]:
                turns.append((valid_unicode(question, column), valid_unicode(answer, column)))
            case _:
                raise must_be(turn_of(number, column), "a [question, answer] pair of texts", "一对文本 [提问, 回答]", turn)
    return system, tuple(turns)


def _parse_list(value: object, *, strict: bool = True) -> object:
    """The list in a table cell, of JSON or as Python prints it; None for a blank text; any other value unchanged.

    Raises BadRowError for a repeated key in it, of whose values one would be lost, if `strict`.
    """
    if not isinstance(value, str):
        return value
    if not value.strip():
        return None
    if value.lstrip().startswith(("[", "(")):
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
        name = quote(next(key for key in counts if counts[key] > 1))
        raise BadRowError(
            Bilingual(f"has {name} twice in one object of a cell. Leave one out.", f"单元格的同一个对象中有两个 {name}：请去掉一个。")
        )
    return value


def _turn_list(value: object, *, strict: bool = True) -> object:
    """The turns in a column, also as text or as an object of lists; any other value unchanged. `strict`: see `_parse_list`."""
    turns = turns_of_lists(_parse_list(value, strict=strict))
    return turns_from_texts(turns) if isinstance(turns, list) else turns


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
    return list(value) if isinstance(value, list | tuple) else text


def _conversation(row: Mapping[str, object], shape: RowShape, location: str, *, tools: bool) -> list[Sample]:
    column = shape.prompt
    parsed = _turn_list(_column(row, shape, PROMPT))
    if not isinstance(parsed, list):
        raise must_be(column, "a list of turns", "对话各轮的列表", row[column])
    if len(parsed) > MAX_TURNS:
        raise BadRowError(
            Bilingual(
                f'"{column}" has {len(parsed):,} turns, more than {MAX_TURNS:,}. Divide it into several rows.',
                f"{quote(column)} 有 {len(parsed):,} 轮，超过 {MAX_TURNS:,} 轮：请拆成几行。",
            )
        )
    numbered = list(numbered_turns(parsed))
    turns = [turn for _number, turn in numbered]
    offered = offered_tools(row.get(shape.name_of("tools")), turns) if tools else ()
    if tools and (offered or any(isinstance(turn, dict) and is_tool_turn(turn) for turn in turns)):
        return _tool_conversation(row, turns, offered, shape, location)
    system, dialogue = split_system(
        _system(row, shape.name_of("system")), [ParsedTurn.parse(turn, number, column) for number, turn in numbered], column
    )
    if not dialogue:
        raise BadRowError(Bilingual(f'"{column}" holds no question and no answer.', f"{quote(column)} 中没有提问和回答。"))
    pairs = paired(dialogue, column)
    history = [(question.text, answer.text) for question, answer in pairs]
    return [
        Sample(*history[index], tuple(history[:index]) or None, location, system)
        for index, (_question, answer) in enumerate(pairs)
        if answer.learned
    ]


def _tool_conversation(
    row: Mapping[str, object], turns: Sequence[object], offered: tuple[Mapping[str, object] | str, ...], shape: RowShape, location: str
) -> list[Sample]:
    """The samples of a conversation with tools: one for each answer and each tool call."""
    column = shape.prompt
    plain = [None if isinstance(turn, dict) and is_tool_turn(turn) else turn for turn in turns]
    parsed = [None if turn is None else ParsedTurn.parse(turn, number, column) for number, turn in enumerate(plain, start=1)]
    system, _ = split_system(_system(row, shape.name_of("system")), [turn for turn in parsed if turn is not None], column)
    all_turns = [
        TurnMessages((Message("assistant" if turn.role == "assistant" else "user", turn.text),), turn.learned)
        if turn is not None
        else tool_turn(raw if isinstance(raw, dict) else {}, number, column)
        for number, (turn, raw) in enumerate(zip(parsed, turns, strict=True), start=1)
        if turn is None or turn.role != "system"
    ]
    return list(samples_from_turn_messages(all_turns, system, offered, column, location))
