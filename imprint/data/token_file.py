"""A corpus of any size as token ids on disk: written once, then read row by row in little memory.

tokens.bin     all ids, 4 bytes each; the highest bit marks the first token of a document
rows.bin       the range of each row in tokens.bin, 32 bytes each
documents.bin  the file and the line of each document, 12 bytes each
about.json     counts, source files and a digest
"""

import hashlib
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, BinaryIO, Final, overload

import numpy as np
import numpy.typing as npt
from pydantic import Field

from imprint.data.document_rows import DocumentFrame, RowPacker, RowSpan
from imprint.data.encode import EncodedRow
from imprint.data.sample import split_location
from imprint.files.atomic import write_json
from imprint.files.disk_errors import translate_disk_errors
from imprint.files.typed_json import read_typed, typed
from imprint.messages import Bilingual, UserError
from imprint.pack import IGNORE_INDEX

DOCUMENT_START: Final = 1 << 31
"""The bit that marks a document's first token; ids are smaller."""
TOKEN: Final = np.dtype("<u4")
ROW: Final = np.dtype([("start", "<u8"), ("stop", "<u8"), ("document", "<u8"), ("ids", "<u4"), ("scored", "<u4")])
DOCUMENT: Final = np.dtype([("line", "<u8"), ("file", "<u4")])
TOKENS, ROWS, DOCUMENTS, ABOUT = "tokens.bin", "rows.bin", "documents.bin", "about.json"
Count = Annotated[int, Field(ge=0, le=2**50)]
"""A number of things in the files."""
REWRITE: Final = Bilingual("Delete its folder; the next start writes it again.", "请删除其目录，下次启动会重新写出。")
KEYS: Final = {"sequence_prefix": "each"}
"""Fields of `TokenFileInfo` that about.json has under another name."""


@dataclass(frozen=True)
class TokenFileInfo:
    """The content of about.json."""

    rows: Count
    """Number of rows."""
    documents: Count
    """Number of documents."""
    tokens: Count
    """Number of tokens, with the special ids around documents."""
    characters: Count
    """Number of characters of text."""
    sequence_prefix: tuple[Annotated[int, Field(ge=0, lt=DOCUMENT_START)], ...]
    """Ids before every sequence of a row."""
    files: tuple[str, ...]
    """The files that the documents come from, by index."""
    digest: str
    """Digest that identifies the rows."""


