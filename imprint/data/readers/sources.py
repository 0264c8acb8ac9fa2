"""What a source of rows is: a file, a folder of files, or so many rows of either, and in which format each file is."""

import json
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from imprint.data.readers.encodings import Encoding, detect_encoding, read_chunks
from imprint.errors import UserError
from imprint.files import refuse_lfs_pointer

Format = Literal["JSON lines", "a JSON array", "JSON objects", "CSV", "TSV", "an Excel workbook", "Parquet"]
FORMATS: Final = "JSON lines, a JSON array, CSV, TSV, Excel (.xlsx) or Parquet"
BINARY_SAMPLE: Final = 4096
JSON_SUFFIXES: Final = (".json", ".jsonl", ".ndjson")
DATA_SUFFIXES: Final = (*JSON_SUFFIXES, ".csv", ".tsv", ".xlsx", ".xls", ".parquet")
METADATA_FILES: Final = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")
"""JSON that stands beside rows and holds none: what the libraries of Hugging Face and LLaMA-Factory write there."""
COMPRESSED: Final = {
    b"\xd0\xcf\x11\xe0": "is an old Excel workbook (.xls), or one with a password. Save it as .xlsx without a password",
    b"\x1f\x8b": "is packed with gzip. Unpack it with `gunzip`",
    b"7z\xbc\xaf": "is packed with 7-Zip. Unpack it",
    b"Rar!": "is packed with RAR. Unpack it",
    b"BZh": "is packed with bzip2. Unpack it with `bunzip2`",
    b"\xfd7zXZ": "is packed with xz. Unpack it with `unxz`",
    b"\x28\xb5\x2f\xfd": "is packed with Zstandard. Unpack it with `unzstd`",
    b"%PDF": "is a PDF. Copy its rows into a table",
}


@dataclass(frozen=True)
class Source:
    """A file or a folder, and how many of its rows."""

    path: Path
    """The file or the folder."""
    count: int | None
    """So many rows, drawn at random; None takes all."""


@dataclass(frozen=True)
class DataFile:
    """A file of rows that has been looked into."""

    path: Path
    """Where it is."""
    format: Format
    """Its format."""
    encoding: Encoding | None
    """How its bytes are text; a workbook and Parquet are no text."""
    delimiter: str = ","
    """What stands between the cells of CSV and TSV."""

    @property
    def description(self) -> str:
        """Format and encoding, for a person."""
        between = " with semicolons" if self.delimiter == ";" else ""
        return f"{self.format}{between}" + (f" in {self.encoding.name}" if self.encoding else "")


def parse_source(source: str | Path) -> Source:
    """Take `path#500` apart; a file that is really called so wins. Raises UserError for what is not there."""
    if "\0" in str(source):
        raise UserError(f"{str(source)!r} cannot be the name of a file: it holds a NUL character.")
    path = Path(source)
    count = re.fullmatch(r"(?s)(.+)#([^#/\\]*)", str(source))
    try:
        if not path.exists() and count:
            if not count[2].isascii() or not count[2].isdecimal() or int(count[2]) < 1:
                raise UserError(f'{source}: behind "#" there must be how many rows to draw, such as {count[1]}#500, got "{count[2]}".')
            return Source(Path(count[1]), int(count[2]))
    except (OSError, ValueError) as error:  # a name that no disk can hold, a number that no Python can read
        raise UserError(f"{str(source)[:80]!r}... cannot be the name of a file: {error}.") from error
    return Source(path, None)


def data_files(path: Path, names: tuple[str, ...] = DATA_SUFFIXES) -> list[Path]:
    """The files of a source, those of a folder with such `names` sorted; raises UserError where there is none."""
    try:
        if not path.is_dir():
            return [path]
        files = [file for file in _entries(path) if _is_data(file, names)]
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    if not files:
        plain = (
            f"; of plain text, files that end in {' or '.join(other)}"
            if (other := [name for name in names if name not in DATA_SUFFIXES])
            else ""
        )
        raise UserError(f"{path} is a folder without a data file. Give a file, or a folder with files of rows: {FORMATS}{plain}.")
    return files


def skipped_files(path: Path, names: tuple[str, ...] = DATA_SUFFIXES) -> list[str]:
    """The files of a folder that have none of these `names` and are not read, as they are called in it."""
    return [str(file.relative_to(path)) for file in _entries(path) if not _is_data(file, names)] if path.is_dir() else []


