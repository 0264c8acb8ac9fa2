"""Rows of Excel workbooks, read with openpyxl if installed."""

import io
import re
import warnings
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import date, datetime, time
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from imprint.data.readers.bad_rows import BadRowError, first_line
from imprint.data.readers.encodings import ReportBytes
from imprint.data.readers.tables import MAX_COLUMNS, Header
from imprint.messages import Bilingual, UserError

if TYPE_CHECKING:
    from openpyxl import Workbook

BATCH_ROWS: Final = 1000
EXCEL_ROWS: Final = 2**20
"""Maximum rows of a sheet."""
ESCAPE: Final = re.compile(r"[\x00-\x08\x0b-\x1f]|_(?=x[0-9A-Fa-f]{4}_)")
UNESCAPE: Final = re.compile(r"_x([0-9A-Fa-f]{4})_")
UNCOMPUTED: Final = re.compile(
    rb'<c r="[A-Z]{1,3}(\d{1,7})"(?![^>]* t="str")[^>]*>\s*<f(?:\s[^>]*)?(?:/>|>[^<]*</f>)\s*(?:<v\s*/>|<v>\s*</v>)?\s*</c>'
)
"""A cell with a formula and no value, and its row; `str` is a text, which may be empty. Source: CT_Cell in ECMA-376-1, 18.3.1.4."""
CHUNK_BYTES, LONGEST_CELL = 2**20, 2**16
FORMULA_ERRORS: Final = (
    *("#REF!", "#N/A", "#VALUE!", "#DIV/0!", "#NAME?", "#NULL!", "#NUM!", "#SPILL!", "#CALC!"),
    *("#GETTING_DATA", "#FIELD!", "#BLOCKED!", "#CONNECT!", "#UNKNOWN!", "#BUSY!", "#PYTHON!", "#EXTERNAL!"),
)


def sheet_names(path: Path) -> tuple[list[str], list[str]]:
    """Names of the sheets of a workbook: (visible ones, which are read; hidden ones, which are not)."""
    with _CountedFile(path, None) as file:
        book = _open_workbook(path, file)
        visible = [sheet.title for sheet in book.worksheets if sheet.sheet_state == "visible"]
        return visible, [sheet.title for sheet in book.worksheets if sheet.sheet_state != "visible"]


def workbook_rows(path: Path, report_bytes: ReportBytes | None = None) -> Iterator[tuple[str, object]]:
    """The (`file!sheet:row`, dict or BadRowError) of each row of all visible sheets; the first row of a sheet is its header."""
    with _CountedFile(path, report_bytes) as file:
        book = _open_workbook(path, file)
        _refuse_shared_parts(path, book)
        for sheet in book.worksheets:
            if sheet.sheet_state == "visible":
                yield from _sheet_rows(sheet, f"{path}!{sheet.title}", _uncomputed_rows(path, sheet))


def _refuse_shared_parts(path: Path, book: Any) -> None:
    """Raise UserError where sheets are one and the same part of the archive: a few bytes stand for any number of them."""
    parts = Counter(sheet._worksheet_path for sheet in book.worksheets)
    if len(parts) < parts.total():
        raise UserError(
            Bilingual(
                f"{path}: {parts.total()} sheets have {len(parts)} parts of the file, and each must have its own. Save the workbook again.",
                f"{path}：{parts.total()} 个工作表共用文件中的 {len(parts)} 个部分，而每个须有自己的：请重新保存。",
            )
        )


def _sheet_rows(sheet: Any, location: str, uncomputed: set[int]) -> Iterator[tuple[str, object]]:
    header, last = None, 0
    rows = _stored_rows(sheet)
    while True:
        try:
            with warnings.catch_warnings():  # openpyxl warns of what it ignores, such as colours
                warnings.simplefilter("ignore")
                batch = list(islice(rows, BATCH_ROWS))
        except Exception as error:  # its parsers raise anything on a broken file
            yield (
                f"{location}:{last + 1}",
                BadRowError(
                    Bilingual(
                        f"the workbook is broken from about here on: {first_line(error)}. Save or download it again.",
                        f"工作簿大约从此处起已损坏（{first_line(error)}）：请重新保存或下载。",
                    )
                ),
            )
            return
        for number, values in batch:
            texts = {column: text for column, value in values.items() if (text := _cell_text(value))}
            computed = header is None or number not in uncomputed
            if computed and not any(text.strip() for text in texts.values()):
                continue
            if not last < number <= EXCEL_ROWS:
                yield f"{location}:{number}", _misplaced_error(last)
                continue
            last = number
            if header is None:
                header = Header.from_cells(_line(texts, max(texts)), f"{location}:{number}")
            elif (row := _row(texts, header, computed=computed)) is not None:
                yield f"{location}:{number}", row
        if len(batch) < BATCH_ROWS:
            return


