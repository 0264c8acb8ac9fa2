"""Sources of rows: a file, a folder of files, or a random sample of either; and the detection of file formats."""

import json
import os
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final, Literal

from imprint.data.readers.arrow import ARROW_FILE
from imprint.data.readers.encodings import Encoding, detect_encoding, read_chunks
from imprint.data.turns import is_message, is_turn
from imprint.files.reading import refuse_lfs_pointer, require_regular
from imprint.messages import Bilingual, UserError

Format = Literal["JSON lines", "a JSON array", "JSON objects", "JSON lists of turns", "CSV", "TSV", "an Excel workbook", "Parquet", "Arrow"]
FORMATS: Final = "JSON lines, a JSON array, CSV, TSV, Excel (.xlsx) or Parquet"
FORMATS_CHINESE: Final = "JSON Lines、JSON 数组、CSV、TSV、Excel (.xlsx) 或 Parquet"
CHINESE_NAMES: Final[Mapping[Format, str]] = MappingProxyType(
    {
        "JSON lines": "JSON Lines",
        "a JSON array": "JSON 数组",
        "JSON objects": "JSON 对象",
        "JSON lists of turns": "JSON 对话列表",
        "an Excel workbook": "Excel 工作簿",
    }
)
"""Format -> its name in Chinese, if it has one of its own."""
GIVE_ROWS: Final = f"请给出数据文件：{FORMATS_CHINESE}。"
BINARY_SAMPLE: Final = 4096
ARROW_STREAM: Final = b"\xff\xff\xff\xff"
"""Start of a stream of Arrow. Source: Apache Arrow, Columnar format, encapsulated message format."""
SPLITS_FILE: Final = "dataset_dict.json"
"""The file of a folder of Hugging Face's datasets that has a folder for each split."""
UNPACKED_BYTES: Final = 2**31
"""Maximum bytes of an unpacked workbook."""
BOMB_BYTES, BOMB_RATIO = 2**22, 100
"""A part of a workbook of more unpacked bytes may not be this many times its packed ones."""
WRAPPERS: Final = ("data", "rows", "examples", "instances", "items", "records", "samples")
"""Keys of an object around all rows, such as {"version": "1", "data": [...]}."""
MAX_WRAPPER_KEYS: Final = 50
"""Number of keys among which one of WRAPPERS is looked for."""
NOT_BLANK: Final = re.compile(r"[^ \t\r\n]")
JSON_SUFFIXES: Final = (".json", ".jsonl", ".ndjson")
DATA_SUFFIXES: Final = (*JSON_SUFFIXES, ".csv", ".tsv", ".xlsx", ".xls", ".parquet", ".arrow")
METADATA_FILES: Final = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")
"""JSON files of Hugging Face datasets and LLaMA-Factory that describe rows and hold none."""
UNSUPPORTED: Final = {
    b"\xd0\xcf\x11\xe0": "is an old Excel workbook (.xls), or has a password. Save it as .xlsx without a password",
    b"\x1f\x8b": "is compressed with gzip. Decompress it with `gunzip`",
    b"7z\xbc\xaf": "is compressed with 7-Zip. Decompress it",
    b"Rar!": "is compressed with RAR. Decompress it",
    b"BZh": "is compressed with bzip2. Decompress it with `bunzip2`",
    b"\xfd7zXZ": "is compressed with xz. Decompress it with `unxz`",
    b"\x28\xb5\x2f\xfd": "is compressed with Zstandard. Decompress it with `unzstd`",
    b"%PDF": "is a PDF. Copy its rows into a table",
}


@dataclass(frozen=True)
class Source:
    """A file or a folder, and the number of rows to sample."""

    path: Path
    """The file or the folder."""
    count: int | None
    """Number of rows to sample at random; None takes all."""


@dataclass(frozen=True)
class DataFile:
    """A file of rows with its detected format."""

    path: Path
    """Its path."""
    format: Format
    """Its format."""
    encoding: Encoding | None
    """Its encoding; None for a workbook and for Parquet."""
    delimiter: str = ","
    """Delimiter of CSV and TSV."""
    wrapper: str = ""
    """The key of one object that holds the array of rows."""

    @property
    def description(self) -> Bilingual:
        """Format and encoding."""
        delimiter = (" with semicolons", "（以分号分隔）") if self.delimiter == ";" else ("", "")
        wrapper = (f' in "{self.wrapper}" of one object', f'（在一个对象的 "{self.wrapper}" 中）') if self.wrapper else ("", "")
        encoding = (f" in {self.encoding.name}", f"，{self.encoding.name} 编码") if self.encoding else ("", "")
        chinese = CHINESE_NAMES.get(self.format, self.format)
        return Bilingual(f"{self.format}{delimiter[0]}{wrapper[0]}{encoding[0]}", f"{chinese}{delimiter[1]}{wrapper[1]}{encoding[1]}")