def _entries(folder: Path) -> list[Path]:
    """All files below a folder, but for hidden ones and those in hidden folders."""
    found = [entry for entry in folder.rglob("*") if not any(part.startswith(".") for part in entry.relative_to(folder).parts)]
    return sorted(entry for entry in found if entry.is_file())


def _is_data(path: Path, names: tuple[str, ...] = DATA_SUFFIXES) -> bool:
    return path.suffix.lower() in names and path.name not in METADATA_FILES and not path.name.startswith("~$")  # Excel's lock


def detect_format(path: Path) -> DataFile:
    """Find the format of a file by its content, and where that leaves it open by its name; raises UserError where it is none of ours."""
    if path.is_dir():
        raise UserError(f"{path} is a folder. Give a file of rows: {FORMATS}.")
    if path.exists() and not path.is_file():
        raise UserError(f"{path} is no file. Give a file of rows: {FORMATS}.")
    try:
        refuse_lfs_pointer(path)
        with path.open("rb") as file:
            head = file.read(8)
        if head.startswith(b"PAR1"):
            return DataFile(path, "Parquet", None)
        if head.startswith(b"PK\x03\x04"):
            return _zipped(path)
        _refuse_compressed(path, head)
        return _text_file(path)
    except FileNotFoundError as error:
        raise UserError(f"{path}: there is no such file. Give a file of rows ({FORMATS}), or a folder of such files.") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from error


def plain_encoding(path: Path) -> Encoding:
    """The encoding of a file of plain text; raises UserError where it is none."""
    if not path.is_file():
        raise UserError(f"{path}: there is no such file. Give a file of text, a file of rows ({FORMATS}), or a folder of either.")
    try:
        refuse_lfs_pointer(path)
        with path.open("rb") as file:
            _refuse_compressed(path, file.read(8))
        encoding = detect_encoding(path)
        if _is_binary(next(read_chunks(path, encoding), "")[:BINARY_SAMPLE]):
            raise UserError(f"{path} is no text. Give a file of text, or of rows: {FORMATS}.")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from error
    return encoding


def _refuse_compressed(path: Path, head: bytes) -> None:
    for mark, sentence in COMPRESSED.items():
        if head.startswith(mark):
            raise UserError(f"{path} {sentence}, and name the new file.")


def _zipped(path: Path) -> DataFile:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise UserError(f"{path} is a workbook or an archive, but a broken one: {error}. Save or download it again.") from error
    if not any(name.startswith("xl/") for name in names):
        raise UserError(f"{path} is a ZIP archive. Unpack it, and name the file or the folder in it.")
    return DataFile(path, "an Excel workbook", None)


def _spans_lines(start: str, first_line: str) -> bool:
    """Whether the first object of a file goes on behind its first line."""
    if first_line.strip() == "{":
        return True
    try:
        _value, end = json.JSONDecoder().raw_decode(start)
    except (ValueError, RecursionError):
        return False
    return end > len(first_line)


def _is_binary(text: str) -> bool:
    """Whether what should be text is full of control characters and of bytes that no encoding knows."""
    strange = sum((sign < " " and sign not in "\t\r\n\f") or "\ud800" <= sign <= "\udfff" for sign in text)
    return 20 * strange > len(text)


def _text_file(path: Path) -> DataFile:
    encoding = detect_encoding(path)
    start = ""
    for text in read_chunks(path, encoding):
        start = (start + text).lstrip("\ufeff \t\r\n")
        if start:
            break
    name = path.suffix.lower()
    if start.startswith("["):
        return DataFile(path, "a JSON array", encoding)
    header = start.split(encoding.newline, 1)[0]
    if start.startswith("{"):
        return DataFile(path, "JSON objects" if _spans_lines(start, header) else "JSON lines", encoding)
    if name != ".jsonl" and start.startswith(("//", "/*")):
        raise UserError(f"{path} begins with a comment, {header[:40]!r}, which JSON does not know. Delete all comments.")
    if _is_binary(start[:BINARY_SAMPLE]):
        raise UserError(f"{path} is no text, nor a workbook or Parquet. Give a file of rows: {FORMATS}.")
    if not start or name in JSON_SUFFIXES:
        return DataFile(path, "JSON lines", encoding)
    delimiter = max("\t,;", key=header.count) if any(sign in header for sign in "\t,;") else "\t" if name == ".tsv" else ","
    if delimiter not in header and name not in (".csv", ".tsv"):
        raise UserError(f"{path} holds neither JSON nor a table: its first line is {header[:40]!r}. Give a file of rows: {FORMATS}.")
    return DataFile(path, "TSV" if delimiter == "\t" else "CSV", encoding, delimiter)
