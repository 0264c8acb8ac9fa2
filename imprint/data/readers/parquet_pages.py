"""What the pages of a Parquet file unpack to, as the head of each says: the totals in the footer are only claimed.

Format: parquet.thrift of apache/parquet-format, PageHeader; in the compact protocol of Apache Thrift.
"""

import os
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

if TYPE_CHECKING:
    from pyarrow.parquet import ColumnChunkMetaData

TYPE, UNPACKED, PACKED, DATA, DICTIONARY, DATA_V2 = 1, 2, 3, 5, 7, 8
"""Fields of the head of a page."""
DICTIONARY_PAGE: Final = 2
DELTA_BYTE_ARRAY: Final = 7
"""Encoding of texts by what they have in common with the one before."""
BYTE, DOUBLE, BINARY, LIST, SET, STRUCT = 3, 7, 8, 9, 10, 12
NO_VALUE, NUMBERS = (1, 2), (4, 5, 6)
"""Types of the compact protocol: truths, which have no bytes of their own as fields, and integers."""
MAX_VARINT: Final = 10
CODECS: Final = {"LZ4": "lz4_raw"}
"""Names of compressions that pyarrow has two of."""
MAX_DICTIONARY_BYTES, MAX_DICTIONARY_TEXTS = 2**26, 2**17
"""Of dictionaries that are looked into; programs write a million bytes at most."""


@dataclass
class Pages:
    """What the pages of a file unpack to."""

    unpacked_bytes: int = 0
    """Of all pages."""
    values: int = 0
    """The most of a column: also those in lists, and nulls."""
    row_bytes: int = 0
    """The most that the texts of a row may have which are stored in a few bytes, such as the place of the text in a dictionary; where a
    column holds lists, for one text of each."""
    column_bytes: dict[str, int] = field(default_factory=dict)
    """The same for all texts of a column, by its path."""


def read_pages(path: Path, columns: "Iterable[ColumnChunkMetaData]") -> Pages:
    """Read the heads of the pages of these columns, each up to the first that is broken.

    Raises OSError, and ValueError for columns that have more bytes than the file: they share some, which would be read again and again.
    """
    pages, size, taken = Pages(), path.stat().st_size, 0
    values, longest = dict[str, int](), dict[str, int]()
    texts = pages.column_bytes
    with path.open("rb") as stream:
        for column in columns:
            if column.total_compressed_size <= 0:
                continue
            name, start = column.path_in_schema, column.data_page_offset
            start = min(start, column.dictionary_page_offset or start)
            unpacked, count, long = _read_chunk(stream, start, start + column.total_compressed_size, column.compression)
            taken += max(column.total_compressed_size, stream.tell() - start)
            if taken > size:
                raise ValueError("its columns have more bytes than the file")
            pages.unpacked_bytes += unpacked
            values[name] = values.get(name, 0) + count
            if column.physical_type == "BYTE_ARRAY":
                longest[name] = max(longest.get(name, 0), long)
                texts[name] = texts.get(name, 0) + count * long
    pages.values = max(values.values(), default=0)
    pages.row_bytes = sum(longest.values())
    return pages


def _read_chunk(stream: BinaryIO, position: int, end: int, compression: str) -> tuple[int, int, int]:
    """(bytes that the pages between two places unpack to, their values, the bytes of the longest value that takes a few bytes)."""
    unpacked, values, longest = 0, 0, 0
    while 0 <= position < end:
        stream.seek(position)
        try:
            head = _struct(stream)
            size, position = head[UNPACKED], stream.tell() + head[PACKED]
        except (ValueError, KeyError, RecursionError):
            break
        if size < 0 or head[PACKED] < 0:
            break
        unpacked += size
        data, data_v2 = (head.get(number, {}) for number in (DATA, DATA_V2))
        values += data.get(1, 0) or data_v2.get(1, 0)
        if head.get(TYPE) == DICTIONARY_PAGE:
            longest = max(longest, _longest_text(stream, head, compression))
        elif DELTA_BYTE_ARRAY in (data.get(2), data_v2.get(4)):
            longest = max(longest, size)  # what texts have in common with the one before begins anew with each page
    return unpacked, values, longest


def _longest_text(stream: BinaryIO, head: dict[int, Any], compression: str) -> int:
    """The bytes of the longest text in the dictionary whose content begins here, or more: those of all where it has very many."""
    from pyarrow import ArrowException, Codec

    size, count = head[UNPACKED], head.get(DICTIONARY, {}).get(1, 0)
    if size > MAX_DICTIONARY_BYTES or not 0 < count <= MAX_DICTIONARY_TEXTS:
        return int(size)
    content, longest, place = stream.read(head[PACKED]), 0, 0
    try:
        content = (
            content
            if compression == "UNCOMPRESSED"
            else Codec(CODECS.get(compression, compression.lower())).decompress(content, size, asbytes=True)
        )
        for _text in range(count):
            (length,) = struct.unpack_from("<I", content, place)
            longest, place = max(longest, length), place + 4 + length
    except (ArrowException, OSError, ValueError, struct.error):
        return int(size)
    return longest


def _struct(stream: BinaryIO) -> dict[int, Any]:
    """The fields of a struct by their numbers: integers and structs; other values are None."""
    fields, number = dict[int, Any](), 0
    while head := _byte(stream):
        number = number + (head >> 4) if head >> 4 else _integer(stream)
        fields[number] = None if head & 15 in NO_VALUE else _value(stream, head & 15)
    return fields


def _value(stream: BinaryIO, kind: int) -> Any:
    if kind in NUMBERS:
        return _integer(stream)
    if kind == STRUCT:
        return _struct(stream)
    if kind in (LIST, SET):
        head = _byte(stream)
        for _item in range(head >> 4 if head >> 4 < 15 else _length(stream)):
            _byte(stream) if head & 15 in NO_VALUE else _value(stream, head & 15)
    elif kind in (BYTE, DOUBLE):
        for _place in range(1 if kind == BYTE else 8):
            _byte(stream)
    elif kind == BINARY:
        stream.seek(_length(stream), os.SEEK_CUR)
    else:
        raise ValueError("a page's head has a value of an unknown type")
    return None


def _integer(stream: BinaryIO) -> int:
    value = _varint(stream)
    return value >> 1 ^ -(value & 1)


def _length(stream: BinaryIO) -> int:
    """The bytes of a binary, or the items of a list, each of which has a byte or more: no more than are left of the file."""
    length = _varint(stream)
    if length > os.fstat(stream.fileno()).st_size - stream.tell():
        raise ValueError("a value in a page's head is longer than the file")
    return length


def _varint(stream: BinaryIO) -> int:
    value = 0
    for place in range(MAX_VARINT):
        byte = _byte(stream)
        value |= (byte & 127) << 7 * place
        if byte < 128:
            return value
    raise ValueError("a page's head has a number without an end")


def _byte(stream: BinaryIO) -> int:
    if not (byte := stream.read(1)):
        raise ValueError("the file ends in a page's head")
    return byte[0]