def _row(texts: Mapping[int, str], header: Header, *, computed: bool) -> dict[str, str] | BadRowError | None:
    """The row of the texts of cells, by the numbers of their columns; `computed`: all its formulas have values."""
    formula_error = next((text for text in texts.values() if text in FORMULA_ERRORS), None)
    if formula_error is not None:
        return BadRowError(
            Bilingual(
                f"holds the error of a formula, {formula_error}. Fix the formula, or write its value.",
                f"含有公式错误 {formula_error}：请修正公式，或写入其值。",
            )
        )
    if not computed:
        return BadRowError(
            Bilingual(
                "holds a formula whose value is not in the file. Open the workbook in Excel, save it, and try again.",
                "含有公式，而文件中没有它的值：请用 Excel 打开并保存后重试。",
            )
        )
    if max(texts) > MAX_COLUMNS:  # a cell far away: the row is not written out up to it
        return header.other_count(max(texts))
    return header.row(_line(texts, max(len(header.names), *texts)))


def _line(texts: Mapping[int, str], width: int) -> list[str]:
    """The texts of so many cells of a row, "" for those that are empty."""
    return [texts.get(column, "") for column in range(1, width + 1)]


def _misplaced_error(last: int) -> BadRowError:
    return BadRowError(
        Bilingual(
            f"has a number that cannot follow row {last:,}, or is above {EXCEL_ROWS:,}. Open the workbook in Excel, save it, and "
            "try again.",
            f"行号不能排在第 {last} 行之后，或超过 {EXCEL_ROWS}：请用 Excel 打开并保存后重试。",
        )
    )


def _uncomputed_rows(path: Path, sheet: Any) -> set[int]:
    """The rows with a formula whose value is not in the file, as programs write it that do not compute; none of what cannot be read."""
    rows: set[int] = set()
    try:
        # openpyxl gives such a cell as an empty one.
        with zipfile.ZipFile(path) as archive, archive.open(sheet._worksheet_path) as source:
            text = b""
            while chunk := source.read(CHUNK_BYTES):
                text += chunk
                if b"<f" in text:
                    rows.update(int(match[1]) for match in UNCOMPUTED.finditer(text))
                text = text[-LONGEST_CELL:]
    except Exception:  # broken: reading the rows says so
        return set()
    return rows


def _stored_rows(sheet: Any) -> Iterator[tuple[int, dict[int, object]]]:
    """The (number, column -> value) of each row as it is stored, read by openpyxl's parser.

    What openpyxl itself gives as rows has also every empty cell up to the last, and every row that is not there: a few bytes stand for any
    number of them. It leaves out what does not stand in order.
    """
    from openpyxl.worksheet._reader import WorkSheetParser

    book = sheet.parent
    with sheet._get_source() as source:
        parser: Any = WorkSheetParser(
            source,
            sheet._shared_strings,
            data_only=True,
            epoch=book.epoch,
            date_formats=book._date_formats,
            timedelta_formats=book._timedelta_formats,
        )
        for number, cells in parser.parse():
            yield number, {cell["column"]: cell["value"] for cell in cells if cell["value"] is not None}


def escape_cell(text: str) -> str:
    """A text with control characters escaped as in a workbook's XML. Source: ST_Xstring in ECMA-376-1, 22.9.2.19."""
    return ESCAPE.sub(lambda match: f"_x{ord(match[0]):04X}_", text)


def _unescape(text: str) -> str:
    return UNESCAPE.sub(lambda match: chr(int(match[1], 16)), text) if "_x" in text else text


def _cell_text(value: object) -> str:
    """The text of a cell, which Excel may have turned into a number or a date."""
    match value:
        case None:
            return ""
        case str():
            return _unescape(value)
        case bool():
            return str(value).upper()
        case float() if value.is_integer():
            return str(int(value))
        case datetime() if value.time() == time():  # a workbook stores a day as its midnight
            return value.date().isoformat()
        case datetime():
            return value.isoformat(sep=" ")
        case date() | time():
            return value.isoformat()
    return str(value)


class _CountedFile(io.FileIO):
    """A file that reports the bytes read from it, each once: some of an archive are read again."""

    def __init__(self, path: Path, report_bytes: ReportBytes | None) -> None:
        super().__init__(path)
        self._report_bytes = report_bytes
        self._left = path.stat().st_size

    def read(self, size: int | None = -1, /) -> bytes:
        """Read and report bytes."""
        data = super().read(-1 if size is None else size) or b""
        new = min(len(data), self._left)
        self._left -= new
        if self._report_bytes is not None and new:
            self._report_bytes(new)
        return data


def _open_workbook(path: Path, file: _CountedFile) -> "Workbook":
    try:
        from openpyxl import load_workbook
    except ImportError as error:
        raise UserError(
            Bilingual(
                f"{path}: openpyxl, which reads Excel, is not installed. Run `pip install 'imprint[tables]'`, or save as CSV.",
                f"{path}：未安装读取 Excel 的 openpyxl：请运行 pip install 'imprint[tables]'，或另存为 CSV。",
            )
        ) from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return load_workbook(file, read_only=True, data_only=True, keep_links=False)
    except Exception as error:
        raise UserError(
            Bilingual(
                f"{path} is a broken workbook: {first_line(error)}. Save or download it again.",
                f"{path}：工作簿已损坏：请重新保存或下载。",
            )
        ) from error
