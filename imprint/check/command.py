"""`imprint data check`: find every problem of data before training."""

import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Final

from imprint.check.conclusion import CheckArguments, conclusion_lines
from imprint.check.destination import check_destination
from imprint.check.findings import KINDS
from imprint.check.fix import outcome_lines, write_repaired
from imprint.check.report import all_findings, bad_row_lines, finding_lines, language_line, length_lines, location_shortener
from imprint.check.scan import DataScan
from imprint.check.settings import read_settings
from imprint.check.shaped_rows import CHECKING, read_progress, rows_with_shapes
from imprint.check.text_scan import check_text_command
from imprint.data.readers.bad_rows import ENOUGH_LACKING, BadRowError, FirstOfEachKind, MissingColumnError
from imprint.data.readers.rows import describe_source
from imprint.data.readers.sources import detect_format, parse_source
from imprint.data.sample import Sample
from imprint.data.shapes import Columns
from imprint.messages import Bilingual, UserError
from imprint.terminal import Style, say, style_for, terminal_columns

OVERRIDE: Final = re.compile(r"[a-z_.]+=")


def check_command(files: Sequence[str], *, dev: str | None, model: str | None, fix: Path | None, overrides: Sequence[str]) -> int:
    """Check files and print the findings; with `fix` also write a repaired file. Returns exit status 0 if no error is left, else 1.

    A file that cannot be read is reported, and the others are checked. Raises UserError if none can be read, and for wrong arguments.
    """
    files, overrides = _split_arguments([*files, *overrides])
    fix = check_destination(files, dev, fix)
    settings = read_settings(model, overrides, files)
    arguments = CheckArguments(files, dev, model, overrides, settings.base)
    style = style_for(sys.stdout)
    say(style(Bilingual("data check", "数据检查").line, "bold"), f"  {settings.summary()}")
    if settings.texts is not None:
        if fix is not None:
            raise UserError(
                Bilingual(
                    f"--fix {fix}: repairs only rows of questions and answers, and these are texts. Leave it out, or set kind=rows.",
                    f"--fix {fix}：只修复问答数据，而这些是纯文本：请去掉 --fix，或设 kind=rows。",
                )
            )
        return check_text_command(files, dev, settings, [*(["--model", model] if model else []), *overrides])
    settings.encode(Sample("?", "!", None, ""))  # raises for limits that no row fits
    held_out = None if dev is None else DataScan(settings)
    if (
        dev is not None
        and held_out is not None
        and (missing := _scan_files([dev], held_out, settings.columns, style, whole=fix is not None))
    ):
        raise UserError(missing[0])
    scan = DataScan(settings)
    unreadable = _scan_files(files, scan, settings.columns, style, whole=fix is not None)
    if len(unreadable) == len(files) and not scan.rows:
        raise UserError("\n".join(unreadable))
    scan.held_out = held_out
    _choose_limits(scan, files, dev, settings.columns)
    short = location_shortener([*files, *([dev] if dev else [])])
    findings = all_findings(scan, held_out, short)
    say(*length_lines(scan, style), *language_line(scan.languages, style))
    say(
        *finding_lines(
            findings,
            short,
            compared=dev is not None,
            style=style,
            columns=terminal_columns(sys.stdout),
            fixable=bool(scan.digests.locations),
        )
    )
    if fix is not None:
        say(*outcome_lines(write_repaired(fix, files, settings.columns, scan, held_out), fix, style))
    say(*conclusion_lines(arguments, scan, findings, len(unreadable), fix, style))
    errors = [name for name in findings if KINDS[name].severity == "error" and (fix is None or not KINDS[name].fix)]
    return 1 if unreadable or not scan.samples or errors else 0


