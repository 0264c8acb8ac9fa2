"""Rows of CSV and TSV, and the header that maps the cells of any table's row to columns."""

import csv
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from imprint.data.readers.bad_rows import BadRowError, quote, quote_names
from imprint.data.readers.encodings import Encoding, ReportBytes, read_lines, undecodable_error
from imprint.messages import Bilingual, UserError

MAX_CELL: Final = 2**20
"""Maximum characters of a CSV cell; what is longer is an unclosed quote."""
MAX_COLUMNS: Final = 1000
"""Maximum columns of a table."""
REREAD_SHARE, REREAD_BYTES = 4, 2**22
"""Characters that are read again after unclosed quotes: at most this many times all that were read, and this many more."""


@dataclass(frozen=True)
class Header:
    """The column names of a table, "" for a column without one."""

    names: tuple[str, ...]
    """Names, in order of the columns."""

    @classmethod
    def from_cells(cls, cells: Sequence[str], location: str) -> "Header":
        """The header in the cells of the first row that is not blank. Raises UserError for a repeated name."""
        names = tuple(cell.strip(" \t\r\n\ufeff") for cell in cells)
        if len(names) > MAX_COLUMNS:
            raise UserError(
                Bilingual(
                    f"{location}: the header has {len(names):,} columns, more than {MAX_COLUMNS:,}. Keep those of question and answer.",
                    f"{location}：表头有 {len(names):,} 列，超过 {MAX_COLUMNS:,} 列：请只保留问题与答案等列。",
                )
            )
        counts = Counter(names)
        repeated = next((name for name in names if name and counts[name] > 1), None)
        if repeated is not None:
            raise UserError(
                Bilingual(
                    f"{location}: the header has two columns {quote(repeated)}, and it is unclear which is meant. Rename one.",
                    f"{location}：表头中有两列都叫 {quote(repeated)}：请给其中一列改名。",
                )
            )
        while names and not names[-1]:
            names = names[:-1]
        return cls(names)

    def row(self, cells: Sequence[str]) -> dict[str, str] | BadRowError | None:
        """The cells by column name; None for a blank row, BadRowError for cells that do not fit the header."""
        if not any(cell.strip() for cell in cells):
            return None
        filled = list(cells)
        while len(filled) > len(self.names) and not filled[-1]:
            filled.pop()
        if len(filled) != len(self.names):
            return self.other_count(len(filled))
        if tuple(cell.strip(" \t\r\n\ufeff") for cell in filled) == self.names:
            return BadRowError(Bilingual("repeats the header. Delete it.", "重复了表头：请删除。"))
        start = 1 if self.names[0] == "" and filled[0].isascii() and filled[0].isdecimal() else 0  # pandas writes its index there
        unnamed = next((cell for name, cell in zip(self.names[start:], filled[start:], strict=True) if cell and not name), None)
        if unnamed is not None:
            return BadRowError(
                Bilingual(
                    f"has {quote(unnamed)} in a column without a name in the header.",
                    f"表头中没有名字的一列里有内容 {quote(unnamed)}。",
                )
            )
        return {name: cell for name, cell in zip(self.names, filled, strict=True) if name}

    def other_count(self, count: int) -> BadRowError:
        """The error of a row with so many cells, which are not as many as the columns."""
        if len(self.names) == 1:
            title = quote(self.names[0])
            return BadRowError(
                Bilingual(
                    f"has {count} cells, but the first row has one, {title}. If that is a title, delete its row.",
                    f"有 {count} 个单元格，而首行只有一个 {title}：如果那是标题，请删掉该行。",
                )
            )
        columns = quote_names(self.names)
        return BadRowError(
            Bilingual(
                f"has {count} cell{'s' * (count != 1)}, but the header has {len(self.names)} columns: {columns.english}.",
                f"有 {count} 个单元格，而表头有 {len(self.names)} 列：{columns.chinese}。",
            )
        )


class _LineFeed:
    """Lines for the csv module; after an unclosed quote, the lines that it swallowed can be read again."""

    def __init__(self, path: Path, encoding: Encoding, report_bytes: ReportBytes | None) -> None:
        self._lines = read_lines(path, encoding, report_bytes)
        self._newline = encoding.newline
        self._returned: list[tuple[int, str | BadRowError]] = []
        self._read, self._read_again = 0, 0
        self.taken: list[tuple[int, str | BadRowError]] = []

    def __iter__(self) -> Iterator[str]:
        while (line := self._returned.pop() if self._returned else next(self._lines, None)) is not None:
            self.taken.append(line)
            self._read += len(str(line[1]))
            yield line[1] + self._newline if isinstance(line[1], str) else self._newline

    def give_back(self) -> bool:
        """Return all lines in `taken` but the first, to be read again; whether that was not done too often."""
        again = sum(len(str(line)) for _number, line in self.taken[1:])
        self._read, self._read_again = self._read - again, self._read_again + again
        self._returned.extend(reversed(self.taken[1:]))
        return self._read_again <= REREAD_SHARE * self._read + REREAD_BYTES


def csv_rows(path: Path, encoding: Encoding, delimiter: str, report_bytes: ReportBytes | None = None) -> Iterator[tuple[int | str, object]]:
    """The (first line, dict or BadRowError) of each row of CSV or TSV; the first row that is not blank is the header."""
    csv.field_size_limit(max(csv.field_size_limit(), MAX_CELL))
    feed = _LineFeed(path, encoding, report_bytes)
    header = None
    rows = csv.reader(iter(feed), delimiter=delimiter, strict=True)
    while True:
        feed.taken.clear()
        try:
            cells = next(rows, None)
        except csv.Error as error:
            number = feed.taken[0][0]
            readable = feed.give_back()
            rows = csv.reader(iter(feed), delimiter=delimiter, strict=True)
            yield number, BadRowError(_explain(str(error), delimiter))
            if readable:
                continue
            yield (
                number + 1,
                BadRowError(
                    Bilingual(
                        "is not read, nor is any row after it: the quotes of too many cells are not closed.",
                        "及其后各行都没有读取：太多单元格的引号没有闭合。",
                    )
                ),
            )
            return
        if cells is None:
            return
        number, first = feed.taken[0]
        problem = (
            first if isinstance(first, BadRowError) else undecodable_error("".join(str(text) for _number, text in feed.taken), encoding)
        )
        if problem is not None:
            yield number, problem
        elif header is None and _is_separator(cells):
            continue
        elif header is None:
            header = Header.from_cells(cells, f"{path}:{number}") if any(cell.strip() for cell in cells) else None
        elif (row := header.row(cells)) is not None:
            yield number, row


def _is_separator(cells: Sequence[str]) -> bool:
    """Whether a line is `sep=;`, by which Excel is told the delimiter of the lines below."""
    return bool(cells) and cells[0].lower() == "sep=" and not any(cells[1:])


def _explain(error: str, delimiter: str) -> Bilingual:
    """The error of the csv module, in plain words."""
    separator, chinese = ("a tab", "制表符") if delimiter == "\t" else (f'"{delimiter}"', f'"{delimiter}"')
    if "expected after" in error:
        return Bilingual(
            f'a quote within a quoted cell must be written twice (""), and after the closing one there must be {separator} or the end.',
            f'加引号的单元格中，引号须写两次（""），闭合引号之后须是{chinese}或行尾。',
        )
    return Bilingual(
        'a quoted cell begins here and is never closed. Close its quote, or write a quote within a cell twice ("").',
        '此处开始的引号一直没有闭合：请补上，或把单元格内的引号写两次（""）。',
    )
