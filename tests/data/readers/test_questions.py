"""Questions are read from a text, one a line, or from rows of data, whatever is said beside them."""

import json
from pathlib import Path

import pytest

from imprint.data.readers.questions import read_questions
from imprint.messages import UserError


def asked(path: Path, *, limit: int | None = None) -> list[str]:
    return [sample.query for sample in read_questions(path, prompt_column="content", limit=limit)]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gb18030", "utf-16"])
def test_a_text_asks_its_lines_in_any_encoding(encoding: str, tmp_path: Path) -> None:
    file = tmp_path / "questions.txt"
    file.write_bytes("你是谁，从哪里来？\r\n\r\n　这件上衣好看吗, really?  \n[笑] {你}猜\n".encode(encoding))

    found = read_questions(file, prompt_column="content")

    assert [sample.query for sample in found] == ["你是谁，从哪里来？", "这件上衣好看吗, really?", "[笑] {你}猜"]
    assert [sample.location for sample in found] == [f"{file}:{line}" for line in (1, 3, 4)]
    assert all(sample.answer == "" and sample.history is None for sample in found)


def test_a_limit_takes_the_first_questions(tmp_path: Path) -> None:
    (tmp_path / "questions.txt").write_text("\n一\n二\n三\n", encoding="utf-8")

    assert asked(tmp_path / "questions.txt", limit=2) == ["一", "二"]


@pytest.mark.parametrize(
    ("row", "questions"),
    [
        ({"content": "问", "summary": "答"}, ["问"]),
        ({"content": "问"}, ["问"]),
        ({"prompt": "问", "completion": "答", "label": False}, ["问"]),
        ({"prompt": "问", "response": "答", "history": [["早", "早"]]}, ["问"]),
        ({"question": "问"}, ["问"]),
        ({"prompt": "问", "response": ""}, ["问"]),
        ({"问题": "问", "答案": None}, ["问"]),
        ({"instruction": "翻译", "input": "好", "output": "good"}, ["翻译\n好"]),
        ({"问题": "问", "类": 3}, ["问"]),
        ({"instruction": "翻译", "input": "好"}, ["翻译\n好"]),
        ({"messages": [{"role": r, "content": c} for r, c in zip(("user", "assistant", "user"), "问答再", strict=True)]}, ["问", "再"]),
        ({"conversations": [{"from": "human", "value": "问"}]}, ["问"]),
        ({"messages": [{"role": r, "content": c} for r, c in zip(("user", "assistant") * 2, "问答再完", strict=True)]}, ["问", "再"]),
    ],
)
def test_rows_of_data_ask_their_questions_and_forget_their_answers(row: dict[str, object], questions: list[str], tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8")
    (tmp_path / "array.txt").write_text(json.dumps([row], indent=1), encoding="utf-8")

    assert asked(tmp_path / "rows.jsonl") == asked(tmp_path / "array.txt") == questions
    assert {sample.answer for sample in read_questions(tmp_path / "rows.jsonl", prompt_column="content")} == {""}


def test_earlier_turns_are_asked_with_their_question(tmp_path: Path) -> None:
    row = {"prompt": "再问", "response": "答", "history": [["问", "答"]], "system": "你是店员。"}
    (tmp_path / "rows.jsonl").write_text(
        "".join(json.dumps(one) + "\n" for one in (row, {name: row[name] for name in row if name != "response"}))
    )

    for sample in read_questions(tmp_path / "rows.jsonl", prompt_column="content"):
        assert (sample.query, sample.history, sample.system) == ("再问", (("问", "答"),), "你是店员。")


def test_a_table_and_drawn_rows_are_rows(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_bytes("编号,问题\n1,甲\n2,乙\n3,丙\n".encode("gb18030"))

    assert asked(tmp_path / "table.csv") == ["甲", "乙", "丙"]
    assert len(asked(tmp_path / "table.csv#2")) == 2


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "questions.txt holds no question. Write one per line, or give rows of data."),
        (b"\n \n", "holds no question"),
        (b"\xe4\xbd\xa0\xe5\xa5\xbd\xe5\x90\x97\n" * 20 + b"a\xff\n", "questions.txt:21: byte 0xFF at column 2"),
        (b'{"text": "a"}\n', 'questions.txt:1: has no column of questions ("text"). Name it: prompt_column=...'),
        (b'{"content": ""}\n', 'questions.txt:1: "content" must not be empty'),
        (b'{"content": 3}\n{"content": "a"\n', 'questions.txt:1: "content" must be a text, got a number (3).\n'),
        (b'{"content": "\\ud83d"}\n', 'questions.txt:1: "content" holds half a character'),
        (b"version https://git-lfs.github.com/spec/v1\n", "questions.txt is a Git LFS pointer, not the file itself."),
        (b"\x1f\x8b\x08\x00", "questions.txt is compressed with gzip."),
        (b'{"content": 3}\n' * 12, "questions.txt: 12 of 12 rows are bad. Fix them; nothing was asked.\n"),
    ],
)
def test_what_cannot_be_asked_is_a_sentence_with_its_line(content: bytes, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "questions.txt").write_bytes(content)

    with pytest.raises(UserError) as error:
        read_questions(tmp_path / "questions.txt", prompt_column="content")
    assert sentence in str(error.value)


def test_a_file_that_is_not_there_is_reported(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.txt: there is no such file\. Give a text with one question per line"):
        read_questions(tmp_path / "nowhere.txt", prompt_column="content")
