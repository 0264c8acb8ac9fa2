import json
from typing import Any

import pytest

from imprint.data.readers.bad_rows import BadRowError
from imprint.data.sample import Sample
from imprint.data.shapes import Columns, detect_shape, samples_from_row
from imprint.data.turns import ROLES
from imprint.messages import Bilingual

TOOL_TURN = (
    'turn 2 of "messages" is a call or a result of a tool, and the template of this model does not support tools. '
    "Leave this conversation out, or write the turn as plain text."
)


def read(row: dict[str, Any], columns: Columns | None = None) -> list[Sample]:
    return samples_from_row(row, detect_shape(row, columns or Columns()), "f:1")


def complaint(row: object, first: dict[str, object] | None = None, columns: Columns | None = None) -> str:
    """What is said about a row of a file whose first row is `first`."""
    with pytest.raises(BadRowError) as error:
        samples_from_row(row, detect_shape(first or (row if isinstance(row, dict) else {}), columns or Columns()), "f:1")
    return str(error.value)


def spoken(*turns: str) -> list[dict[str, str]]:
    """Turns such as "user: hello"."""
    return [{"role": role, "content": text} for role, text in (turn.split(": ", 1) for turn in turns)]


@pytest.mark.parametrize(
    ("prompt", "response"),
    [
        ("content", "summary"),
        ("prompt", "response"),
        ("prompt", "completion"),
        ("query", "response"),
        ("question", "answer"),
        ("context", "target"),
        ("input", "target"),
        ("input", "output"),
        ("human", "assistant"),
        ("q", "a"),
        ("instruction", "response"),
        ("Question", "Answer"),
        ("PROMPT", "Response"),
        ("Content", "Summary"),
        ("Instruction", "Output"),
        ("问题", "答案"),
        ("问题", "回答"),
        ("提问", "回答"),
        ("instruction", "output"),
        ("question", "response"),
        ("query", "answer"),
        ("prompt", "answer"),
        ("prompt", "output"),
        ("user", "assistant"),
    ],
)
def test_a_pair_is_read_under_the_names_in_which_it_is_published(prompt: str, response: str) -> None:
    assert read({prompt: "问", response: "答", "id": 7}) == [Sample("问", "答", None, "f:1")]


def test_named_columns_win_over_every_shape() -> None:
    row = {"content": "a", "summary": "b", "prompt": "c", "response": "d", "messages": []}

    assert read(row) == [Sample("a", "b", None, "f:1")]
    assert read(row, Columns("prompt", "summary")) == [Sample("c", "b", None, "f:1")]


def test_history_and_system_of_a_known_shape_are_read_where_they_are() -> None:
    row = {"prompt": "q", "response": "a", "history": [["x", "y"]], "system": "s"}

    assert read(row) == [Sample("q", "a", (("x", "y"),), "f:1", "s")]
    assert read(row | {"history": [], "system": " "}) == [Sample("q", "a", (), "f:1")]
    assert read(row | {"history": None, "system": None}) == [Sample("q", "a", None, "f:1")]


def test_a_history_in_a_cell_of_a_table_is_json_text() -> None:
    row = {"prompt": "q", "response": "a", "history": '[["x", "y"]]'}

    assert read(row)[0].history == (("x", "y"),)
    assert read(row | {"history": "  "})[0].history is None
    assert complaint(row | {"history": "[oops"}) == '"history" must be a list of [question, answer] pairs, got a string ("[oops").'


def test_a_history_column_that_is_named_must_be_there_in_every_row() -> None:
    columns = Columns(history="turns")

    assert read({"prompt": "q", "response": "a", "turns": [["x", "y"]]}, columns)[0].history == (("x", "y"),)
    assert complaint({"prompt": "q", "response": "a"}, columns=columns) == (
        'there is no column "turns", which history_column names; the columns are: "prompt", "response". '
        'The row has a known shape ("prompt" is the question, "response" the answer): leave history_column out to read it.'
    )


@pytest.mark.parametrize(
    ("instruction", "more", "query"),
    [("翻译", "你好", "翻译\n你好"), ("翻译", "", "翻译"), ("翻译", None, "翻译"), ("", "你好", "你好")],
)
def test_an_alpaca_question_is_its_instruction_with_its_input_below(instruction: str, more: str | None, query: str) -> None:
    assert read({"instruction": instruction, "input": more, "output": "hello"}) == [Sample(query, "hello", None, "f:1")]


