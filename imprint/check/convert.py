"""`imprint data convert FILE OUT`: the rows of any source in one normal form, in the format that the ending of OUT names."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from imprint.check.section import ConvertSection
from imprint.check.shaped_rows import read_progress, rows_with_shapes
from imprint.config import read_overrides
from imprint.data.readers.bad_rows import BadRowError, BadRows
from imprint.data.readers.rows import describe_source
from imprint.data.readers.sources import parse_source
from imprint.data.sample import Sample
from imprint.data.shapes import Columns, samples_from_row
from imprint.data.writers import output_suffix, write_samples
from imprint.errors import UserError
from imprint.messages import Bilingual
from imprint.progress import Progress


@dataclass
class SourceSummary:
    """What a first look at all rows has shown."""

    samples: int = 0
    """How many there are; a conversation has one for each answer."""
    history: bool = False
    """Whether any has earlier turns."""
    system: bool = False
    """Whether any has a text that the model is told first."""


def convert_command(file: str, output: Path, *, overrides: Sequence[str]) -> None:
    """Check all rows of a source, then write them; where one is bad or cannot be written, `output` stays as it was."""
    section = read_overrides(overrides, ConvertSection)
    columns = Columns(section.prompt_column, section.response_column, section.history_column)
    output_suffix(output)
    _refuse_overwrite(parse_source(file).path, output)
    print(describe_source(file, columns))  # noqa: T201
    found = scan_source(file, columns)
    with Progress(f"writing {output.name}", found.samples, "rows") as bar:
        write_samples(output, bar.over(_read_samples(file, columns)), history=found.history, system=found.system)
    print(Bilingual(f"{output} holds {found.samples} rows", f"已写入 {found.samples} 行").line)  # noqa: T201


def scan_source(file: str, columns: Columns) -> SourceSummary:
    """Read all rows once; raises one UserError for all bad ones."""
    found, problems = SourceSummary(), BadRows(file)
    with read_progress(file, "checking") as bar:
        for location, row, shape in rows_with_shapes(file, columns, bar):
            try:
                samples = samples_from_row(row, shape, location)
            except BadRowError as problem:
                problems.add(location, problem)
                continue
            problems.good += 1
            found.samples += len(samples)
            found.history = found.history or any(sample.history is not None for sample in samples)
            found.system = found.system or any(sample.system is not None for sample in samples)
    problems.raise_if_any(
        Bilingual(
            f"Nothing was written. `imprint data check {file}` shows them all, and with `--fix OUT` it mends what can be mended.",
            "什么都没有写入；用 imprint data check 查看全部坏行，加 --fix 修复。",
        ).line
    )
    if not found.samples:
        raise UserError(f"{file} holds no rows, so there is nothing to write.")
    return found


def _read_samples(file: str, columns: Columns) -> Iterator[Sample]:
    for location, row, shape in rows_with_shapes(file, columns):
        try:
            yield from samples_from_row(row, shape, location)
        except BadRowError as problem:
            raise UserError(f"{location}: {problem} The file has changed while it was read; nothing was written.") from problem


def _refuse_overwrite(source: Path, output: Path) -> None:
    location, into = source.resolve(), output.resolve()
    if into == location:
        raise UserError(f"{output} is the file that is read. Give another name.")
    if location.is_dir() and into.is_relative_to(location):
        raise UserError(
            f"{output} is in the folder that is read, and would be one of its files the next time. Choose a place outside {source}."
        )
    if into.is_dir():
        raise UserError(f"{output} is a folder. Give the name of a file, such as {output / 'rows.jsonl'}.")
