import sys
import zipfile
from datetime import date, datetime
from pathlib import Path
from typing import Any

import openpyxl
import pytest

from imprint.data.readers.bad_rows import BadRowError
from imprint.data.readers.rows import read_rows
from imprint.data.readers.sources import detect_format
from imprint.data.readers.workbooks import escape_cell, sheet_names, workbook_rows
from imprint.messages import UserError
from tests.bounded import cpu_time


def workbook(path: Path, **rows: list[list[Any]]) -> Path:
    """A workbook with these sheets."""
    book = openpyxl.Workbook()
    book.remove(book.worksheets[0])
    for name, content in rows.items():
        sheet = book.create_sheet(name)
        for row in content:
            sheet.append(row)
    book.save(path)
    return path


def test_every_sheet_has_its_own_header_and_rows_with_places(tmp_path: Path) -> None:
    path = workbook(
        tmp_path / "a.xlsx", 训练=[["q", "a"], ["问", "答"], [], ["二", "b"]], more=[["prompt", "response"], ["c", "d"]], none=[]
    )

    assert list(workbook_rows(path)) == [
        (f"{path}!训练:2", {"q": "问", "a": "答"}),
        (f"{path}!训练:4", {"q": "二", "a": "b"}),
        (f"{path}!more:2", {"prompt": "c", "response": "d"}),
    ]


def test_what_excel_takes_for_a_number_or_a_date_is_its_text(tmp_path: Path) -> None:
    cells = [7, 7.0, 1.5, True, datetime(2023, 3, 14, 9, 30), date(2023, 3, 14), "_x000D_"]
    path = workbook(tmp_path / "a.xlsx", rows=[list("abcdefg"), cells])

    ((_location, row),) = workbook_rows(path)

    assert row == dict(zip("abcdefg", ["7", "7", "1.5", "TRUE", "2023-03-14 09:30:00", "2023-03-14", "\r"], strict=True))


def test_hidden_sheets_are_named_and_not_read(tmp_path: Path) -> None:
    path = workbook(tmp_path / "a.xlsx", rows=[["q", "a"], ["1", "2"]], lists=[["x"], ["y"]])
    book = openpyxl.load_workbook(path)
    book["lists"].sheet_state = "hidden"
    book.save(path)

    assert sheet_names(path) == (["rows"], ["lists"])
    assert [place for place, _row in workbook_rows(path)] == [f"{path}!rows:2"]


def test_an_error_of_a_formula_and_an_extra_cell_are_reported(tmp_path: Path) -> None:
    path = workbook(tmp_path / "a.xlsx", rows=[["q", "a"], ["1", "#REF!"], ["1", "2", "3"]])

    assert [str(row) for _location, row in workbook_rows(path)] == [
        "holds the error of a formula, #REF!. Fix the formula, or write its value.",
        'has 3 cells, but the header has 2 columns: "q", "a".',
    ]


def test_control_characters_are_escaped_as_excel_does() -> None:
    assert escape_cell("a\r\nb\tc\x01_x0041__x") == "a_x000D_\nb\tc_x0001__x005F_x0041__x"


def test_a_broken_workbook_is_reported(tmp_path: Path) -> None:
    path = workbook(tmp_path / "a.xlsx", rows=[["q", "a"], ["1", "2"]])
    with zipfile.ZipFile(tmp_path / "b.xlsx", "w") as broken, zipfile.ZipFile(path) as whole:
        for name in whole.namelist():
            broken.writestr(name, whole.read(name)[:-60] if "sheet1" in name else whole.read(name))

    *_rows, (place, problem) = workbook_rows(tmp_path / "b.xlsx")
    with pytest.raises(UserError, match="is a broken workbook"):
        list(workbook_rows(_truncated(path)))

    assert place.startswith(f"{tmp_path}/b.xlsx!rows:")
    assert isinstance(problem, BadRowError)
    assert str(problem).startswith("the workbook is broken from about here on: ")


def _truncated(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[:-30])
    return path


def test_a_missing_library_is_reported_with_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.xlsx").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "openpyxl", None)

    with pytest.raises(UserError, match=r"Run `pip install 'imprint\[tables\]'`"):
        list(workbook_rows(tmp_path / "a.xlsx"))


def test_a_cell_far_away_costs_no_more_than_its_row(tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    book.worksheets[0].append(["q", "a"])
    book.worksheets[0].append(["1", "2"])
    book.worksheets[0]["XFD1048576"] = "z"
    book.save(tmp_path / "far.xlsx")

    with cpu_time(at_most=20):
        (_place, first), (place, last) = workbook_rows(tmp_path / "far.xlsx")

        assert first == {"q": "1", "a": "2"}
        assert place.endswith("!Sheet:1048576")
        assert str(last) == 'has 16384 cells, but the header has 2 columns: "q", "a".'


def test_a_header_of_thousands_of_columns_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the header has 1,001 columns, more than 1,000"):
        list(workbook_rows(workbook(tmp_path / "a.xlsx", rows=[[f"c{number}" for number in range(1001)]])))


def test_a_workbook_that_unpacks_without_end_is_refused(tmp_path: Path) -> None:
    path = workbook(tmp_path / "a.xlsx", rows=[["q", "a"]])
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("xl/sharedStrings.xml", b"<sst>" + bytes(2**25) + b"</sst>")

    with pytest.raises(UserError, match=r"a.xlsx has [\d,]+ bytes and would unpack to 33,[\d,]+, which no table does"):
        detect_format(path)


def test_a_formula_without_its_value_is_no_empty_cell(tmp_path: Path) -> None:
    path = workbook(tmp_path / "a.xlsx", a=[["q", "more", "a"], ["1", '="x"&"y"', "2"], ["3", "", "4"], ["5", "=A2", "6"]])

    rows = list(workbook_rows(path))

    assert [str(row) for _place, row in rows if isinstance(row, BadRowError)] == [
        "holds a formula whose value is not in the file. Open the workbook in Excel, save it, and try again."
    ] * 2
    assert [place for place, _row in rows] == [f"{path}!a:{line}" for line in (2, 3, 4)]


def test_an_empty_text_is_the_value_of_a_formula(tmp_path: Path) -> None:
    path = workbook(tmp_path / "a.xlsx", a=[["q", "more", "a"], ["1", '=""', "2"]])
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    parts["xl/worksheets/sheet1.xml"] = parts["xl/worksheets/sheet1.xml"].replace(b'<c r="B2">', b'<c r="B2" t="str">')
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)

    assert list(workbook_rows(path)) == [(f"{path}!a:2", {"q": "1", "more": "", "a": "2"})]


