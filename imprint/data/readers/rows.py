"""The rows of a source with their locations, read one by one in bounded memory."""

import random
from collections.abc import Collection, Iterator, Sequence
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Final

from imprint.data.readers.arrow import arrow_rows, parquet_rows
from imprint.data.readers.bad_rows import quote
from imprint.data.readers.encodings import PACKED_RATIO, ReportBytes
from imprint.data.readers.json_rows import array_rows, line_rows, object_rows, wrapped_rows
from imprint.data.readers.sources import DataFile, data_files, detect_format, parse_source, skipped_files, unreadable_error
from imprint.data.readers.tables import csv_rows
from imprint.data.readers.workbooks import sheet_names, workbook_rows
from imprint.data.shapes import Columns, RowShape, detect_shape, unread_turn_keys
from imprint.messages import Bilingual, UserError

SAMPLE_SEED = 0
BINARY_READERS: Final = MappingProxyType({"Parquet": parquet_rows, "Arrow": arrow_rows, "an Excel workbook": workbook_rows})
JSON_READERS: Final = MappingProxyType(
    {"a JSON array": array_rows, "JSON objects": object_rows, "JSON lists of turns": object_rows, "JSON lines": line_rows}
)
PACKED_ROWS: Final = 100_000
"""Rows of a workbook, of Parquet or Arrow from which the file must have a byte for each."""
PACKED_CHARACTERS: Final = 2**26
"""Characters of its rows from which they may not be PACKED_RATIO times the bytes of the file."""
VALUE_CHARACTERS: Final = 8
"""What a value counts that is no text: reading one takes half a microsecond, and a few bytes stand for any number of nulls."""
DESCRIBED_ROWS: Final = 20_000
"""Number of rows of a JSON file whose columns are described: each may have other ones."""
DESCRIBED_TABLE_ROWS: Final = 200
"""The same of a table, whose columns stand in its header."""
DESCRIBED_COLUMNS: Final = 1000
"""Number of columns after which no further rows are looked at."""
MAX_LISTED = 5
"""Maximum number of files or columns that a sentence names; the rest is counted."""


def read_rows(source: str | Path, *, report_bytes: ReportBytes | None = None) -> Iterator[tuple[str, object]]:
    """The (location, row) of each row of a file, of all files of a folder, or of `path#500`: 500 rows sampled at random, in file order.

    A row is a dict or a BadRowError. A location is `file:line`, in a workbook `file.xlsx!Sheet1:12`, in Parquet `file:row`. `report_bytes`
    gets the number of bytes read since its last call. Raises UserError for what cannot be read at all.
    """
    parsed = parse_source(source)
    rows = (row for path in data_files(parsed.path) for row in file_rows(detect_format(path), report_bytes))
    return rows if parsed.count is None else sample_rows(rows, parsed.count)


def file_rows(file: DataFile, report_bytes: ReportBytes | None = None) -> Iterator[tuple[str, object]]:
    """The (location, row) of each row of one file."""
    try:
        if file.encoding is None:
            yield from _bounded(file.path, BINARY_READERS[file.format](file.path, report_bytes))
            return
        if file.format in ("CSV", "TSV"):
            numbered: Iterator[tuple[int | str, object]] = csv_rows(file.path, file.encoding, file.delimiter, report_bytes)
        elif file.wrapper:
            numbered = wrapped_rows(file.path, file.encoding, file.wrapper, report_bytes)
        else:
            numbered = JSON_READERS[file.format](file.path, file.encoding, report_bytes)
        for line, row in numbered:
            yield f"{file.path}:{line}", row
    except OSError as error:
        raise interrupted_read_error(file.path, error) from error


