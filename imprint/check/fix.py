"""`imprint data check --fix OUT`: write repaired rows, and rejected rows with the reason beside them."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Final, TextIO

from imprint.check.duplicates import duplicated, leaked
from imprint.check.repair import repair_row
from imprint.check.report import heading
from imprint.check.row_format import RowFormat
from imprint.check.scan import DataScan
from imprint.check.shaped_rows import read_progress, rows_with_shapes
from imprint.data.readers.bad_rows import BadRowError
from imprint.data.shapes import Columns
from imprint.files.atomic import atomic_file, nonfinite_to_null
from imprint.messages import Bilingual, UserError
from imprint.terminal import Style

REPAIRS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "garbled": "mojibake decoded",
        "stray": "stray characters removed",
        "tokens": "special tokens removed",
        "blanks": "whitespace trimmed",
        "json": "broken JSON parsed",
        "encoding": "a line in another encoding decoded",
        "columns": "column names cleaned",
        "numbers": "numbers converted to text",
        "unanswered": "a last question without an answer dropped",
    }
)
"""Name of a repair -> its description."""
REASONS: Final[Mapping[str, str]] = MappingProxyType({"duplicated": "repeated", "leaked": "held out", "bad": "cannot be fixed"})
"""Reason for rejecting a row -> its description."""


@dataclass
class FixOutcome:
    """Result of a fix."""

    written: int = 0
    """Number of rows written."""
    changed: Counter[str] = field(default_factory=Counter)
    """Name of a repair -> number of written rows."""
    rejected: Counter[str] = field(default_factory=Counter)
    """Reason (duplicated, leaked, bad) -> number of rejected rows."""
    columns: list[str] = field(default_factory=list)
    """Columns that are not read, and so not written."""


def rejected_file(out: Path) -> Path:
    """The file of the rejected rows."""
    return out.with_name(f"{out.stem}.rejected.jsonl")


def write_repaired(out: Path, files: Sequence[str], columns: Columns, scan: DataScan, dev: DataScan | None) -> FixOutcome:
    """Write the rows of `files` as JSON lines and the rejected rows beside them; both files appear complete or not at all.

    `scan` and `dev` are the scans of these files and of the held-out file. Raises UserError if no row is left.
    """
    rows = scan.digests
    reasons = {
        row: ("duplicated", Bilingual(f"repeats {rows.locations[match]}.", f"与 {rows.locations[match]} 重复。"))
        for row, match in duplicated(rows)
    }
    if dev is not None:
        held_out = dev.digests.locations
        reasons |= {
            row: ("leaked", Bilingual(f"is a held-out row, {held_out[match]}.", f"是留出数据中的 {held_out[match]}。"))
            for row, match in leaked(rows, dev.digests)
        }
    row_format = RowFormat(columns, frozenset(scan.shape_kinds))
    outcome, index = FixOutcome(), 0
    with atomic_file(out) as part, atomic_file(rejected_file(out)) as rejected_part:
        with (
            part.open("w", encoding="utf-8", newline="\n") as written,
            rejected_part.open("w", encoding="utf-8", newline="\n", errors="backslashreplace") as rejected,
        ):
            for source in files:
                index = _write_source(source, row_format, written, rejected, reasons, index, outcome, tools=scan.supports_tools)
        if not outcome.written:
            raise UserError(
                Bilingual(
                    f"{out}: no row would be left, so nothing was written. Fix the rows by hand, and check again.",
                    f"{out}：没有剩下任何可用的行，因此没有写入：请手动修改数据后再检查。",
                )
            )
    outcome.columns = sorted(row_format.dropped_columns)
    if not outcome.rejected:
        rejected_file(out).unlink()
    return outcome


def _write_source(
    source: str,
    row_format: RowFormat,
    written: TextIO,
    rejected: TextIO,
    reasons: Mapping[int, tuple[str, Bilingual]],
    index: int,
    outcome: FixOutcome,
    *,
    tools: bool,
) -> int:
    """Write the rows of one source. `index` counts readable and repairable rows as the scan does; returns that of the next source."""
    try:
        with read_progress(source, Bilingual("fixing", "修复")) as progress:
            for location, value, shape in rows_with_shapes(source, row_format.columns, progress):
                repaired = repair_row(value, shape, location, tools=tools)
                reason = reasons.get(index) if repaired.problem is None else ("bad", repaired.problem)
                index += bool(repaired.samples)
                if reason is not None:
                    outcome.rejected[reason[0]] += 1
                    row = value.text if isinstance(value, BadRowError) else value
                    _write_line(rejected, {"place": location, "reason": reason[1].line, "row": row})
                    continue
                outcome.written += 1
                outcome.changed.update(repaired.repairs)
                _write_line(written, row_format.format_row(repaired.row, shape, repaired.samples))
    except UserError:
        return index  # reported by the scan
    return index


def _write_line(file: TextIO, value: object) -> None:
    file.write(json.dumps(nonfinite_to_null(value), ensure_ascii=False, default=str) + "\n")


def outcome_lines(outcome: FixOutcome, out: Path, style: Style) -> Iterator[str]:
    """The result as printed lines."""
    yield heading(Bilingual("fixed", "修复"), style)
    changed = ", ".join(f"{REPAIRS[name]} in {count:,}" for name, count in outcome.changed.most_common())
    written = Bilingual(f"{outcome.written:,} rows", f"写入 {outcome.written:,} 行").line
    yield f"  {style(str(out), 'bold')}: {written}" + (f"; {changed}" if changed else "")
    if outcome.rejected:
        reasons = ", ".join(f"{count:,} {REASONS[name]}" for name, count in outcome.rejected.most_common())
        count = outcome.rejected.total()
        rejected = Bilingual(f"{count:,} rows rejected, with their reasons", f"剔除 {count:,} 行及原因").line
        yield f"  {style(str(rejected_file(out)), 'bold')}: {rejected}: {reasons}"
    if outcome.columns:
        dropped = Bilingual("columns that are not read were not written", "未写入不读取的列").line
        yield f"  {dropped}: {', '.join(outcome.columns)}"
