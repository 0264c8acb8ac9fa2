import json
from pathlib import Path

import pytest

from imprint.data.long_rows import MAX_TEXT, refuse_long_row
from imprint.data.readers.bad_rows import BadRowError
from imprint.data.readers.questions import read_questions
from imprint.data.readers.samples import read_samples
from imprint.data.sample import Sample
from imprint.messages import UserError
from imprint.templates import Message


def test_a_row_of_more_characters_than_a_model_takes_is_refused_with_its_place(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    rows = [{"content": "问", "summary": "答"}, {"content": "问" * MAX_TEXT, "summary": "答"}]
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    with pytest.raises(UserError, match=r"rows.jsonl:2: has 2,000,001 characters of text; a row has at most 2,000,000, .* as raw text"):
        read_samples(file, prompt_column="content", response_column="summary")
    assert len(read_samples(file, prompt_column="content", response_column="summary", limit=1)) == 1


def test_all_texts_of_a_row_count_and_columns_that_are_not_read_do_not(tmp_path: Path) -> None:
    part = "问" * (MAX_TEXT // 4)
    refuse_long_row([])
    refuse_long_row([Sample(part, part, ((part, part),), "rows.jsonl:1")])
    tools = (Message("system", part), Message("user", part), Message("assistant", part, "天气"), Message("observation", part))
    for sample in (
        Sample(part, part, ((part, part),), "rows.jsonl:1", "系统"),
        Sample(part, part, ((part, part), ("再问", "")), "rows.jsonl:1"),
        Sample(part, "答", None, "rows.jsonl:1", context=tools),
        Sample(part, part, None, "rows.jsonl:1", part, further_messages=(Message("assistant", part + "又", "天气"),)),
    ):
        with pytest.raises(BadRowError):
            refuse_long_row([Sample("问", "答", None, "rows.jsonl:1"), sample])
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"content": "问", "summary": "答", "page": "x" * (MAX_TEXT + 1)}), encoding="utf-8")
    assert len(read_samples(file, prompt_column="content", response_column="summary")) == 1


@pytest.mark.parametrize("row", ["字" * (MAX_TEXT + 1), json.dumps({"content": "字" * (MAX_TEXT + 1)}, ensure_ascii=False)])
def test_a_question_alone_is_refused_too(tmp_path: Path, row: str) -> None:
    file = tmp_path / ("questions.jsonl" if row.startswith("{") else "questions.txt")
    file.write_text(row + "\n", encoding="utf-8")
    with pytest.raises(UserError, match="a row has at most 2,000,000"):
        read_questions(file, prompt_column="content")


def test_descriptions_of_tools_count() -> None:
    system = Message("system", "", tools=({"name": "f", "description": "字" * MAX_TEXT},))
    with pytest.raises(BadRowError):
        refuse_long_row([Sample("", "b", None, "rows.jsonl:1", context=(system, Message("user", "a")))])