def test_an_alpaca_row_without_a_question_is_reported() -> None:
    assert complaint({"instruction": "", "input": " ", "output": "a"}) == '"instruction" must not be empty, got a string ("").'
    assert complaint({"instruction": "q", "input": 7, "output": "a"}) == '"input" must be a text, got a number (7).'


def test_a_conversation_is_a_sample_for_each_answer_with_the_turns_before_it() -> None:
    turns = spoken("system: s", "user: q1", "assistant: a1", "user: q2", "assistant: a2")

    expected = [Sample("q1", "a1", None, "f:1", "s"), Sample("q2", "a2", (("q1", "a1"),), "f:1", "s")]

    assert read({"messages": turns}) == expected
    assert read({"conversations": turns, "tools": []}) == expected
    assert read({"conversations": turns[1:], "system": "s"}) == expected
    assert read({"messages": json.dumps(turns)}) == expected


def test_sharegpt_says_from_and_value() -> None:
    turns = [{"from": "system", "value": "s"}, {"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]

    assert read({"id": "x", "conversations": turns}) == [Sample("q", "a", None, "f:1", "s")]


def test_contents_in_parts_are_joined() -> None:
    turns = [{"role": "user", "content": [{"type": "text", "text": "你"}, {"type": "text", "text": "好"}]}, *spoken("assistant: a")]

    assert read({"messages": turns})[0].query == "你好"
    picture = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}, *spoken("assistant: a")]
    assert complaint({"messages": picture}).startswith('"content of turn 1" must be a text, got a list ([{"type": "image_url"')


@pytest.mark.parametrize("mark", [{"loss": False}, {"weight": 0}])
def test_an_answer_that_shall_not_be_learned_is_only_history(mark: dict[str, object]) -> None:
    first, answer, *rest = spoken("user: q1", "assistant: a1", "user: q2", "assistant: a2")

    assert read({"messages": [first, answer | mark, *rest]}) == [Sample("q2", "a2", (("q1", "a1"),), "f:1")]


@pytest.mark.parametrize(
    ("turns", "sentence"),
    [
        ([], '"messages" holds no question and no answer.'),
        (spoken("system: s"), '"messages" holds no question and no answer.'),
        (spoken("user: q"), '"messages" ends with the user (turn 1), so an answer is missing.'),
        (
            spoken("assistant: hello", "user: q"),
            'turn 1 of "messages" is by the assistant, but user and assistant must take turns, the user first.',
        ),
        (
            spoken("user: q", "user: r", "assistant: a"),
            'turn 2 of "messages" is by the user, but user and assistant must take turns, the user first.',
        ),
        (spoken("user: q", "system: s", "assistant: a"), 'turn 2 of "messages" is by the system, which may only come first.'),
        (
            spoken("user: q", "tool: 42", "assistant: a"),
            TOOL_TURN,
        ),
        (
            [*spoken("user: q"), {"role": "assistant", "metadata": "get_weather", "content": "x"}],
            TOOL_TURN,
        ),
        (  # as in the tool data of ChatGLM3's finetune_demo
            [*spoken("user: q"), {"role": "tool", "name": "weather", "parameters": {"city": "北京"}, "observation": "晴"}],
            TOOL_TURN,
        ),
        (
            spoken("user: q", "robot: a"),
            f'turn 2 of "messages": "role" must be one of {", ".join(ROLES)}, got a string ("robot").',
        ),
        (spoken("user: q", "assistant: "), '"content of turn 2" must not be empty, got a string ("").'),
        (
            [*spoken("user: q"), {"role": "assistant", "content": None}],
            '"content of turn 2" must be a text, got null.',
        ),
        (["q"], 'turn 1 of "messages" must have "role" and "content" (or "from" and "value"), got a string ("q").'),
        (
            [{"role": "user"}],
            'turn 1 of "messages" must have "role" and "content" (or "from" and "value"), got an object ({"role": "user"}).',
        ),
    ],
)
def test_a_conversation_that_cannot_be_learned_from_is_reported(turns: list[object], sentence: str) -> None:
    assert complaint({"messages": turns}) == sentence


def test_two_different_system_texts_are_reported() -> None:
    row = {"messages": spoken("system: s", "user: q", "assistant: a"), "system": "t"}

    assert complaint(row) == '"system" and turn 1 of "messages" differ: "t" and "s".'


