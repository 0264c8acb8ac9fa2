import json
from pathlib import Path

import pytest

from imprint.data.other_layouts import other_layout
from imprint.data.readers.samples import read_samples
from imprint.messages import UserError

TURNS = [{"role": "user", "content": "你好"}, {"role": "assistant", "content": "您好"}]


def refusal(path: Path, *rows: object, prompt: str = "content", response: str = "summary") -> UserError:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    with pytest.raises(UserError) as caught:
        read_samples(path, prompt_column=prompt, response_column=response, knob_prefix="data.")
    return caught.value


@pytest.mark.parametrize(
    ("row", "cure"),
    [
        ({"prompt": "a", "chosen": "b", "rejected": "c"}, "With data.prompt_column=prompt data.response_column=chosen the chosen answers"),
        (
            {"instruction": "a", "input": "", "chosen": "b", "rejected": "c"},
            "With data.prompt_column=instruction data.response_column=chosen",
        ),
        ({"question": "a", "response_chosen": "b", "response_rejected": "c"}, "data.response_column=response_chosen the chosen answers"),
        ({"chosen": TURNS, "rejected": TURNS}, 'write each row as {"messages": ...} with the turns of "chosen".'),
        ({"chosen": "Human: a", "rejected": "Human: b"}, 'write each row as {"prompt": ..., "response": ...}.'),
        ({"conversations": TURNS[:1], "chosen": TURNS[1], "rejected": TURNS[1]}, 'write each row as {"prompt": ..., "response": ...}.'),
    ],
)
def test_rows_for_preference_training_are_named_with_the_way_to_their_chosen_answers(
    row: dict[str, object], cure: str, tmp_path: Path
) -> None:
    error = refusal(tmp_path / "rows.jsonl", row, row)
    assert "holds a chosen and a rejected answer" in str(error)
    assert "as for preference training (DPO), which Imprint does not do." in str(error)
    assert "是偏好训练（DPO）的数据" in str(error)
    assert cure in str(error)


def test_the_knobs_that_are_named_for_preference_rows_read_them(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n', encoding="utf-8")
    (sample,) = read_samples(rows, prompt_column="prompt", response_column="chosen")
    assert (sample.query, sample.answer) == ("a", "b")


def test_an_empty_answer_among_preference_rows_is_named_as_one(tmp_path: Path) -> None:
    row = {"prompt": "a", "chosen": " ", "rejected": "c"}
    assert '"chosen" must not be empty' in str(refusal(tmp_path / "rows.jsonl", row, prompt="prompt", response="chosen"))


@pytest.mark.parametrize(
    ("table", "form"),
    [
        ({"columns": ["question", "answer"], "index": [0], "data": [["a", "b"]]}, 'orient="split"'),
        ({"columns": ["question", "answer"], "data": [["a", "b"]]}, 'orient="split"'),
        ({"question": {"0": "a", "1": "b"}, "answer": {"0": "c", "1": "d"}}, 'orient="columns" or "index"'),
        ({"0": {"question": "a", "answer": "b"}, "1": {"question": "c", "answer": "d"}}, 'orient="columns" or "index"'),
        ({"question": ["a", "b"], "answer": ["c", "d"]}, "a list for each column"),
    ],
)
def test_a_table_in_one_object_is_named_with_the_call_that_writes_rows(table: dict[str, object], form: str, tmp_path: Path) -> None:
    for prompt in ("content", "question"):
        said = str(refusal(tmp_path / "rows.json", table, prompt=prompt))
        assert f"is a whole table in one object, as pandas writes it ({form}). Write a row as an object: df.to_json(" in said
        assert 'orient="records", lines=True' in said


def test_other_bad_rows_are_of_no_other_layout() -> None:
    rows: tuple[dict[str, object], ...] = (
        {},
        {"content": "a"},
        {"messages": TURNS},
        {"a": {}},
        {"a": {"x": 1}, "b": {"y": 1}},
        {"a": [1], "b": [1, 2]},
        {"chosen": "a"},
    )
    assert [row for row in rows if other_layout(row) is not None] == []
