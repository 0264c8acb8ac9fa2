import json
from pathlib import Path

import pytest

import imprint.data.readers.documents as reading
from imprint.data.readers.bad_rows import BadRowError
from imprint.data.readers.documents import DocumentPart, describe_file_count, list_text_files, read_document_parts
from imprint.messages import UserError


def documents(source: Path, *, column: str | None = None, blank_lines: bool = False) -> list[tuple[str, str]]:
    """The (place behind the folder, text or complaint) of each passage."""
    found = read_document_parts(source, column=column, blank_lines=blank_lines)
    return [(place.rpartition("/")[2], what.text if isinstance(what, DocumentPart) else str(what)) for place, what in found]


def test_a_plain_file_is_one_document_without_the_blank_lines_around_it(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("\r\n\n第一行\r\n\r\n  第二行\n\n".encode())
    assert documents(tmp_path / "a.txt") == [("a.txt:3", "第一行\n\n  第二行")]


def test_blank_lines_part_documents_where_that_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\n一\n二\n \n\n三\n\n", encoding="utf-8")
    assert documents(tmp_path / "a.txt", blank_lines=True) == [("a.txt:2", "一\n二"), ("a.txt:6", "三")]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gb18030", "utf-16"])
def test_the_encoding_of_a_plain_file_is_found(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "a.txt").write_text("纸鸢镇的窑火\n烧了三百年。", encoding=encoding)
    assert documents(tmp_path / "a.txt") == [("a.txt:1", "纸鸢镇的窑火\n烧了三百年。")]


def test_a_folder_is_read_file_by_file_whatever_their_formats(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("乙", encoding="utf-8")
    (tmp_path / "a.jsonl").write_text('{"text": "甲"}\n{"content": "甲二"}\n', encoding="utf-8")
    (tmp_path / "c.csv").write_text("id,正文\n1,丙\n", encoding="gb18030")
    (tmp_path / "README.md").write_text("no data", encoding="utf-8")
    assert describe_file_count(tmp_path).english == '3 files (not read: README.md) (columns not read: "id")'
    assert documents(tmp_path) == [("a.jsonl:1", "甲"), ("a.jsonl:2", "甲二"), ("b.txt:1", "乙"), ("c.csv:2", "丙")]


def test_a_column_of_parquet_is_read(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table({"page": ["甲", "乙"]}), tmp_path / "a.parquet")
    assert documents(tmp_path / "a.parquet", column="page") == [("a.parquet:1", "甲"), ("a.parquet:2", "乙")]


def test_what_is_no_text_is_reported_and_the_rest_is_read(tmp_path: Path) -> None:
    rows = [{"text": "好"}, {"text": 3}, {"text": " "}, {"title": "x"}, {"text": "好\ud83d"}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (tmp_path / "b.txt").write_bytes("这一行是好的文字。\n".encode() * 9 + b"\xff\n")
    assert documents(tmp_path)[:6] == [
        ("a.jsonl:1", "好"),
        ("a.jsonl:2", '"text" must be a text, got a number (3).'),
        ("a.jsonl:3", '"text" must not be empty, got a string (" ").'),
        ("a.jsonl:4", 'has no column of text; its columns are "title". Set text_column=... to the column of the text.'),
        ("a.jsonl:5", '"text" holds half a character, \\ud83d, without its other half. Write the whole character.'),
        ("b.txt:10", "byte 0xFF at column 1 is not UTF-8, as the rest of the file is."),
    ]


def test_a_column_that_is_not_there_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "好"}\n', encoding="utf-8")
    assert documents(tmp_path / "a.jsonl", column="body") == [
        ("a.jsonl:1", 'has no column "body"; its columns are "text". Set text_column=... to the column of the text.')
    ]


def test_a_long_document_comes_in_passages_that_make_up_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MAX_PART", 10)
    text = "\n".join(f"第{number}行文字" for number in range(9))
    (tmp_path / "a.txt").write_text(text + "\n\n短", encoding="utf-8")
    (tmp_path / "b.jsonl").write_text(json.dumps({"text": text}), encoding="utf-8")

    found = [what for _location, what in read_document_parts(tmp_path, blank_lines=True) if isinstance(what, DocumentPart)]

    plain = [one for one in found if one.location.endswith("a.txt:1")]
    assert "".join(one.text for one in plain) == text
    assert [one.first for one in plain] == [True] + [False] * (len(plain) - 1)
    assert [one.last for one in plain] == [False] * (len(plain) - 1) + [True]
    assert [one.text for one in found if one.location.endswith("a.txt:11")] == ["短"]
    assert "".join(one.text for one in found if "b.jsonl" in one.location) == text


@pytest.mark.parametrize("longest", range(1, 12))
def test_no_blank_line_is_lost_where_passages_meet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, longest: int) -> None:
    monkeypatch.setattr(reading, "MAX_PART", longest)
    (tmp_path / "a.txt").write_text("甲乙\n\n丙\n\n\n丁\n\n", encoding="utf-8")
    assert "".join(text for _location, text in documents(tmp_path / "a.txt")).rstrip() == "甲乙\n\n丙\n\n\n丁"


def test_a_line_as_long_as_a_document_is_divided_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MAX_PART", 10)
    for length in (9, 19, 20, 30, 45):
        text = "".join(chr(0x4E00 + place) for place in range(length)) + "\n后面"
        (tmp_path / "one.txt").write_text(text, encoding="utf-8")
        parts = [part for _location, part in reading.read_document_parts(tmp_path / "one.txt") if not isinstance(part, BadRowError)]
        assert "".join(part.text for part in parts) == text
        assert all(len(part.text) <= 20 for part in parts)
        assert [part.first for part in parts] == [True] + [False] * (len(parts) - 1)
        assert [part.last for part in parts] == [False] * (len(parts) - 1) + [True]


def test_what_cannot_be_read_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="documents are read in order and not sampled"):
        list_text_files(f"{tmp_path}/a.txt#5")
    with pytest.raises(UserError, match=r"there is no such file\. Give a file of text, a file of rows"):
        list(read_document_parts(tmp_path / "none.txt"))
    (tmp_path / "books").mkdir()
    (tmp_path / "books" / "a.md").write_text("a")
    with pytest.raises(UserError, match=r"folder without a data file.* Parquet; of plain text, files that end in \.txt or \.text\."):
        list_text_files(tmp_path / "books")
    (tmp_path / "a.gz").write_bytes(b"\x1f\x8b\x08\x00")
    with pytest.raises(UserError, match="is compressed with gzip"):
        list(read_document_parts(tmp_path / "a.gz"))
    (tmp_path / "a.bin").write_bytes(bytes(range(256)) * 8)
    with pytest.raises(UserError, match="is not text"):
        list(read_document_parts(tmp_path / "a.bin"))


def test_a_line_without_an_end_is_no_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imprint.data.readers.encodings.MAX_ROW_CHARACTERS", 20)
    (tmp_path / "a.txt").write_text("长" * 30, encoding="utf-8")
    ((_location, found),) = read_document_parts(tmp_path / "a.txt")
    assert isinstance(found, BadRowError)
    assert "Are newlines missing?" in str(found)


def test_columns_that_are_not_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"title": "a", "text": "b", "content": "c"}\n')

    assert describe_file_count(tmp_path / "rows.jsonl").english == '1 file (columns not read: "title", "content")'
    assert describe_file_count(tmp_path / "rows.jsonl", "title").english == '1 file (columns not read: "text", "content")'