@pytest.mark.parametrize("content", ["", " \n", None])
def test_an_empty_system_turn_is_no_system_text(content: str | None) -> None:
    turns = [{"role": "system", "content": content}, *spoken("user: q", "assistant: a")]
    assert read({"messages": turns}) == read({"messages": turns[1:]})
    (sample,) = read({"messages": turns, "system": "t"})
    assert sample.system == "t"


def test_the_first_row_decides_and_a_later_one_that_does_not_fit_is_reported() -> None:
    first: dict[str, object] = {"messages": spoken("user: q", "assistant: a")}

    assert complaint({"prompt": "q"}, first) == 'there is no column "messages", which the first row has; the columns are: "prompt".'
    assert complaint({"messages": "hello"}, first) == '"messages" must be a list of turns, got a string ("hello").'
    assert complaint({"Answer": "a", "question": "q"}, {"question": "q", "answer": "a"}) == (
        'there is no column "answer", which the first row has; the columns are: "Answer", "question". Did you mean "Answer"?'
    )
    assert complaint(BadRowError(Bilingual("is not JSON.", "不是 JSON。")), first) == "is not JSON."
    assert complaint([1], first) == "must be a JSON object with columns, got a list ([1])."


def test_nothing_known_is_a_missing_column() -> None:
    assert complaint({"text": "..."}) == (
        'has no question and no answer under a known name; the columns are: "text". Name those of both: prompt_column=... '
        "response_column=..."
    )


def test_a_shape_says_what_is_read() -> None:
    assert (
        detect_shape({"messages": []}, Columns()).summary().english
        == '"messages" holds the turns of a conversation, each answer is learned'
    )
    alpaca = detect_shape({"instruction": "", "output": "", "turns": []}, Columns(history="turns"))
    assert alpaca.summary().english == '"instruction" and "input" are the question, "output" the answer, "turns" the earlier turns'
    assert alpaca.read_columns == ("instruction", "input", "output", "turns", "system")


def test_names_of_columns_that_cannot_be_printed_are_escaped() -> None:
    assert complaint({"\ud800a\n": 1}) == (
        'has no question and no answer under a known name; the columns are: "\\ud800a\\n". Name those of both: prompt_column=... '
        "response_column=..."
    )


def test_a_column_that_nobody_named_is_not_guessed() -> None:
    said = complaint({"context": "a", "summer": "b"})

    assert "Did you mean" not in said
    assert said.startswith('has no question and no answer under a known name; the columns are: "context", "summer".')
    assert 'Did you mean "summer"?' in complaint({"content": "a", "summer": "b"})
    assert complaint({str(number): "a" for number in range(30)}).count('"') == 2 * 20


def test_optional_columns_are_read_in_the_case_of_the_first_row() -> None:
    row = {"Question": "q", "Answer": "a", "History": [["x", "y"]], "System": "s"}

    assert read(row) == [Sample("q", "a", (("x", "y"),), "f:1", "s")]
    assert read({"Instruction": "i", "Input": "j", "Output": "a"}) == [Sample("i\nj", "a", None, "f:1")]
    assert complaint({"QUESTION": "q", "Question": "r", "answer": "a"}).startswith("has no question and no answer under a known name")


def test_nan_is_a_missing_value_and_no_text() -> None:
    nan = float("nan")

    assert read({"instruction": "i", "input": nan, "output": "a", "history": nan, "system": nan}) == [Sample("i", "a", None, "f:1")]
    assert complaint({"instruction": "i", "output": nan}) == '"output" must be a text, got NaN, a missing value.'
    assert complaint({"prompt": "q", "response": float("inf")}) == '"response" must be a text, got a number (inf).'


def test_a_whole_number_is_an_answer_and_no_question() -> None:
    assert read({"content": "好评吗", "summary": 1}) == [Sample("好评吗", "1", None, "f:1")]
    assert complaint({"content": 1, "summary": "a"}) == '"content" must be a text, got a number (1).'
    for value in (True, 1.0, 10**30, None):
        assert complaint({"content": "q", "summary": value}).startswith('"summary" must be a text, got')


