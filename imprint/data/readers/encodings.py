"""The encoding of a text file, found by its bytes, and its lines, read piece by piece.

A byte that the encoding does not know becomes half a character, U+DC00 + the byte, so that the line it stands in can be told as a bad one
(Python's `surrogateescape`), and the rest of the file is read all the same.
"""

import codecs
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from imprint.data.readers.bad_rows import BadRowError

CHUNK_BYTES: Final = 2**20
SAMPLE_BYTES: Final = 2**22
"""How much text from its first byte beyond ASCII on decides between encodings."""
LONGEST_ROW: Final = 2**24
"""Characters of a row; what is longer is no row but a file without newlines, and would fill the memory."""
BOMS: Final = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
NAMES: Final = {"utf-8": "UTF-8", "gb18030": "GB18030", "utf-16-le": "UTF-16 (little-endian)", "utf-16-be": "UTF-16 (big-endian)"}

ReportBytes = Callable[[int], None]
"""Told how many more bytes have been read."""


@dataclass(frozen=True)
class Encoding:
    """How the bytes of a file are text."""

    codec: str
    """Python's name: utf-8, gb18030, utf-16-le or utf-16-be."""
    bom: int
    """How many bytes of a byte order mark are in front."""
    newline: str
    """What ends a line: "\\n", or "\\r" where the file has no other."""

    @property
    def name(self) -> str:
        """The name for a person."""
        return NAMES[self.codec] + (" with a byte order mark" if self.bom and self.codec == "utf-8" else "")


def detect_encoding(path: Path) -> Encoding:
    """Find the encoding of a file: by its byte order mark, by where its NUL bytes are, and else whichever of UTF-8 and GB18030 fits better.

    A file of UTF-8 stays one where some bytes of it are broken. Raises OSError where the file cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(CHUNK_BYTES)
        for mark, codec in BOMS:
            if head.startswith(mark):
                return Encoding(codec, len(mark), _newline(head, codec))
        if wide := _utf16_without_bom(head):
            return Encoding(wide, 0, _newline(head, wide))
        newline, sample = _newline(head, "utf-8"), head
        while sample.isascii():
            sample = file.read(CHUNK_BYTES)
            if not sample:
                return Encoding("utf-8", 0, newline)
        sample += file.read(SAMPLE_BYTES - CHUNK_BYTES)
    # Much of broken UTF-8 is good GB18030, but hardly any GB18030 is good UTF-8.
    misfit = _undecodable_share(sample, "utf-8")
    return Encoding("gb18030" if misfit > 0.5 and 2 * _undecodable_share(sample, "gb18030") < misfit else "utf-8", 0, newline)


def read_lines(path: Path, encoding: Encoding, report_bytes: ReportBytes | None = None) -> Iterator[tuple[int, str | BadRowError]]:
    """The (number, text without its newline) of each line; of one that is longer than any row, only that it is."""
    rest, number, skipping = "", 1, False
    for text in read_chunks(path, encoding, report_bytes):
        *complete, rest = (rest + text).split(encoding.newline)
        for line in complete:
            yield number, _too_long() if skipping or len(line) > LONGEST_ROW else line
            number, skipping = number + 1, False
        if len(rest) > LONGEST_ROW:
            rest, skipping = "", True
    if rest or skipping:
        yield number, _too_long() if skipping or len(rest) > LONGEST_ROW else rest


def read_chunks(path: Path, encoding: Encoding, report_bytes: ReportBytes | None = None) -> Iterator[str]:
    """The text of a file in pieces, its byte order mark left out."""
    decoder = codecs.getincrementaldecoder(encoding.codec)("surrogatepass" if encoding.codec.startswith("utf-16") else "surrogateescape")
    with path.open("rb") as file:
        file.seek(encoding.bom)
        while data := file.read(CHUNK_BYTES):
            yield decoder.decode(data)
            if report_bytes is not None:
                report_bytes(len(data))
    pending, _state = decoder.getstate()
    if pending:  # the file ends within a character
        yield "".join(chr(0xDC00 + byte) for byte in pending)


def undecodable_error(text: str, encoding: Encoding) -> BadRowError | None:
    """What is wrong with a text that holds bytes which its encoding does not know, if it does."""
    try:
        text.encode()  # several times faster than a search
    except UnicodeEncodeError as error:
        half = text[error.start]
        shown = f"byte 0x{ord(half) - 0xDC00:02X}" if half >= "\udc00" else "half a character"
        return BadRowError(f"{shown} at column {error.start + 1} is not {NAMES[encoding.codec]}, as the rest of the file is.")
    return None


def _too_long() -> BadRowError:
    return BadRowError(f"is longer than {LONGEST_ROW / 1e6:.0f} million characters, which no row is. Are newlines missing?")


def _newline(head: bytes, codec: str) -> str:
    text = head.decode(codec, "replace")
    return "\r" if "\r" in text and "\n" not in text else "\n"


def _utf16_without_bom(head: bytes) -> str | None:
    """UTF-16 without a byte order mark: the ASCII in it has NUL bytes on one side only."""
    odd, even = head[1::2].count(0), head[::2].count(0)
    if 50 * max(odd, even) <= len(head) or min(odd, even) * 8 > max(odd, even):
        return None
    return "utf-16-le" if odd > even else "utf-16-be"


def _undecodable_share(sample: bytes, codec: str) -> float:
    """The share of what is beyond ASCII in a sample that a codec cannot read."""
    text = codecs.getincrementaldecoder(codec)("surrogateescape").decode(sample)
    wrong = len(text) - len(text.encode("utf-8", "ignore").decode())
    beyond = len(text) - len(text.encode("ascii", "ignore"))
    return wrong / beyond if beyond else 0.0
