import json
from pathlib import Path

import pytest

from imprint.data.readers import encodings
from imprint.data.readers.encodings import detect_encoding
from imprint.data.readers.json_rows import array_rows, line_rows, object_rows, wrapped_rows
from tests.bounded import cpu_time

ROW = {"content": "类型#上衣", "summary": "这件[上衣]很{好}看\\。", "n": [1.5, -2, True, None]}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "rows.json"


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 2**20])
def test_an_array_is_read_alike_wherever_its_pieces_are_cut(file: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    file.write_text(json.dumps([ROW] * 9, indent=1, ensure_ascii=False), encoding="utf-8")
    encoding = detect_encoding(file)
    monkeypatch.setattr(encodings, "CHUNK_BYTES", size)

    assert list(array_rows(file, encoding)) == [(2 + 10 * number, ROW) for number in range(9)]


@pytest.mark.parametrize("size", [1, 3, 2**20])
def test_the_place_of_a_mistake_in_an_array_does_not_depend_on_the_pieces(file: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    file.write_text('[{"a": 1},\n  {"a": 2},\n  {"a": 3 "b": 4},\n  {"a": 5}]' + "\n" * 50)
    encoding = detect_encoding(file)
    monkeypatch.setattr(encodings, "CHUNK_BYTES", size)

    *good, (line, bad) = array_rows(file, encoding)

    assert good == [(1, {"a": 1}), (2, {"a": 2})]
    assert (line, str(bad)) == (3, "the array is not JSON from here on: Expecting ',' delimiter at column 11.")


def test_commas_too_many_and_comments_are_reported_in_words_that_help(file: Path) -> None:
    file.write_text('[{"a": 1},\n {"a": 2},\n]\n')
    *good, (line, bad) = array_rows(file, detect_encoding(file))
    assert good == [(1, {"a": 1}), (2, {"a": 2})]
    assert (line, str(bad)) == (3, "there is a trailing comma before the `]` of the array. Delete it.")
    for text, reason in (
        ('[{"a": 1,}]', "a comma too many at column"),
        ('[{"a": 1, // one\n}]', "a comment, which JSON does not know, at"),
    ):
        file.write_text(text)
        ((_line, bad),) = array_rows(file, detect_encoding(file))
        assert reason in str(bad)


def test_an_array_that_was_cut_off_gives_the_rows_before_and_says_so(file: Path) -> None:
    file.write_text(json.dumps([ROW] * 3, indent=1)[:-30])

    *good, (line, bad) = array_rows(file, detect_encoding(file))

    assert [row for _line, row in good] == [ROW] * 2
    assert (line, str(bad)) == (22, "begins here and is incomplete at the end of the file. Was the file truncated?")


def test_a_string_without_an_end_does_not_fill_the_memory(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imprint.data.readers.json_rows.MAX_ROW_CHARACTERS", 1_000_000)
    file.write_text('[{"a": "' + "b" * 20_000_000)
    report_bytes: list[int] = []

    ((line, bad),) = array_rows(file, detect_encoding(file), report_bytes.append)

    assert (line, str(bad)) == (1, "the array is not JSON from here on: Unterminated string starting at column 8.")
    assert sum(report_bytes) < 10_000_000


def test_a_key_that_stands_twice_is_reported(file: Path) -> None:
    text = '{"a": 1, "b": {"c": 1, "c": 2}}'
    sentence = 'has "c" twice in one object, so one of the two would be lost. Leave one out.'
    for content, rows in ((f"{text}\n{{}}", line_rows), (f"[{text}, {{}}]", array_rows)):
        file.write_text(content)
        (_line, bad), (_other, good) = rows(file, detect_encoding(file))
        assert (str(bad), good) == (sentence, {})


def test_marks_of_byte_order_where_files_were_joined_are_no_text(file: Path) -> None:
    file.write_bytes('\ufeff{"a": 1}\n\ufeff{"a": 2}\r\n\ufeff\n'.encode())

    assert list(line_rows(file, detect_encoding(file))) == [(1, {"a": 1}), (2, {"a": 2})]


def test_the_column_of_a_mistake_counts_the_blanks_in_front(file: Path) -> None:
    file.write_text('{}\n   {"a" 1}\n')

    (_one, good), (line, bad) = line_rows(file, detect_encoding(file))

    assert good == {}
    assert (line, str(bad)[:53]) == (2, "is not JSON: Expecting ':' delimiter at column 9, in ")


def test_objects_over_several_lines_are_read_one_after_another(file: Path) -> None:
    file.write_text("\n\n".join(json.dumps(ROW, indent=2) for _ in range(3)) + '\n{"a": }')

    *good, (line, bad) = object_rows(file, detect_encoding(file))

    assert good == [(1, ROW), (12, ROW), (23, ROW)]
    assert str(bad) == "the object is not JSON from here on: Expecting value at column 7."
    assert line == file.read_text().count("\n") + 1


def test_rows_on_one_line_are_told_apart_by_their_numbers(file: Path) -> None:
    file.write_text('[{"a": 1}, {"a": 2}, {"a": },')
    encoding = detect_encoding(file)
    assert [place for place, _row in array_rows(file, encoding)] == [1, "1, row 2", "1, row 3"]
    file.write_text('{"a": 1} {"a": 2}\n{"a": 3}\n')
    assert [place for place, _row in object_rows(file, encoding)] == [1, "1, row 2", 2]


@pytest.mark.parametrize("size", [1, 3, 2**20])
def test_rows_inside_one_object_are_read(file: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    file.write_text('{"version": {"n": [1, 2]}, "data": [{"a": 1},\n{"a": 2}], "end": null}\n')
    encoding = detect_encoding(file)
    monkeypatch.setattr(encodings, "CHUNK_BYTES", size)

    assert list(wrapped_rows(file, encoding, "data")) == [(1, {"a": 1}), (2, {"a": 2})]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('{"data": [{"a": 1}]} {"data": [{"a": 2}]}', "nothing may follow the `}` around the rows"),
        ('{"data": [{"a": 1}', "after an element of the array there must be a comma"),
        ('{"data": [{"a": 1}] "b": 2}', "after a value there must be a comma or `}`"),
        ('{"data": [{"a": 1}], "b" 2}', "after a key there must be a colon"),
        ('{"data": [{"a": 1}], "b": ', "is not JSON from here on"),
        ('{"data": [{"a": 1}],', "is not JSON from here on"),
        ('{"data": [{"a": 1}]', "after a value there must be a comma or `}`"),
    ],
)
def test_an_object_around_the_rows_that_is_broken_is_named(file: Path, text: str, sentence: str) -> None:
    file.write_text(text)
    (_place, good), (_line, bad) = wrapped_rows(file, detect_encoding(file), "data")

    assert good == {"a": 1}
    assert sentence in str(bad)


def test_a_bare_list_of_turns_is_a_conversation(file: Path) -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    file.write_text(f"{json.dumps(turns)}\n{json.dumps(turns, indent=1)}")

    assert list(object_rows(file, detect_encoding(file))) == [(1, {"messages": turns}), (2, {"messages": turns})]


def test_thousands_of_keys_and_levels_are_read_at_once(file: Path) -> None:
    keys = ",".join(f'"k{number}":1' for number in range(50_000))
    file.write_text(f'{{{keys},"z":1,"z":2}}\n{{"a":{"[" * 500}{"]" * 500}}}\n{{"a":{"[[],[]]," * 300}1}}\n'.replace(",1}", "}"))
    with cpu_time(at_most=20):
        found = [str(row) for _line, row in line_rows(file, detect_encoding(file))]

        assert found[0].startswith('has "z" twice in one object')
        assert found[1] == "is nested more than 100 levels deep, which no row is."


@pytest.mark.parametrize(
    "text", ['{"data": [{"a": 1}], "test": [{"a": 2, "b": 3}], "labels": [{"b": 1}]}', '{"test": [{"a": 2}], "data": [{"a": 1}]}']
)
def test_rows_of_a_second_list_are_not_left_out_without_a_word(file: Path, text: str) -> None:
    file.write_text(text)

    (_place, good), (_line, bad) = wrapped_rows(file, detect_encoding(file), "data")

    assert good == {"a": 1}
    assert str(bad) == '"test" holds rows too, but only those of "data" are read. Give each list a file.'