def test_a_history_that_python_has_printed_is_read() -> None:
    row = {"prompt": "q", "response": "a", "history": "[['有红色吗？', '有。'], (\"it's\", 'b')]"}

    assert read(row)[0].history == (("有红色吗？", "有。"), ("it's", "b"))
    for cell in ("[__import__('os')]", "[" * 5000, "[nan]", "['a'"):
        assert '"history" must be a list' in complaint({**row, "history": cell})


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning", "thinking"])
def test_thoughts_in_a_field_of_their_own_are_learned_before_the_answer(name: str) -> None:
    for thoughts, learned in ((" 想一想 ", "<think>\n想一想\n</think>\n\n好"), ("", "好"), (None, "好"), ("好", "好")):
        (sample,) = read({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "好", name: thoughts}]})
        assert sample.answer == learned
    row = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "好", name: ["想"]}]}
    assert complaint(row).startswith(f'"{name}" of turn 2 of "messages" must be a text, got a list')


def test_the_context_of_an_instruction_is_a_part_of_the_question() -> None:
    assert read({"instruction": "问", "context": "文", "response": "答"}) == [Sample("问\n文", "答", None, "f:1")]


def test_a_key_that_stands_twice_in_a_cell_is_reported() -> None:
    cell = '[{"role": "user", "content": "a", "content": "b"}, {"role": "assistant", "content": "c"}]'

    assert complaint({"messages": cell}) == 'has "content" twice in one object of a cell. Leave one out.'


@pytest.mark.parametrize(
    "history",
    [
        spoken("user: 早", "assistant: 早"),
        [{"from": "human", "value": "早"}, {"from": "gpt", "value": "早"}],
        [{"role": "user", "content": "早"}, {"role": "assistant", "metadata": "", "content": "早"}],
        [{"human": "早", "assistant": "早"}],
        [{"question": "早", "answer": "早"}],
        [{"prompt": "早", "response": "早"}],
        "[('早', '早')]",
        "(('早', '早'),)",
    ],
)
def test_a_history_may_be_turns(history: object) -> None:
    assert read({"prompt": "问", "response": "答", "history": history}) == [Sample("问", "答", (("早", "早"),), "f:1")]


def test_the_system_turn_of_a_history_is_the_system_text() -> None:
    history = spoken("system: 你是店员。", "user: 早", "assistant: 早")
    row = {"prompt": "问", "response": "答", "history": history}

    assert read(row) == [Sample("问", "答", (("早", "早"),), "f:1", "你是店员。")]
    assert "differ" in complaint(row | {"system": "你是导游。"})


@pytest.mark.parametrize("cell", ["None", "nan", "null", " NaN "])
def test_a_history_that_pandas_printed_as_missing_is_none(cell: str) -> None:
    assert read({"prompt": "问", "response": "答", "history": cell}) == [Sample("问", "答", None, "f:1")]


def test_system_prompt_is_another_name_of_the_system_text() -> None:
    assert read({"system_prompt": "s", "question": "q", "response": "a"}) == [Sample("q", "a", None, "f:1", "s")]
    assert read({"system": "s", "system_prompt": "t", "question": "q", "response": "a"}) == [Sample("q", "a", None, "f:1", "s")]


def test_thoughts_without_an_answer_are_no_answer() -> None:
    turns = [*spoken("user: q"), {"role": "assistant", "content": "", "reasoning_content": "想"}]

    assert complaint({"messages": turns}) == '"content of turn 2" must not be empty, got a string ("").'


@pytest.mark.parametrize(
    ("history", "sentence"),
    [
        (spoken("user: 早"), '"history" ends with the user (turn 1), so an answer is missing.'),
        (
            spoken("assistant: 早", "user: 早"),
            'turn 1 of "history" is by the assistant, but user and assistant must take turns, the user first.',
        ),
        (spoken("user: 早", "assistant: 早", "system: 早"), 'turn 3 of "history" is by the system, which may only come first.'),
    ],
)
def test_turns_of_a_history_that_are_no_pairs_are_named(history: list[object], sentence: str) -> None:
    assert complaint({"prompt": "问", "response": "答", "history": history}) == sentence


def test_a_turn_that_says_two_things_is_refused() -> None:
    turn = {"role": "user", "from": "human", "content": "a", "value": "a"}
    answer = spoken("assistant: c")

    assert read({"messages": [turn, *answer]}) == [Sample("a", "c", None, "f:1")]
    for key, name in (("value", "content"), ("from", "role")):
        assert complaint({"messages": [{**turn, key: "gpt"}, *answer]}) == (
            f'turn 1 of "messages" has both "{name}" and "{key}", which differ. Leave one out.'
        )