def parse_source(source: str | Path) -> Source:
    """Parse `path` or `path#500`; an existing file of that name takes precedence. Raises UserError for an invalid name or count."""
    if "\0" in str(source):
        raise UserError(
            Bilingual(
                f"{str(source)!r} cannot be the name of a file: it holds a NUL character.", f"{str(source)!r}：文件名中含有 NUL 字符。"
            )
        )
    path = Path(source)
    match = re.fullmatch(r"(?s)(.+)#([^#/\\]*)", str(source))
    try:
        if not path.exists() and match:
            if not match[2].isascii() or not match[2].isdecimal() or int(match[2]) < 1:
                raise UserError(
                    Bilingual(
                        f'{source}: after "#" there must be the number of rows to sample, such as {match[1]}#500, got "{match[2]}".',
                        f"{source}：“#”之后须是抽样的行数，例如 {match[1]}#500。",
                    )
                )
            return Source(Path(match[1]), int(match[2]))
    except (OSError, ValueError) as error:  # a name too long for the file system, a number too long for int()
        raise UserError(
            Bilingual(f"{str(source)[:80]!r}... cannot be the name of a file: {error}.", f"{str(source)[:80]!r}：这不是有效的文件名。")
        ) from error
    return Source(path, None)


def data_files(path: Path, suffixes: tuple[str, ...] = DATA_SUFFIXES) -> list[Path]:
    """The files of a source, sorted; of a folder those with these suffixes. Raises UserError if there is none."""
    try:
        if not path.is_dir():
            return [path]
        files = [file for file in _entries(path) if _is_data(file, suffixes)]
    except OSError as error:
        raise unreadable_error(path, error) from error
    splits = sorted({file.relative_to(path).parts[0] for file in files}) if (path / SPLITS_FILE).is_file() else []
    if len(splits) > 1:
        raise UserError(
            Bilingual(
                f"{path} holds the splits {', '.join(splits)}. Name one of them, such as {path / splits[-1]}.",
                f"{path}：目录中有多个划分（{', '.join(splits)}）：请指明其中一个，例如 {path / splits[-1]}。",
            )
        )
    if not files:
        plain = (
            f"; of plain text, files that end in {' or '.join(plain_suffixes)}"
            if (plain_suffixes := [suffix for suffix in suffixes if suffix not in DATA_SUFFIXES])
            else ""
        )
        raise UserError(
            Bilingual(
                f"{path} is a folder without a data file. Give a file, or a folder with files of rows: {FORMATS}{plain}.",
                f"{path}：目录中没有数据文件。{GIVE_ROWS}",
            )
        )
    return files


def skipped_files(path: Path, suffixes: tuple[str, ...] = DATA_SUFFIXES) -> list[str]:
    """Relative paths of the files of a folder that are not read: those with other suffixes."""
    return [str(file.relative_to(path)) for file in _entries(path) if not _is_data(file, suffixes)] if path.is_dir() else []


def _entries(folder: Path) -> list[Path]:
    """All files below a folder, except hidden ones and those in hidden folders."""
    waiting, files = [folder], list[Path]()
    while waiting:  # not by Path.rglob, which ends in a RecursionError a thousand folders down
        current = waiting.pop()
        for entry in current.iterdir() if os.access(current, os.R_OK | os.X_OK) else ():
            if entry.name.startswith("."):
                continue
            if entry.is_dir() and not entry.is_symlink():
                waiting.append(entry)
            elif entry.is_file():
                files.append(entry)
    return sorted(files)


def _is_data(path: Path, suffixes: tuple[str, ...] = DATA_SUFFIXES) -> bool:
    return path.suffix.lower() in suffixes and path.name not in METADATA_FILES and not path.name.startswith("~$")  # Excel's lock file


