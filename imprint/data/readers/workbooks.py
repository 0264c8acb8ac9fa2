"""Rows of Excel workbooks, read with openpyxl if installed."""

import io
import re
import warnings
import zipfile
from collections.abc import Iterator
from datetime import date, datetime, time
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from imprint.data.readers.bad_rows import BadRowError, first_line
from imprint.data.readers.encodings import ReportBytes
from imprint.data.readers.tables import Header
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
FORMULA_ERRORS: Final = ("#REF!", "#N/A", "#VALUE!", "#DIV/0!", "#NAME?", "#NULL!", "#NUM!", "#SPILL!", "#CALC!")


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
        for sheet in book.worksheets:
            if sheet.sheet_state == "visible":
                yield from _sheet_rows(sheet, f"{path}!{sheet.title}", _uncomputed_rows(path, sheet))


def _sheet_rows(sheet: Any, location: str, uncomputed: set[int]) -> Iterator[tuple[str, object]]:
    header, number = None, 0
    rows = _cells(sheet)
    while True:
        try:
            with warnings.catch_warnings():  # openpyxl warns of what it ignores, such as colours
                warnings.simplefilter("ignore")
                batch = list(islice(rows, BATCH_ROWS))
        except Exception as error:  # its parsers raise anything on a broken file
            yield (
                f"{location}:{number + 1}",
                BadRowError(
                    Bilingual(
                        f"the workbook is broken from about here on: {first_line(error)}. Save or download it again.",
                        f"工作簿大约从此处起已损坏（{first_line(error)}）：请重新保存或下载。",
                    )
                ),
            )
            return
        for cells in batch:
            number += 1
            if not cells:
                continue
            texts = [_cell_text(cell) for cell in cells]
            formula_error = next((cell for cell in texts if cell in FORMULA_ERRORS), None)
            if header is None:
                header = Header.from_cells(texts, f"{location}:{number}") if any(text.strip() for text in texts) else None
            elif formula_error is not None:
                yield (
                    f"{location}:{number}",
                    BadRowError(
                        Bilingual(
                            f"holds the error of a formula, {formula_error}. Fix the formula, or write its value.",
                            f"含有公式错误 {formula_error}：请修正公式，或写入其值。",
                        )
                    ),
                )
            elif number in uncomputed:
                yield (
                    f"{location}:{number}",
                    BadRowError(
                        Bilingual(
                            "holds a formula whose value is not in the file. Open the workbook in Excel, save it, and try again.",
                            "含有公式，而文件中没有它的值：请用 Excel 打开并保存后重试。",
                        )
                    ),
                )
            elif (row := header.row(_padded(texts, header))) is not None:
                yield f"{location}:{number}", row
        if len(batch) < BATCH_ROWS or number >= EXCEL_ROWS:
            return


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


def _cells(sheet: Any) -> Iterator[tuple[object, ...]]:
    sheet.reset_dimensions()  # some programs write wrong ones, which openpyxl would trust
    yield from sheet.iter_rows(values_only=True)


def _padded(texts: list[str], header: Header) -> list[str]:
    """The row with empty cells up to the last column: openpyxl ends it at its last filled cell."""
    return texts + [""] * (len(header.names) - len(texts))


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
