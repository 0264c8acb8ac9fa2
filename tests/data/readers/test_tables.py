from pathlib import Path

import pytest

from imprint.data.readers.bad_rows import BadRowError
from imprint.data.readers.encodings import detect_encoding
from imprint.data.readers.rows import read_rows
from imprint.data.readers.tables import csv_rows
from imprint.messages import UserError
from tests.bounded import cpu_time


def read(tmp_path: Path, text: str | bytes, delimiter: str = ",") -> list[tuple[int | str, object]]:
    """The rows, a bad one by its sentence."""
    file = tmp_path / "rows.csv"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    rows = csv_rows(file, detect_encoding(file), delimiter)
    return [(line, str(row) if isinstance(row, BadRowError) else row) for line, row in rows]


def test_a_row_may_span_lines_and_is_placed_where_it_starts(tmp_path: Path) -> None:
    text = 'q,a\r\n1,"x\r\ny, ""z"""\r\n\r\n2,b\r\n'

    assert read(tmp_path, text) == [(2, {"q": "1", "a": 'x\r\ny, "z"'}), (5, {"q": "2", "a": "b"})]


@pytest.mark.parametrize(("delimiter", "text"), [("\t", "q\ta\n1\tb,c\n"), (";", "q;a\n1;b,c\n")])
def test_tabs_and_semicolons_part_cells_too(tmp_path: Path, delimiter: str, text: str) -> None:
    assert read(tmp_path, text, delimiter) == [(2, {"q": "1", "a": "b,c"})]


def test_blank_rows_and_empty_columns_at_the_end_are_nothing(tmp_path: Path) -> None:
    assert read(tmp_path, "\n\ufeffq, a ,,\n,,,\n1,b,,\n2,c\n") == [(4, {"q": "1", "a": "b"}), (5, {"q": "2", "a": "c"})]


def test_a_row_with_another_number_of_cells_is_reported(tmp_path: Path) -> None:
    assert read(tmp_path, "q,a\n1\n1,2,3\n1,2\n") == [
        (2, 'has 1 cell, but the header has 2 columns: "q", "a".'),
        (3, 'has 3 cells, but the header has 2 columns: "q", "a".'),
        (4, {"q": "1", "a": "2"}),
    ]


def test_a_title_above_the_header_is_reported(tmp_path: Path) -> None:
    assert read(tmp_path, "客服问答表,\nq,a\n1,2\n")[0] == (
        2,
        'has 2 cells, but the first row has one, "客服问答表". If that is a title, delete its row.',
    )


def test_a_header_that_comes_again_is_reported(tmp_path: Path) -> None:
    assert read(tmp_path, "q,a\n1,2\n\ufeffq,a\n3,4\n")[1] == (3, "repeats the header. Delete it.")


def test_a_value_without_the_name_of_a_column_is_reported(tmp_path: Path) -> None:
    assert read(tmp_path, "q,,a\n1,,2\n1,x,2\n") == [
        (2, {"q": "1", "a": "2"}),
        (3, 'has "x" in a column without a name in the header.'),
    ]


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        read(tmp_path, "q,q,a\n1,2,3\n")

    assert (
        str(error.value).splitlines()[0]
        == f'{tmp_path}/rows.csv:1: the header has two columns "q", and it is unclear which is meant. Rename one.'
    )


def test_a_quote_that_is_not_closed_costs_its_own_row_only(tmp_path: Path) -> None:
    assert read(tmp_path, 'q,a\n1,"x\n2,y\n3,z\n') == [
        (2, 'a quoted cell begins here and is never closed. Close its quote, or write a quote within a cell twice ("").'),
        (3, {"q": "2", "a": "y"}),
        (4, {"q": "3", "a": "z"}),
    ]


def test_a_quote_within_a_quoted_cell_is_reported(tmp_path: Path) -> None:
    assert read(tmp_path, 'q,a\n1,"x"y"\n2,z\n') == [
        (2, 'a quote within a quoted cell must be written twice (""), and after the closing one there must be "," or the end.'),
        (3, {"q": "2", "a": "z"}),
    ]


def test_bytes_of_another_encoding_are_reported_with_their_row(tmp_path: Path) -> None:
    text = "问,答\n类型,好\n".encode() + "类型,好\n".encode("gb18030") + "类型,好\n".encode()

    assert read(tmp_path, text) == [
        (2, {"问": "类型", "答": "好"}),
        (3, "byte 0xC0 at column 1 is not UTF-8, as the rest of the file is."),
        (4, {"问": "类型", "答": "好"}),
    ]


def test_a_nameless_index_of_pandas_is_no_column(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(",content,summary\n0,a,b\n17,c,d\nx,e,f\n")

    (_two, first), (_three, second), (_four, third) = read_rows(tmp_path / "a.csv")

    assert (first, second) == ({"content": "a", "summary": "b"}, {"content": "c", "summary": "d"})
    assert str(third) == 'has "x" in a column without a name in the header.'


def test_a_header_without_end_and_quotes_without_end_are_given_up_at_once(tmp_path: Path) -> None:
    (tmp_path / "h.csv").write_text(",".join(f"c{number}" for number in range(50_000)))
    (tmp_path / "q.csv").write_text("content,summary\n" + 'a","\n' * 20_000)
    with cpu_time(at_most=20):
        with pytest.raises(UserError, match="the header has 50,000 columns, more than 1,000"):
            list(read_rows(tmp_path / "h.csv"))
        *_rows, (place, last) = read_rows(tmp_path / "q.csv")

        assert str(last) == "is not read, nor is any row after it: the quotes of too many cells are not closed."
        assert int(place.rpartition(":")[2]) > 40


@pytest.mark.parametrize("delimiter", [";", ","])
def test_a_first_line_that_tells_excel_the_delimiter_is_no_header(tmp_path: Path, delimiter: str) -> None:
    assert read(tmp_path, f"sep={delimiter}\r\nq{delimiter}a\r\n1{delimiter}2\r\n", delimiter) == [(3, {"q": "1", "a": "2"})]
