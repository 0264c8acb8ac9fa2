"""`imprint data check --fix OUT`: all rows as they were meant, and a list of those that were left out, with the reason."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Final, TextIO

from imprint.check.duplicates import leaked, repeated
from imprint.check.repair import repair_row
from imprint.check.report import heading
from imprint.check.row_format import RowFormat
from imprint.check.scan import DataScan
from imprint.check.shaped_rows import read_progress, rows_with_shapes
from imprint.check.terminal import Style
from imprint.data.readers.bad_rows import BadRowError
from imprint.data.shapes import Columns
from imprint.errors import UserError
from imprint.files import atomic_file
from imprint.messages import Bilingual

REPAIRS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "garbled": "garbled text turned back",
        "stray": "stray characters taken out",
        "tokens": "control tokens taken off",
        "blanks": "blanks trimmed",
        "json": "broken JSON read all the same",
        "encoding": "a line turned into the encoding of the others",
        "columns": "names of columns tidied",
        "numbers": "numbers written as text",
        "unanswered": "a last question without an answer left out",
    }
)
"""What was mended in a row -> its words."""
REASONS: Final[Mapping[str, str]] = MappingProxyType({"repeated": "repeated", "leaked": "held out", "bad": "beyond mending"})
"""Why a row is left out -> its words."""


@dataclass
class FixOutcome:
    """What became of the rows."""

    written: int = 0
    """Rows written."""
    changed: Counter[str] = field(default_factory=Counter)
    """What was mended -> in how many of them."""
    left_out: Counter[str] = field(default_factory=Counter)
    """Why rows were left out (repeated, leaked, bad) -> how many."""
    columns: list[str] = field(default_factory=list)
    """Columns that nothing reads, and that were not written."""


def rejected_file(out: Path) -> Path:
    """Where the rows go that are left out."""
    return out.with_name(f"{out.stem}.rejected.jsonl")


def write_repaired(out: Path, files: Sequence[str], columns: Columns, scan: DataScan, dev: DataScan | None) -> FixOutcome:
    """Write the rows of `files` as JSON lines, those that were left out beside them; both are written aside and renamed.

    `seen` and `dev` are what the check of these files and of the held-out file has shown. Raises UserError where no row is left.
    """
    rows = scan.digests
    why = {row: ("repeated", f"repeats {rows.locations[like]}.") for row, like in repeated(rows)}
    if dev is not None:
        why |= {row: ("leaked", f"is a held-out row, {dev.digests.locations[like]}.") for row, like in leaked(rows, dev.digests)}
    form = RowFormat(columns, frozenset(scan.shape_kinds))
    outcome, number = FixOutcome(), 0
    with atomic_file(out) as part, atomic_file(rejected_file(out)) as rejected:
        with (
            part.open("w", encoding="utf-8", newline="\n") as kept,
            rejected.open("w", encoding="utf-8", newline="\n", errors="backslashreplace") as left_out,
        ):
            for source in files:
                number = _write_source(source, form, kept, left_out, why, number, outcome, tools=scan.supports_tools)
        if not outcome.written:
            raise UserError(f"{out}: no row would be left, so nothing was written. Mend the rows by hand, and check again.")
    outcome.columns = sorted(form.dropped_columns)
    if not outcome.left_out:
        rejected_file(out).unlink()
    return outcome


def _write_source(
    source: str,
    form: RowFormat,
    kept: TextIO,
    left_out: TextIO,
    why: Mapping[int, tuple[str, str]],
    number: int,
    outcome: FixOutcome,
    *,
    tools: bool,
) -> int:
    """Write the rows of one source; returns the number of the next row that can be read or mended, as the check has counted it."""
    try:
        with read_progress(source, "mending") as progress:
            for location, value, shape in rows_with_shapes(source, form.columns, progress):
                repaired = repair_row(value, shape, location, tools=tools)
                reason = ("bad", repaired.problem) if not repaired.samples else why.get(number)
                number += bool(repaired.samples)
                if reason is not None:
                    outcome.left_out[reason[0]] += 1
                    row = value.text if isinstance(value, BadRowError) else value
                    _write_line(left_out, {"place": location, "reason": reason[1], "row": row})
                    continue
                outcome.written += 1
                outcome.changed.update(repaired.repairs)
                _write_line(kept, form.format_row(repaired.row, shape, repaired.samples))
    except UserError:
        return number  # the check has told that it cannot be read, or no further
    return number


def _write_line(file: TextIO, value: object) -> None:
    file.write(json.dumps(value, ensure_ascii=False, default=str) + "\n")


def outcome_lines(outcome: FixOutcome, out: Path, style: Style) -> Iterator[str]:
    """What became of the rows, for a person."""
    yield heading(Bilingual("mended", "修复"), style)
    changed = ", ".join(f"{REPAIRS[name]} in {count:,}" for name, count in outcome.changed.most_common())
    written = Bilingual(f"{outcome.written:,} rows", f"写入 {outcome.written:,} 行").line
    yield f"  {style(str(out), 'bold')}: {written}" + (f"; {changed}" if changed else "")
    if outcome.left_out:
        why = ", ".join(f"{count:,} {REASONS[name]}" for name, count in outcome.left_out.most_common())
        count = outcome.left_out.total()
        rejected = Bilingual(f"{count:,} rows left out, with their reasons", f"剔除 {count:,} 行及原因").line
        yield f"  {style(str(rejected_file(out)), 'bold')}: {rejected}: {why}"
    if outcome.columns:
        dropped = Bilingual("columns that are not read were not written", "未写入不读的列").line
        yield f"  {dropped}: {', '.join(outcome.columns)}"