def test_no_more_bytes_are_counted_than_the_file_has(tmp_path: Path) -> None:
    path, counted = workbook(tmp_path / "a.xlsx", rows=[["q", "a"], *([f"{number}", "b"] for number in range(3000))]), list[int]()
    assert len(list(workbook_rows(path, counted.append))) == 3000
    assert 0 < sum(counted) <= path.stat().st_size


def test_a_shared_text_that_stands_in_very_many_rows_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imprint.data.readers.rows.PACKED_CHARACTERS", 50_000)
    monkeypatch.setattr("imprint.data.readers.rows.PACKED_RATIO", 2)
    workbook(tmp_path / "a.xlsx", Sheet=[["q"], *[["裙" * 1000]] * 100])

    with pytest.raises(
        UserError, match=r"a\.xlsx!Sheet:51: a\.xlsx has [\d,]+ bytes, and 50,400 characters \(8 for each value\) in 50 rows up to here"
    ):
        list(read_rows(tmp_path / "a.xlsx"))


def test_a_row_of_formulas_alone_is_no_blank_one(tmp_path: Path) -> None:
    path = workbook(tmp_path / "a.xlsx", rows=[["q", "a"], ["=1+1", "=2+2"], ["b", "c"]])

    (_place, refused), (_other, row) = workbook_rows(path)

    assert "a formula whose value is not in the file" in str(refused)
    assert row == {"q": "b", "a": "c"}


def sheet_of(path: Path, rows: str) -> Path:
    """A workbook whose only sheet has these rows of XML after its header."""
    workbook(path, rows=[["q", "a"]])
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    name = "xl/worksheets/sheet1.xml"
    parts[name] = parts[name].replace(b"</sheetData>", rows.encode() + b"</sheetData>")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for part, content in parts.items():
            archive.writestr(part, content)
    return path


def test_cells_far_away_in_every_row_cost_no_more_than_what_is_stored(tmp_path: Path) -> None:
    path = sheet_of(tmp_path / "a.xlsx", "".join(f'<row r="{row}"><c r="XFD{row}"><v>1</v></c></row>' for row in range(2, 1002)))

    with cpu_time(at_most=1):
        rows = [row for _place, row in workbook_rows(path)]

    assert len(rows) == 1000
    assert str(rows[0]) == 'has 16384 cells, but the header has 2 columns: "q", "a".'


@pytest.mark.parametrize("number", [1, 2, 2**20 + 1])
def test_a_row_that_stands_out_of_order_or_beyond_the_last_is_not_left_out(tmp_path: Path, number: int) -> None:
    cells = "<c><v>1</v></c><c><v>2</v></c>"
    path = sheet_of(tmp_path / "a.xlsx", f'<row r="2">{cells}</row><row r="{number}">{cells}</row>')

    (_place, row), (_other, refused) = workbook_rows(path)

    assert row == {"q": "1", "a": "2"}
    assert str(refused).startswith("has a number that cannot follow row 2, or is above 1,048,576.")


def test_cells_that_stand_out_of_order_are_all_read(tmp_path: Path) -> None:
    path = sheet_of(tmp_path / "a.xlsx", '<row r="2"><c r="B2"><v>2</v></c><c r="A2"><v>1</v></c></row>')

    assert [row for _place, row in workbook_rows(path)] == [{"q": "1", "a": "2"}]


def test_sheets_of_one_part_are_refused(tmp_path: Path) -> None:
    path = workbook(tmp_path / "a.xlsx", rows=[["q", "a"], ["1", "2"]], more=[["q", "a"], ["3", "4"]])
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    relations = "xl/_rels/workbook.xml.rels"
    parts[relations] = parts[relations].replace(b"sheet2.xml", b"sheet1.xml")
    with zipfile.ZipFile(path, "w") as archive:
        for part, content in parts.items():
            archive.writestr(part, content)

    with pytest.raises(UserError, match="2 sheets have 1 parts of the file, and each must have its own"):
        list(workbook_rows(path))


@pytest.mark.parametrize("error", ["#GETTING_DATA", "#FIELD!"])
def test_the_errors_of_newer_formulas_are_no_texts(tmp_path: Path, error: str) -> None:
    ((_place, row),) = workbook_rows(workbook(tmp_path / "a.xlsx", rows=[["q", "a"], ["b", error]]))

    assert str(row).startswith(f"holds the error of a formula, {error}.")
