"""`imprint data convert FILE OUT`: write the rows of any source in one normal form; the suffix of OUT selects the format."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from imprint.check.section import ConvertSection
from imprint.check.shaped_rows import CHECKING, read_progress, rows_with_shapes
from imprint.config import read_overrides
from imprint.data.readers.bad_rows import BadRowError, BadRows
from imprint.data.readers.rows import describe_source
from imprint.data.readers.sources import parse_source
from imprint.data.sample import Sample
from imprint.data.shapes import Columns, samples_from_row
from imprint.data.writers import output_suffix, write_samples
from imprint.files.disk_errors import refuse_unwritable
from imprint.files.links import follow_link, resolved
from imprint.messages import Bilingual, UserError
from imprint.progress import Progress
from imprint.terminal import say


@dataclass
class SourceSummary:
    """What a first pass over all rows has shown."""

    samples: int = 0
    """Number of samples; a conversation has one for each answer."""
    history: bool = False
    """Whether any has earlier turns."""
    system: bool = False
    """Whether any has a system prompt."""


def convert_command(file: str, output: Path, *, overrides: Sequence[str]) -> None:
    """Check all rows of a source, then write them. Raises UserError for bad rows; `output` then stays as it was."""
    section = read_overrides(overrides, ConvertSection)
    columns = Columns(section.prompt_column, section.response_column, section.history_column)
    output_suffix(output)
    output = follow_link(output)
    _refuse_overwrite(parse_source(file).path, output)
    refuse_unwritable(output.parent)
    say(str(describe_source(file, columns)))
    summary = scan_source(file, columns)
    with Progress(Bilingual("writing", "写入"), summary.samples, "row", subject=output.name) as progress:
        write_samples(output, progress.track(_read_samples(file, columns)), history=summary.history, system=summary.system)
    say(Bilingual(f"{output} holds {summary.samples} rows", f"已写入 {summary.samples} 行").line)


def scan_source(file: str, columns: Columns) -> SourceSummary:
    """Read all rows once. Raises one UserError for all bad ones."""
    summary, bad_rows = SourceSummary(), BadRows(file)
    with read_progress(file, CHECKING) as progress:
        for location, row, shape in rows_with_shapes(file, columns, progress):
            try:
                samples = samples_from_row(row, shape, location)
            except BadRowError as problem:
                bad_rows.add(location, problem)
                continue
            bad_rows.good += 1
            summary.samples += len(samples)
            summary.history = summary.history or any(sample.history is not None for sample in samples)
            summary.system = summary.system or any(sample.system is not None for sample in samples)
    bad_rows.raise_if_any(
        Bilingual(
            f"Nothing was written. `imprint data check {file} --fix OUT` fixes what can be fixed, and lists all others.",
            "没有写入任何内容；用 imprint data check 加 --fix 修复，并列出其余全部坏行。",
        )
    )
    if not summary.samples:
        raise UserError(Bilingual(f"{file} holds no rows, so there is nothing to write.", f"{file}：文件中没有数据行，没有可写的内容。"))
    return summary


def _read_samples(file: str, columns: Columns) -> Iterator[Sample]:
    for location, row, shape in rows_with_shapes(file, columns):
        try:
            yield from samples_from_row(row, shape, location)
        except BadRowError as problem:
            raise UserError(
                Bilingual(
                    f"{problem.at(location).english} The file changed while it was read; nothing was written.",
                    f"{problem.at(location).chinese}读取期间文件被改动；没有写入任何内容。",
                )
            ) from problem


def _refuse_overwrite(source: Path, output: Path) -> None:
    read, written = resolved(source), resolved(output)
    if written == read:
        raise UserError(
            Bilingual(f"{output} is the file that is read. Give another name.", f"{output}：输出文件正是要读取的文件：请换一个名字。")
        )
    if read.is_dir() and written.is_relative_to(read):
        raise UserError(
            Bilingual(
                f"{output} is in the folder that is read, and would be read the next time. Choose a path outside {source}.",
                f"{output}：输出文件在要读取的目录中，下次会被当作数据读取：请写到 {source} 之外。",
            )
        )
    if written.is_dir():
        raise UserError(
            Bilingual(
                f"{output} is a folder. Give the name of a file, such as {output / 'rows.jsonl'}.",
                f"{output}：这是一个目录：请给出文件名，例如 {output / 'rows.jsonl'}。",
            )
        )