class TokenWriter(AbstractContextManager["TokenWriter"]):
    """Writes the four files into an existing folder; about.json is written last, on exit."""

    def __init__(self, folder: Path, frame: DocumentFrame, length: int) -> None:
        self.folder = folder
        self.frame = frame
        self.rows = 0
        self.packer = RowPacker(frame, length)
        self._digest = hashlib.sha256(_digest_head(frame, length).encode())
        self._files: dict[str, int] = {}
        self._characters = 0
        self._open = 0
        """Tokens of the current document."""
        self._stack = ExitStack()
        with translate_disk_errors(folder):
            self._tokens, self._rows, self._documents = (
                self._stack.enter_context((folder / name).open("wb")) for name in (TOKENS, ROWS, DOCUMENTS)
            )

    def add(self, text_ids: Sequence[int], location: str, characters: int, *, first: bool, last: bool) -> None:
        """Write a document part; `first` and `last` say whether it is the first and the last part of its document."""
        ids = np.array([*(self.frame.bos if first else ()), *text_ids, *(self.frame.eos if last else ())], dtype=TOKEN)
        if first:
            file, line, _row = split_location(location)
            self._write(self._documents, np.array([(line, self._files.setdefault(file, len(self._files)))], dtype=DOCUMENT))
        if len(ids) and not self._open:
            ids[0] |= DOCUMENT_START
        self._write(self._tokens, ids)
        self._open += len(ids)
        self._characters += characters
        if last:
            self._add_rows(self.packer.add(self._open))
            self._open = 0

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Close the files; without an error, write about.json."""
        if error is None:
            self._add_rows(self.packer.finish())
        self._stack.close()
        if error is None:
            counts = (self.rows, self.packer.documents, self.packer.tokens, self._characters)
            info = TokenFileInfo(*counts, self.frame.sequence_prefix, tuple(self._files), self._digest.hexdigest()[:16])
            values = asdict(info)
            write_json(self.folder / ABOUT, {KEYS.get(name, name): value for name, value in values.items()})

    def _add_rows(self, rows: Iterable[RowSpan]) -> None:
        entries = np.array([astuple(row) for row in rows], dtype=ROW)
        self._write(self._rows, entries)
        self.rows += len(entries)

    def _write(self, file: BinaryIO, entries: npt.NDArray[np.generic]) -> None:
        content = entries.tobytes()
        self._digest.update(content)
        with translate_disk_errors(self.folder):
            file.write(content)


class TokenFileRows(Sequence[EncodedRow]):
    """The rows of a folder written by `TokenWriter`, each read from disk on access."""

    def __init__(self, folder: Path, limit: int | None = None) -> None:
        self.folder = folder
        self.info = read_token_file_info(folder)
        self._count = self.info.rows if limit is None else min(limit, self.info.rows)

    @property
    def digest(self) -> str:
        """Digest that identifies the rows."""
        return f"{self.info.digest}/{self._count}"

    @property
    def lengths(self) -> list[int]:
        """Number of ids of each row; reads no row."""
        lengths: list[int] = _read_entries(self.folder / ROWS, ROW, 0, self._count)["ids"].tolist()
        return lengths

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> EncodedRow: ...
    @overload
    def __getitem__(self, index: slice) -> list[EncodedRow]: ...
    def __getitem__(self, index: int | slice) -> EncodedRow | list[EncodedRow]:
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(self._count))]
        row = self._row(index)
        tokens = _read_entries(self.folder / TOKENS, TOKEN, int(row["start"]), int(row["stop"]) - int(row["start"]))
        parts = np.split(tokens & (DOCUMENT_START - 1), np.flatnonzero(tokens[1:] & DOCUMENT_START) + 1)
        ids: list[int] = []
        labels: list[int] = []
        starts = []
        for part in parts:
            starts.append(len(ids))
            text = part.tolist()
            ids += [*self.info.sequence_prefix, *text]
            labels += [*[IGNORE_INDEX] * len(self.info.sequence_prefix), *text] if self.info.sequence_prefix else [IGNORE_INDEX, *text[1:]]
        return EncodedRow(tuple(ids), tuple(labels), sequence_starts=tuple(starts[1:]))

    def location(self, row: int) -> str:
        """Location of the first document of a row: "file:line"."""
        (document,) = _read_entries(self.folder / DOCUMENTS, DOCUMENT, int(self._row(row)["document"]), 1)
        return f"{self.info.files[document['file']]}:{document['line']}"

    def _row(self, index: int) -> np.void:
        if not -self._count <= index < self._count:
            raise IndexError(index)
        row: np.void = _read_entries(self.folder / ROWS, ROW, index % self._count, 1)[0]
        return row


class RowLocations(Sequence[str]):
    """Location of the first document of each row."""

    def __init__(self, rows: TokenFileRows) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        return self._rows.location(index) if isinstance(index, int) else [self[position] for position in range(*index.indices(len(self)))]


def _digest_head(frame: DocumentFrame, length: int) -> str:
    """Head of the digest, in the format of earlier versions, so that the rows of their runs are recognized."""
    return f"(Frame(each={frame.sequence_prefix!r}, first={frame.bos!r}, last={frame.eos!r}), {length})"


def row_lengths(rows: Sequence[EncodedRow]) -> list[int]:
    """Number of ids of each row, without reading rows from disk."""
    return rows.lengths if isinstance(rows, TokenFileRows) else [len(row.ids) for row in rows]


def read_token_file_info(folder: Path) -> TokenFileInfo:
    """Read the about.json of a folder. Raises UserError for what Imprint did not write."""
    values = read_typed(folder / ABOUT, dict[str, Any], REWRITE)
    names = {key: name for name, key in KEYS.items()}
    return typed({names.get(key, key): value for key, value in values.items()}, TokenFileInfo, str(folder / ABOUT), REWRITE)


def _read_entries(file: Path, kind: np.dtype[np.void] | np.dtype[np.uint32], start: int, count: int) -> npt.NDArray[Any]:
    """`count` entries of a file from `start`; read and not memory-mapped, so that the process does not grow with the pages it touched."""
    if not 0 <= count <= file.stat().st_size // kind.itemsize - start:  # before memory for them is taken
        raise UserError(Bilingual(f"{file}: is truncated. {REWRITE.english}", f"{file}：文件不完整：{REWRITE.chinese}"))
    return np.fromfile(file, dtype=kind, count=count, offset=start * kind.itemsize)
