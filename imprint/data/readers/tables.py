"""Rows of CSV and TSV; what makes a dict of any table's row by its header."""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from imprint.data.readers.bad_rows import BadRowError, quote
from imprint.data.readers.encodings import Encoding, ReportBytes, read_lines, undecodable_error
from imprint.errors import UserError

LONGEST_CELL: Final = 2**20
"""Characters of a cell of CSV; what is longer is a quote that is not closed."""


@dataclass(frozen=True)
class Header:
    """The names of a table's columns, "" for a column without one."""

    names: tuple[str, ...]
    """In their order."""

    @classmethod
    def from_cells(cls, cells: Sequence[str], location: str) -> "Header":
        """Take the first row that is not blank for it; raises UserError where two columns have one name."""
        names = tuple(cell.strip(" \t\r\n\ufeff") for cell in cells)
        twice = next((name for name in names if name and names.count(name) > 1), None)
        if twice is not None:
            raise UserError(f"{location}: the header has two columns {quote(twice)}, so it is not known which is meant. Rename one.")
        while names and not names[-1]:
            names = names[:-1]
        return cls(names)

    def row(self, cells: Sequence[str]) -> dict[str, str] | BadRowError | None:
        """The cells by their names; None for a row without any text."""
        if not any(cell.strip() for cell in cells):
            return None
        filled = list(cells)
        while len(filled) > len(self.names) and not filled[-1]:
            filled.pop()
        if len(filled) != len(self.names):
            if len(self.names) == 1:
                title = quote(self.names[0])
                return BadRowError(f"has {len(filled)} cells, but the first row has one, {title}. If that is a title, delete its row.")
            named, cells_there = ", ".join(map(quote, self.names)), f"{len(filled)} cell{'s' * (len(filled) != 1)}"
            return BadRowError(f"has {cells_there}, but the header has {len(self.names)} columns: {named}.")
        if tuple(cell.strip(" \t\r\n\ufeff") for cell in filled) == self.names:
            return BadRowError("is the header once more. Delete it.")
        nameless = next((cell for name, cell in zip(self.names, filled, strict=True) if cell and not name), None)
        if nameless is not None:
            return BadRowError(f"has {quote(nameless)} in a column to which the header gives no name.")
        return {name: cell for name, cell in zip(self.names, filled, strict=True) if name}


class _LineFeed:
    """Lines for the csv module, which can be given back when a quote turns out to swallow them."""

    def __init__(self, path: Path, encoding: Encoding, report_bytes: ReportBytes | None) -> None:
        self._lines = read_lines(path, encoding, report_bytes)
        self._newline = encoding.newline
        self._again: list[tuple[int, str | BadRowError]] = []
        self.taken: list[tuple[int, str | BadRowError]] = []

    def __iter__(self) -> Iterator[str]:
        while (line := self._again.pop() if self._again else next(self._lines, None)) is not None:
            self.taken.append(line)
            yield line[1] + self._newline if isinstance(line[1], str) else self._newline

    def give_back(self) -> None:
        """Read all that was taken but its first line once more."""
        self._again.extend(reversed(self.taken[1:]))


def csv_rows(path: Path, encoding: Encoding, delimiter: str, report_bytes: ReportBytes | None = None) -> Iterator[tuple[int, object]]:
    """The (line where it starts, dict) of each row of CSV or TSV; the first row names the columns, a bad row is a BadRowError."""
    csv.field_size_limit(max(csv.field_size_limit(), LONGEST_CELL))
    feed = _LineFeed(path, encoding, report_bytes)
    header = None
    rows = csv.reader(iter(feed), delimiter=delimiter, strict=True)
    while True:
        feed.taken.clear()
        try:
            cells = next(rows, None)
        except csv.Error as error:
            number = feed.taken[0][0]
            feed.give_back()
            rows = csv.reader(iter(feed), delimiter=delimiter, strict=True)
            yield number, BadRowError(_explain(str(error), delimiter))
            continue
        if cells is None:
            return
        number, first = feed.taken[0]
        wrong = first if isinstance(first, BadRowError) else undecodable_error("".join(str(text) for _number, text in feed.taken), encoding)
        if wrong is not None:
            yield number, wrong
        elif header is None:
            header = Header.from_cells(cells, f"{path}:{number}") if any(cell.strip() for cell in cells) else None
        elif (row := header.row(cells)) is not None:
            yield number, row


def _explain(error: str, delimiter: str) -> str:
    """What the csv module stumbled over, in the words of one who types a table."""
    between = "a tab" if delimiter == "\t" else f'"{delimiter}"'
    if "expected after" in error:
        return f'a quote within a quoted cell must be written twice (""), and behind the closing one there must be {between} or the end.'
    return 'a quoted cell begins here and is never closed. Close its quote, or write a quote within a cell twice ("").'