def _bounded(path: Path, rows: Iterator[tuple[str, object]]) -> Iterator[tuple[str, object]]:
    """The rows of a packed file. Raises UserError where they are more, or longer, than a file of its size holds."""
    size, characters = path.stat().st_size, 0
    most_rows, most_characters = max(PACKED_ROWS, size), max(PACKED_CHARACTERS, PACKED_RATIO * size)
    for number, (location, row) in enumerate(rows, start=1):
        characters += _characters(row)
        if number > most_rows or characters > most_characters:
            raise UserError(
                Bilingual(
                    f"{location}: {path.name} has {size:,} bytes, and {characters:,} characters ({VALUE_CHARACTERS} for each "
                    f"value) in {number:,} rows up to here: the same again and again. Take repeated rows and texts out, or "
                    "save the rows as JSON lines.",
                    f"{location}：文件只有 {size:,} 字节，至此却有 {number:,} 行、{characters:,} 个字符（每个值计 "
                    f"{VALUE_CHARACTERS} 个），是同样的内容在不断重复：请去掉重复的行和文本，或另存为 JSON Lines。",
                )
            )
        yield location, row


def _characters(value: object) -> int:
    """The characters of the texts in a row, and so many more as each value takes as long to read as."""
    if isinstance(value, str | bytes):
        return len(value)
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return VALUE_CHARACTERS + sum(map(_characters, inner))


def file_of(location: str) -> str:
    """The file of a location, or the sheet of a workbook: rows of one shape."""
    return location.rpartition(":")[0]


def interrupted_read_error(path: Path, error: OSError) -> UserError:
    """The error of a file that can be opened, but not read to its end."""
    return UserError(
        Bilingual(
            f"{path} cannot be read to its end: {error.strerror or error}. Check that its disk is still connected.",
            f"{path}：文件读到一半时出错：请检查磁盘是否仍然连接。",
        )
    )


def sample_rows(rows: Iterator[tuple[str, object]], count: int) -> Iterator[tuple[str, object]]:
    """A uniform random sample of `count` rows, in file order and always the same; all rows if there are fewer.

    Source: algorithm R in Vitter, Random Sampling with a Reservoir, 1985.
    """
    rng = random.Random(SAMPLE_SEED)
    reservoir: dict[int, tuple[int, tuple[str, object]]] = {}
    for index, row in enumerate(rows):
        slot = index if index < count else rng.randrange(index + 1)
        if slot < count:
            reservoir[slot] = index, row
    for _index, row in sorted(reservoir.values(), key=lambda entry: entry[0]):
        yield row


def source_bytes(source: str | Path) -> int:
    """Size of a source in bytes, for a progress bar."""
    try:
        return sum(path.stat().st_size for path in data_files(parse_source(source).path))
    except OSError as error:
        raise unreadable_error(source, error) from error


def describe_source(source: str | Path, columns: Columns | None = None) -> Bilingual:
    """One sentence: files, formats, encodings, how columns are read, and what is not read; in English it begins with the source.

    Raises UserError as `read_rows`.
    """
    parsed = parse_source(source)
    paths = data_files(parsed.path)
    parts = [_describe_file(detect_format(path), columns or Columns()) for path in paths]
    if parsed.path.is_dir():
        names = [str(path.relative_to(parsed.path)) for path in paths]
        if len(set(parts)) == 1:
            parts = [_headed(list_names(names), parts[0])]
        else:
            parts = [_headed(Bilingual(name, name), part) for name, part in zip(names, parts, strict=True)]
        files = "1 file" if len(paths) == 1 else f"{len(paths)} files"
        parts[0] = _headed(Bilingual(files, f"{len(paths)} 个文件"), parts[0])
        if skipped := skipped_files(parsed.path):
            parts.append(_headed(Bilingual("no data, not read", "不是数据，未读取"), list_names(skipped)))
    if parsed.count:
        parts.append(Bilingual(f"{parsed.count} rows of it are sampled at random", f"从中随机抽取 {parsed.count} 行"))
    text = _joined(parts)
    return Bilingual(f"{parsed.path}: {text.english}.", f"{text.chinese}。")