def _split_arguments(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Separate files from overrides, which the command line mixes; anything that exists is a file, whatever its name."""
    overrides = [word for word in words if OVERRIDE.match(word) and not Path(word).exists()]
    files = [word for word in words if word not in overrides]
    if not files:
        raise UserError(
            Bilingual(
                "there is no file to check. Name one or more: imprint data check train.jsonl",
                "没有要检查的文件：请给出文件名，例如 imprint data check train.jsonl。",
            )
        )
    return files, overrides


def _choose_limits(scan: DataScan, files: Sequence[str], dev: str | None, columns: Columns) -> None:
    """Choose the limits that are not given, as training would, and count what they cut."""
    for cutting in scan.choose_limits():
        for source in files if cutting is scan else [dev] if dev else []:
            _count_cut_rows(source, cutting, columns)


def _count_cut_rows(source: str, scan: DataScan, columns: Columns) -> None:
    """Read the rows of a source again, to see what the limits chosen from them cut; what cannot be read was told the first time."""
    with suppress(UserError), read_progress(source, Bilingual("looking again at", "复查")) as progress:
        for location, value, shape in islice(rows_with_shapes(source, columns, progress), scan.partly_read.get(source)):
            scan.add_cut(location, value, shape)


class _LackingRows:
    """Holds the lines of rows without the named columns back: where all rows lack them, one is enough."""

    def __init__(self) -> None:
        self.held: list[str] = []
        """The lines held back."""
        self.count = 0
        """Number of rows without the named columns."""
        self._only = True

    def lines(self, problem: BadRowError | None, line: str | None) -> list[str]:
        """What is to be printed after a row, with its own `line` if it has one."""
        own = [] if line is None else [line]
        self.count += isinstance(problem, MissingColumnError)
        if self._only and isinstance(problem, MissingColumnError):
            self.held += own
            return []
        held, self.held, self._only = self.held, [], False
        return [*held, *own]


def _scan_files(files: Sequence[str], scan: DataScan, columns: Columns, style: Style, *, whole: bool) -> list[str]:
    """Scan all rows of `files` and print the first bad ones of each kind; returns the errors of unreadable files.

    Unless `whole`, a file is left where its first ENOUGH_LACKING rows lack the columns. Raises the error of a single file.
    """
    unreadable = []
    for source in files:
        rows, bad, samples, first, lacking = scan.rows, scan.bad_rows, scan.samples, FirstOfEachKind(), _LackingRows()
        try:
            described = describe_source(source, columns)
            say("", style(described.english, "bold"), f"  {described.chinese}")
            with read_progress(source, CHECKING) as progress:
                for location, value, shape in rows_with_shapes(source, columns, progress):
                    problem = scan.add(location, value, shape)
                    shown = problem is not None and first.shows(problem)
                    for line in lacking.lines(problem, bad_row_lines(location, problem.reason) if problem and shown else None):
                        progress.say(line)
                    if lacking.count == ENOUGH_LACKING and scan.samples == samples and not whole and _is_one_table(source):
                        scan.partly_read[source] = scan.rows - rows
                        break
        except UserError as error:
            if len(files) == 1 and scan.rows == rows:
                raise
            unreadable.append(str(error))
            say(f"{style('✗', 'red', 'bold')} {error}")
        if source in scan.partly_read:
            say(*lacking.held[:1], f"  {_partly_read(scan.partly_read[source]).line}")
        elif lacking.held:
            say(lacking.held[0], f"  {Bilingual(f'so are all {first.total:,} rows', f'全部 {first.total:,} 行都是如此').line}")
        elif (rest := first.rest_by_kind()) is not None:
            say(f"{rest.english}\n  {rest.chinese}")
        say("  " + _counts(scan.rows - rows, scan.bad_rows - bad, scan.samples - samples).line)
    return unreadable


def _is_one_table(source: str) -> bool:
    """Whether all rows of a source have the shape of the first: a folder has one for each file, and a workbook for each sheet."""
    path = parse_source(source).path
    return path.is_file() and detect_format(path).format != "an Excel workbook"


def _partly_read(rows: int) -> Bilingual:
    return Bilingual(
        f"none of the first {rows:,} rows can be read for this reason, so the others are not looked at",
        f"前 {rows:,} 行因此均无法读取，其余不再检查",
    )


def _counts(rows: int, bad: int, answers: int) -> Bilingual:
    """The rows of a file, and the answers to learn from them where there are more or fewer."""
    counted = Bilingual(f"{rows:,} rows, {bad:,} bad", f"{rows:,} 行，{bad:,} 坏行")
    if answers == rows - bad:
        return counted
    return Bilingual(f"{counted.english}, {answers:,} answers to learn from", f"{counted.chinese}，共 {answers:,} 个要学的回答")
