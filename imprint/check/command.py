"""`imprint data check`: everything that is wrong with data, before a model learns from it."""

import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from imprint.check.conclusion import CheckArguments, conclusion_lines
from imprint.check.findings import KINDS
from imprint.check.fix import outcome_lines, write_repaired
from imprint.check.report import all_findings, finding_lines, language_line, length_lines, location_shortener
from imprint.check.scan import DataScan
from imprint.check.settings import read_settings
from imprint.check.shaped_rows import read_progress, rows_with_shapes
from imprint.check.terminal import Style, style_for, terminal_columns
from imprint.check.text_scan import check_text_command
from imprint.data.readers.rows import describe_source
from imprint.data.sample import Sample
from imprint.data.shapes import Columns
from imprint.errors import UserError
from imprint.messages import Bilingual

OVERRIDE: Final = re.compile(r"[a-z_.]+=")


def check_command(files: Sequence[str], *, dev: str | None, model: str | None, fix: Path | None, overrides: Sequence[str]) -> int:
    """Check files and print what was found; with `fix` also write what can be mended. Returns 0 where nothing is wrong, else 1.

    A file that cannot be read is told, and the others are checked. Raises UserError where none can be read, and for mistaken arguments.
    """
    files, overrides = _split_arguments([*files, *overrides])
    arguments = CheckArguments(files, dev, model, overrides)
    settings = read_settings(model, overrides, files)
    _refuse_same(files, dev, fix)
    style = style_for(sys.stdout)
    _print([style(Bilingual("data check", "数据检查").line, "bold"), f"  {settings.summary()}"])
    if settings.texts is not None:
        if fix is not None:
            raise UserError(
                f"--fix {fix}: only rows of questions and answers are mended, and these are texts. Leave it out, or say kind=rows."
            )
        return check_text_command(files, dev, settings, [*(["--model", model] if model else []), *overrides])
    settings.encode(Sample("?", "!", None, ""))  # limits and truncation that no row can have are no fault of the rows
    held_out = None if dev is None else DataScan(settings, measured=False)
    if dev is not None and held_out is not None and (missing := _scan_files([dev], held_out, settings.columns, style)):
        raise UserError(missing[0])
    scan = DataScan(settings)
    unreadable = _scan_files(files, scan, settings.columns, style)
    if len(unreadable) == len(files) and not scan.rows:
        raise UserError("\n".join(unreadable))
    short = location_shortener([*files, *([dev] if dev else [])])
    found = all_findings(scan, held_out, short)
    _print([*length_lines(scan, style), *language_line(scan.languages, style)])
    _print(finding_lines(found, short, compared=dev is not None, style=style, columns=terminal_columns(sys.stdout)))
    if fix is not None:
        _print(outcome_lines(write_repaired(fix, files, settings.columns, scan, held_out), fix, style))
    _print(conclusion_lines(arguments, scan, found, len(unreadable), fix, style))
    wrong = unreadable or not scan.samples or any(KINDS[name].severity == "error" for name in found)
    return 1 if wrong else 0


def _split_arguments(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Files and overrides, which the command line hands over in one heap; what exists is a file whatever its name."""
    overrides = [word for word in words if OVERRIDE.match(word) and not Path(word).exists()]
    files = [word for word in words if word not in overrides]
    if not files:
        raise UserError("there is no file to check. Name one or more: imprint data check train.jsonl")
    return files, overrides


def _refuse_same(files: Sequence[str], dev: str | None, fix: Path | None) -> None:
    if dev is not None and dev in files:
        raise UserError(f"--dev {dev}: is one of the files that are checked against it. Give another file, or leave it out.")
    if fix is None:
        return
    if fix.suffix.lower() != ".jsonl":
        raise UserError(f"--fix {fix}: JSON lines are written, so the name must end in .jsonl. `imprint data convert` makes other formats.")
    inputs = [Path(file.rpartition("#")[0] or file) for file in files] + [Path(file) for file in [*files, *([dev] if dev else [])]]
    if any(fix.exists() and file.exists() and fix.samefile(file) for file in inputs):
        raise UserError(f"--fix {fix}: is one of the files that are read, and would be replaced. Give another name.")


def _scan_files(files: Sequence[str], scan: DataScan, columns: Columns, style: Style) -> list[str]:
    """Look at all rows of `files`, telling bad ones as they come; returns what could not be read, and raises it where that is all."""
    unreadable = []
    for source in files:
        rows, bad = scan.rows, scan.bad_rows
        try:
            _print(["", style(describe_source(source, columns), "bold")])
            with read_progress(source, "checking") as progress:
                for location, value, shape in rows_with_shapes(source, columns, progress):
                    if (problem := scan.add(location, value, shape)) is not None:
                        progress.say(f"✗ {location}: {problem}")
        except UserError as error:
            if len(files) == 1 and scan.rows == rows:
                raise
            unreadable.append(str(error))
            _print([f"{style('✗', 'red', 'bold')} {error}"])
        rows, bad = scan.rows - rows, scan.bad_rows - bad
        _print(["  " + Bilingual(f"{rows:,} rows, {bad:,} bad", f"{rows:,} 行，{bad:,} 坏行").line])
    return unreadable


def _print(lines: Iterable[str]) -> None:
    for line in lines:
        print(line)  # noqa: T201