def _describe_file(file: DataFile, columns: Columns) -> Bilingual:
    first_location, first = next(((location, row) for location, row in file_rows(file) if isinstance(row, dict)), ("", None))
    description = file.description
    if file.format == "an Excel workbook":
        sheets = _describe_sheets(file.path)
        description = Bilingual(f"{description.english} ({sheets.english})", f"{description.chinese}（{sheets.chinese}）")
    if first is None:
        return Bilingual(f"{description.english}, without a row", f"{description.chinese}，没有数据行")
    shape = detect_shape(first, columns)
    columns_of_all, turn_keys = dict.fromkeys(first), dict.fromkeys(unread_turn_keys(first, shape))
    for location, row in islice(file_rows(file), DESCRIBED_ROWS if file.format in JSON_READERS else DESCRIBED_TABLE_ROWS):
        if isinstance(row, dict) and file_of(location) == file_of(first_location):
            columns_of_all |= dict.fromkeys(row)
            turn_keys |= dict.fromkeys(unread_turn_keys(row, shape))
        if len(columns_of_all) + len(turn_keys) > DESCRIBED_COLUMNS:
            break
    if missing := [quote(name) for name in (shape.prompt, shape.response) if shape.kind == "named" and name not in first]:
        return _joined([description, _describe_missing([quote(name) for name in first], missing)])
    ignored = [quote(name) for name in columns_of_all if name not in shape.read_columns]
    unread = [_headed(Bilingual("not read", "未读取"), list_names(ignored))] if ignored else []
    if turn_keys:
        unread.append(_headed(Bilingual("not read in turns", "各轮中未读取"), list_names([quote(key) for key in turn_keys])))
    return _joined([description, _describe_columns(shape, columns_of_all), *unread])


def _describe_missing(columns: Sequence[str], missing: Sequence[str]) -> Bilingual:
    named = list_names(columns) if columns else Bilingual("none", "无")
    return Bilingual(
        f"the columns are {named.english}: there is no {' and no '.join(missing)} among them",
        f"现有列：{named.chinese}，其中没有 {' 和 '.join(missing)}",
    )


def _describe_columns(shape: RowShape, columns: Collection[str]) -> Bilingual:
    """How the columns are read that are there."""
    also = [name for name in shape.optional_columns if name in columns]
    summary = shape.summary()
    if not also:
        return summary
    english = " and ".join(f'"{name}"' + (" (where the model knows tools)" if name == "tools" else "") for name in also)
    chinese = "、".join(f'"{name}"' + ("（模型支持工具时）" if name == "tools" else "") for name in also)
    verb = "is" if len(also) == 1 else "are"
    return Bilingual(f"{summary.english}, {english} {verb} read too", f"{summary.chinese}，也读取 {chinese}")


def _describe_sheets(path: Path) -> Bilingual:
    visible, hidden = ([quote(name) for name in names] for names in sheet_names(path))
    names = list_names(visible) if visible else Bilingual("none", "无")
    shown = Bilingual(f"sheet{'s' if len(visible) != 1 else ''} {names.english}", f"工作表 {names.chinese}")
    return _joined([shown, _headed(Bilingual("hidden, not read", "隐藏而未读取"), list_names(hidden))]) if hidden else shown


def _headed(head: Bilingual, text: Bilingual) -> Bilingual:
    return Bilingual(f"{head.english}: {text.english}", f"{head.chinese}：{text.chinese}")


def _joined(parts: Sequence[Bilingual]) -> Bilingual:
    return Bilingual("; ".join(part.english for part in parts), "；".join(part.chinese for part in parts))


def list_names(names: Sequence[str]) -> Bilingual:
    """The first MAX_LISTED names, and the number of the others."""
    shown, rest = names[:MAX_LISTED], len(names) - MAX_LISTED
    english, chinese = (f" and {rest} more", f" 等 {len(names)} 个") if rest > 0 else ("", "")
    return Bilingual(", ".join(shown) + english, "、".join(shown) + chinese)