def detect_format(path: Path) -> DataFile:
    """Detect the format of a file by its content, if ambiguous by its suffix. Raises UserError for an unknown format."""
    if path.is_dir():
        raise UserError(Bilingual(f"{path} is a folder. Give a file of rows: {FORMATS}.", f"{path}：这是一个目录。{GIVE_ROWS}"))
    if path.exists() and not path.is_file():
        raise UserError(Bilingual(f"{path} is not a regular file. Give a file of rows: {FORMATS}.", f"{path}：这不是普通文件。{GIVE_ROWS}"))
    try:
        refuse_lfs_pointer(path)
        with path.open("rb") as file:
            head = file.read(8)
        if head.startswith(b"PAR1"):
            return DataFile(path, "Parquet", None)
        if head.startswith(ARROW_FILE) or (path.suffix.lower() == ".arrow" and head.startswith(ARROW_STREAM)):
            return DataFile(path, "Arrow", None)
        if head.startswith(b"PK\x03\x04"):
            return _zipped(path)
        _refuse_unsupported(path, head)
        return _text_file(path)
    except FileNotFoundError as error:
        raise UserError(
            Bilingual(
                f"{path}: there is no such file. Give a file of rows ({FORMATS}), or a folder of such files.",
                f"{path}：没有这个文件：请给出数据文件（{FORMATS_CHINESE}）或其目录。",
            )
        ) from error
    except OSError as error:
        raise unreadable_error(path, error) from error


def plain_encoding(path: Path) -> Encoding:
    """The encoding of a file of plain text. Raises UserError if it is not text or cannot be read."""
    if path.exists():
        require_regular(path)
    if not path.is_file():
        raise UserError(
            Bilingual(
                f"{path}: there is no such file. Give a file of text, a file of rows ({FORMATS}), or a folder of either.",
                f"{path}：没有这个文件：请给出文本文件、数据文件（{FORMATS_CHINESE}），或其目录。",
            )
        )
    try:
        refuse_lfs_pointer(path)
        with path.open("rb") as file:
            _refuse_unsupported(path, file.read(8))
        encoding = detect_encoding(path)
        if _is_binary(next(read_chunks(path, encoding), "")[:BINARY_SAMPLE], encoding):
            raise UserError(
                Bilingual(
                    f"{path} is not text. Give a file of text, or of rows: {FORMATS}.",
                    f"{path}：这不是文本：请给出文本文件或数据文件（{FORMATS_CHINESE}）。",
                )
            )
    except OSError as error:
        raise unreadable_error(path, error) from error
    return encoding


def unreadable_error(path: Path | str, error: OSError) -> UserError:
    """The error of a file or a folder that the system cannot read."""
    return UserError(Bilingual(f"{path} cannot be read: {error.strerror or error}.", f"{path}：无法读取。"))


def _refuse_unsupported(path: Path, head: bytes) -> None:
    for magic, sentence in UNSUPPORTED.items():
        if head.startswith(magic):
            raise UserError(
                Bilingual(f"{path} {sentence}, and give the new file.", f"{path}：不支持这种格式：请先解压或另存为支持的格式。")
            )


def _zipped(path: Path) -> DataFile:
    try:
        with zipfile.ZipFile(path) as archive:
            parts = archive.infolist()
            names = [part.filename for part in parts]
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise UserError(
            Bilingual(
                f"{path} is a broken workbook or archive: {error}. Save or download it again.",
                f"{path}：工作簿或压缩包已损坏：请重新保存或下载。",
            )
        ) from error
    if not any(name.startswith("xl/") for name in names):
        raise UserError(
            Bilingual(
                f"{path} is a ZIP archive. Unpack it, and give a file or a folder of it.",
                f"{path}：这是 ZIP 压缩包：请解压后给出其中的文件或目录。",
            )
        )
    bomb = next((part for part in parts if part.file_size > max(BOMB_BYTES, BOMB_RATIO * part.compress_size)), None)
    if bomb is not None or sum(part.file_size for part in parts) > UNPACKED_BYTES:
        unpacked = sum(part.file_size for part in parts)
        raise UserError(
            Bilingual(
                f"{path} has {path.stat().st_size:,} bytes and would unpack to {unpacked:,}, which no table does. Save its rows as CSV.",
                f"{path}：工作簿只有 {path.stat().st_size:,} 字节，解压后却有 {unpacked:,} 字节：请把数据另存为 CSV。",
            )
        )
    return DataFile(path, "an Excel workbook", None)


