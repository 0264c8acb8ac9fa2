"""Detection of the encoding of a text file, and its lines, read chunk by chunk.

An undecodable byte becomes the lone surrogate U+DC00 + the byte (Python's `surrogateescape`), so that its line can be reported as bad and
the rest of the file is read.
"""

import codecs
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from imprint.data.readers.bad_rows import BadRowError
from imprint.files.reading import require_regular
from imprint.messages import Bilingual, UserError

CHUNK_BYTES: Final = 2**20
SAMPLE_BYTES: Final = 2**22
"""Number of bytes, from the first non-ASCII chunk on, by which the encoding is detected."""
MAX_ROW_CHARACTERS: Final = 2**24
"""Maximum characters of a row; what is longer is a file without newlines, which would fill the memory."""
PACKED_RATIO: Final = 200
"""How many times its bytes a packed file, such as a workbook, Parquet or Arrow, may have once unpacked; what has more is made to fill
the memory."""
PRIVATE_SHARE: Final = 0.1
"""Share of characters of a private use area from which a text that GB18030 can decode is one of another encoding."""
BOMS: Final = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
NAMES: Final = {"utf-8": "UTF-8", "gb18030": "GB18030", "utf-16-le": "UTF-16 (little-endian)", "utf-16-be": "UTF-16 (big-endian)"}

ReportBytes = Callable[[int], None]
"""Called with the number of bytes read since its last call."""


@dataclass(frozen=True)
class Encoding:
    """The encoding of a text file."""

    codec: str
    """Python's name of the codec: utf-8, gb18030, utf-16-le or utf-16-be."""
    bom: int
    """Bytes of the byte order mark; 0 without one."""
    newline: str
    """Line separator: "\\n", or "\\r" if the file has no other."""

    @property
    def name(self) -> str:
        """The name to print."""
        return NAMES[self.codec] + (" with a byte order mark" if self.bom and self.codec == "utf-8" else "")


def detect_encoding(path: Path) -> Encoding:
    """Detect the encoding of a file by its byte order mark, by its NUL bytes, or by which of UTF-8 and GB18030 decodes more of it.

    A file of UTF-8 with some broken bytes is still UTF-8. Raises UserError for a pipe, a device and another encoding, and OSError if the
    file cannot be read.
    """
    require_regular(path)
    with path.open("rb") as file:
        head = file.read(CHUNK_BYTES)
        if head.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):  # the former begins like UTF-16
            raise UserError(
                Bilingual(f"{path} is UTF-32, which is not read. Save it as UTF-8.", f"{path} 是 UTF-32 编码：请另存为 UTF-8。")
            )
        for mark, codec in BOMS:
            if head.startswith(mark):
                return Encoding(codec, len(mark), _newline(head, codec))
        if utf16 := _utf16_without_bom(head):
            return Encoding(utf16, 0, _newline(head, utf16))
        newline, sample = _newline(head, "utf-8"), head
        while sample.isascii():
            sample = file.read(CHUNK_BYTES)
            if not sample:
                return Encoding("utf-8", 0, newline)
        sample += file.read(SAMPLE_BYTES - CHUNK_BYTES)
    # Much of broken UTF-8 is good GB18030, but hardly any GB18030 is good UTF-8.
    undecodable = _undecodable_share(sample, "utf-8")
    if undecodable <= 0.5 or 2 * _undecodable_share(sample, "gb18030") >= undecodable:
        return Encoding("utf-8", 0, newline)
    if _private_share(sample) > PRIVATE_SHARE:
        raise UserError(
            Bilingual(
                f"{path} is neither UTF-8 nor GB18030; traditional Chinese in Big5 looks like that. Save it as UTF-8.",
                f"{path} 既不是 UTF-8 也不是 GB18030，可能是繁体中文的 Big5 编码：请另存为 UTF-8。",
            )
        )
    return Encoding("gb18030", 0, newline)


def read_lines(path: Path, encoding: Encoding, report_bytes: ReportBytes | None = None) -> Iterator[tuple[int, str | BadRowError]]:
    """The (line number, text without newline) of each line; a BadRowError instead of a line that is too long."""
    rest, number, skipping = "", 1, False
    for text in read_chunks(path, encoding, report_bytes):
        *complete, rest = (rest + text).split(encoding.newline)
        for line in complete:
            yield number, too_long_error() if skipping or len(line) > MAX_ROW_CHARACTERS else line
            number, skipping = number + 1, False
        if len(rest) > MAX_ROW_CHARACTERS:
            rest, skipping = "", True
    if rest or skipping:
        yield number, too_long_error() if skipping or len(rest) > MAX_ROW_CHARACTERS else rest


def read_chunks(path: Path, encoding: Encoding, report_bytes: ReportBytes | None = None) -> Iterator[str]:
    """The text of a file in chunks, without its byte order mark."""
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
    """The error of a text with undecodable bytes; None without them."""
    try:
        text.encode()  # several times faster than a search
    except UnicodeEncodeError as error:
        surrogate = text[error.start]
        byte = f"0x{ord(surrogate) - 0xDC00:02X}" if surrogate >= "\udc00" else ""
        shown, codec, column = f"byte {byte}" if byte else "half a character", NAMES[encoding.codec], error.start + 1
        return BadRowError(
            Bilingual(
                f"{shown} at column {column} is not {codec}, as the rest of the file is.",
                f"第 {column} 个字符处的{f'字节 {byte}' if byte else '半个字符'} 不是 {codec}，而文件其余部分是。",
            )
        )
    return None


def too_long_error() -> BadRowError:
    """The error of a row of more than MAX_ROW_CHARACTERS."""
    return BadRowError(
        Bilingual(
            f"is longer than {MAX_ROW_CHARACTERS / 1e6:.0f} million characters, which no row is. Are newlines missing?",
            f"超过 {MAX_ROW_CHARACTERS // 10_000} 万个字符，不可能是一行：是否缺少换行？",
        )
    )


def _newline(head: bytes, codec: str) -> str:
    text = head.decode(codec, "replace")
    return "\r" if "\r" in text and "\n" not in text else "\n"


def _utf16_without_bom(head: bytes) -> str | None:
    """The codec of UTF-16 without a byte order mark, whose ASCII characters have NUL bytes at odd or at even positions; else None."""
    odd, even = head[1::2].count(0), head[::2].count(0)
    if 50 * max(odd, even) <= len(head) or min(odd, even) * 8 > max(odd, even):
        return None
    return "utf-16-le" if odd > even else "utf-16-be"


def _private_share(sample: bytes) -> float:
    """Share of the non-ASCII characters of a sample that have no meaning in GB18030: those of a private use area."""
    non_ascii = [character for character in sample.decode("gb18030", "ignore") if not character.isascii()]
    return sum("\ue000" <= character <= "\uf8ff" for character in non_ascii) / max(1, len(non_ascii))


def _undecodable_share(sample: bytes, codec: str) -> float:
    """Share of the non-ASCII characters of a sample that a codec cannot decode."""
    text = codecs.getincrementaldecoder(codec)("surrogateescape").decode(sample)
    undecodable = len(text) - len(text.encode("utf-8", "ignore").decode())
    non_ascii = len(text) - len(text.encode("ascii", "ignore"))
    return undecodable / non_ascii if non_ascii else 0.0
