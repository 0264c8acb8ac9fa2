import json
from pathlib import Path

import pytest

from imprint.check.row_format import RowFormat
from imprint.data.readers.samples import read_samples
from imprint.data.shapes import Columns, detect_shape, samples_from_row
from tests.check.rows import write

ROWS: dict[str, dict[str, object]] = {
    "named": {"content": "问", "summary": "答", "id": 7},
    "pair": {"question": "问", "answer": "答", "history": [["早", "好"]], "system": "你是客服。", "id": 7},
    "alpaca": {"instruction": "翻译", "input": "你好", "output": "hello", "id": 7},
    "conversation": {
        "messages": [
            {"role": "system", "content": "你是客服。"},
            {"role": "user", "content": "问"},
            {"role": "assistant", "content": "答", "loss": False},
            {"role": "user", "content": "再问"},
            {"role": "assistant", "content": "再答"},
        ]
    },
}


def written(rows: dict[str, dict[str, object]], file: Path) -> tuple[list[dict[str, object]], RowFormat]:
    form = RowFormat(Columns(), frozenset(rows))
    made = []
    for value in rows.values():
        shape = detect_shape(value, Columns())
        made.append(form.format_row(value, shape, samples_from_row(value, shape, "a:1")))
    write(file, made)
    return made, form


def seen(samples: object) -> str:
    return json.dumps([[s.system, s.history or (), s.query, s.answer] for s in samples], ensure_ascii=False)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "kinds", [("named",), ("pair",), ("alpaca",), ("conversation",), ("pair", "alpaca"), ("named", "pair", "conversation")]
)
def test_rows_of_any_shapes_give_the_same_samples_from_one_file(kinds: tuple[str, ...], tmp_path: Path) -> None:
    rows = {kind: ROWS[kind] for kind in kinds}
    written(rows, tmp_path / "out.jsonl")
    there = read_samples(tmp_path / "out.jsonl", prompt_column="content", response_column="summary")
    wanted = [sample for row in rows.values() for sample in samples_from_row(row, detect_shape(row, Columns()), "a:1")]
    assert seen(there) == seen(wanted)


def test_named_columns_keep_their_names_and_those_beside_them(tmp_path: Path) -> None:
    made, form = written({"named": ROWS["named"]}, tmp_path / "out.jsonl")
    assert made == [ROWS["named"]]
    assert form.dropped_columns == set()


def test_columns_that_are_not_written_are_reported(tmp_path: Path) -> None:
    _made, form = written({"alpaca": ROWS["alpaca"]}, tmp_path / "out.jsonl")
    assert form.dropped_columns == {"id"}


def test_the_column_of_the_history_keeps_the_name_that_was_asked_for() -> None:
    columns = Columns("q", "a", "turns")
    value: dict[str, object] = {"q": "问", "a": "答", "turns": [["早", "好"]]}
    shape = detect_shape(value, columns)
    (sample,) = samples_from_row(value, shape, "a:1")
    again = json.loads(json.dumps(RowFormat(columns, frozenset({"named"})).format_row(value, shape, [sample])))
    assert samples_from_row(again, shape, "a:1") == [sample]


def test_a_conversation_with_tools_gives_the_same_samples_again() -> None:
    row: dict[str, object] = {
        "tools": [{"name": "weather"}],
        "messages": [
            {"role": "user", "content": "天气？"},
            {"role": "assistant", "content": "我看看。", "loss": False},
            {"role": "tool", "name": "weather", "parameters": {"city": "北京"}, "observation": "晴"},
            {"role": "assistant", "content": "晴。"},
        ],
    }
    samples = samples_from_row(row, detect_shape(row, Columns()), "a:1", tools=True)

    again = json.loads(json.dumps(RowFormat(Columns(), frozenset({"conversation"})).format_row(row, detect_shape(row, Columns()), samples)))

    assert len(samples) == 2
    assert samples_from_row(again, detect_shape(again, Columns()), "a:1", tools=True) == samples


def test_words_with_calls_are_written_so_that_they_are_read_again(tmp_path: Path) -> None:
    calls = [{"function": {"name": "weather", "arguments": f'{{"city": "{city}"}}'}} for city in "京杭"]
    for words in ("我查一下。", ""):
        turns = [
            {"role": "user", "content": "天气？"},
            {"role": "assistant", "content": words, "tool_calls": calls},
            {"role": "tool", "content": "晴"},
            {"role": "assistant", "content": "晴。"},
        ]
        row: dict[str, object] = {"tools": ["weather: 查天气"], "messages": turns}
        shape = detect_shape(row, Columns())
        samples = samples_from_row(row, shape, "a:1", tools=True)
        again = RowFormat(Columns(), frozenset({"conversation"})).format_row(row, shape, samples)
        assert samples_from_row(again, shape, "a:1", tools=True) == samples


def test_tools_and_keys_of_turns_that_are_not_written_are_named(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "问", "images": ["a.png"]}, {"role": "assistant", "content": "答"}]

    (made,), form = written({"conversation": {"messages": turns, "tools": [{"name": "weather"}]}}, tmp_path / "out.jsonl")

    assert made == {"messages": [{"role": "user", "content": "问"}, {"role": "assistant", "content": "答"}]}
    assert form.dropped_columns == {"images", "tools"}