def _spans_lines(start: str, first_line: str) -> bool:
    """Whether the first object of a file takes more than one line."""
    if first_line.strip() == "{":
        return True
    try:
        _value, end = json.JSONDecoder().raw_decode(start)
    except (ValueError, RecursionError):
        return False
    return end > len(first_line)


def _begins_with_turns(start: str) -> bool:
    """Whether a list at the start of a file is one conversation, and not the array of all rows.

    One of questions with their answers is, if another list follows.
    """
    decoder = json.JSONDecoder()
    try:
        value, _end = decoder.raw_decode(start, _next_at(start, 1))
        if not is_turn(value) or is_message(value):
            return is_turn(value)
        _turns, end = decoder.raw_decode(start)
    except (ValueError, RecursionError):
        return False
    return start.startswith("[", _next_at(start, end))


def _wrapper_key(start: str) -> str:
    """The key of the array of rows in one object around all of them; empty if the object is a row itself."""
    decoder, position = json.JSONDecoder(), 1
    try:
        for _key in range(MAX_WRAPPER_KEYS):
            position = _next_at(start, position)
            key, position = decoder.raw_decode(start, position)
            position = _next_at(start, position)
            if start[position] != ":":
                return ""
            position = _next_at(start, position + 1)
            if key in WRAPPERS and start[position] == "[":
                inside = _next_at(start, position + 1)
                value, _end = decoder.raw_decode(start, inside)
                return key if isinstance(value, dict) and not is_message(value) else ""
            _value, position = decoder.raw_decode(start, position)
            position = _next_at(start, position)
            if start[position] != ",":
                return ""
            position += 1
    except (ValueError, IndexError, RecursionError):
        pass
    return ""


def _next_at(text: str, position: int) -> int:
    """The position of the next character that is not blank."""
    found = NOT_BLANK.search(text, position)
    return found.start() if found else len(text)


def _is_binary(text: str, encoding: Encoding) -> bool:
    """Whether more than 5 % of a text are control characters or undecodable bytes; after a byte order mark, the latter alone."""
    marked = encoding.bom > 0
    binary = sum((not marked and letter < " " and letter not in "\t\r\n\f") or "\ud800" <= letter <= "\udfff" for letter in text)
    return 20 * binary > len(text)


def _text_file(path: Path) -> DataFile:
    encoding = detect_encoding(path)
    start = ""
    for text in read_chunks(path, encoding):
        start = (start + text).lstrip("\ufeff \t\r\n")
        if start:
            break
    suffix = path.suffix.lower()
    if start.startswith("["):
        return DataFile(path, "JSON lists of turns" if _begins_with_turns(start) else "a JSON array", encoding)
    header = start.split(encoding.newline, 1)[0]
    if start.startswith("{"):
        if key := _wrapper_key(start):
            return DataFile(path, "a JSON array", encoding, wrapper=key)
        return DataFile(path, "JSON objects" if _spans_lines(start, header) else "JSON lines", encoding)
    if suffix != ".jsonl" and start.startswith(("//", "/*")):
        raise UserError(
            Bilingual(
                f"{path} begins with a comment, {header[:40]!r}, which JSON does not allow. Delete all comments.",
                f"{path}：JSON 不允许注释：请删去所有注释。",
            )
        )
    if _is_binary(start[:BINARY_SAMPLE], encoding):
        raise UserError(
            Bilingual(
                f"{path} is neither text nor a workbook or Parquet. Give a file of rows: {FORMATS}.",
                f"{path}：无法识别的文件。{GIVE_ROWS}",
            )
        )
    if not start or suffix in JSON_SUFFIXES:
        return DataFile(path, "JSON lines", encoding)
    delimiter = max("\t,;", key=header.count) if any(letter in header for letter in "\t,;") else "\t" if suffix == ".tsv" else ","
    if delimiter not in header and suffix not in (".csv", ".tsv"):
        raise UserError(
            Bilingual(
                f"{path} holds neither JSON nor a table: its first line is {header[:40]!r}. Give a file of rows: {FORMATS}.",
                f"{path}：文件既不是 JSON 也不是表格。{GIVE_ROWS}",
            )
        )
    return DataFile(path, "TSV" if delimiter == "\t" else "CSV", encoding, delimiter)
