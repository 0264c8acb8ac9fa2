"""How much Arrow unpacks to, told before it is unpacked: a few bytes may stand for any number of rows, values or characters."""

import struct
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from pyarrow import NativeFile, RecordBatch

BATCH_ROWS: Final = 1000
BATCH_BYTES: Final = 2**26
"""Bytes of the rows that are made at once; a batch with larger ones is divided, down to a single row."""
ROW_BYTES: Final = 2**28
"""Most bytes of a row; of one with more nothing is made."""
VALUE_BYTES: Final = 64
"""Bytes that Python takes for a value, besides the characters of a text."""
NULL_BYTES: Final = 8
TEXTS, TEXT_VIEWS = ("string", "large_string", "binary", "large_binary"), ("string_view", "binary_view")
"""Types of texts, as pyarrow names them."""
CONTINUATION: Final = 0xFFFFFFFF
"""Start of a message since Arrow 0.15. Source: Apache Arrow, Columnar format, encapsulated message format."""
DICTIONARY_BATCH, RECORD_BATCH = 2, 3
"""Types of messages that hold buffers. Source: MessageHeader in Message.fbs of Apache Arrow."""

Measured = dict[tuple[object, ...], int]
"""The bytes of the longest text of dictionaries, by where their texts stand in memory."""


def small_batches(batch: "RecordBatch") -> "Iterator[tuple[RecordBatch, int]]":
    """The rows of a batch in parts of at most BATCH_ROWS and BATCH_BYTES, or one row, each with the bytes that Python takes for them.

    Raises an error of pyarrow after the rows ahead of one that is no UTF-8, or whose offsets or indices point elsewhere than forward and
    within the batch.
    """
    sound, measured = _sound_rows(batch), Measured()
    for start in range(0, sound.num_rows, BATCH_ROWS):
        waiting = [sound.slice(start, BATCH_ROWS)]
        while waiting:
            part = waiting.pop()
            size = sum(decoded_bytes(column, measured) for column in part.columns)
            if size <= BATCH_BYTES or part.num_rows == 1:
                yield part, size
            else:
                half = part.num_rows // 2
                waiting += [part.slice(half), part.slice(0, half)]
    if sound.num_rows < batch.num_rows:
        batch.validate(full=True)


def _sound_rows(batch: "RecordBatch") -> "RecordBatch":
    """The rows ahead of the first broken one; none if values that rows share are broken, such as those of lists."""
    from pyarrow import ArrowException

    sound, broken, tried = 0, batch.num_rows + 1, batch.num_rows
    while broken - sound > 1:  # by halves: each check is of all values that rows share
        try:
            batch.slice(0, tried).validate(full=True)
            sound = tried
        except ArrowException:
            broken = tried
        tried = (sound + broken) // 2
    return batch.slice(0, sound)


def decoded_bytes(array: Any, measured: Measured | None = None) -> int:  # noqa: C901 (a table of types)
    """The bytes that Python takes for the values of a pyarrow array, or more; of a very long one at least ROW_BYTES.

    `measured` keeps what was measured of dictionaries, for the arrays of one batch.
    """
    from pyarrow import compute, types

    kind, count, measured = array.type, len(array), {} if measured is None else measured
    inner = partial(decoded_bytes, measured=measured)
    if types.is_null(kind) or count == 0 or count * NULL_BYTES > ROW_BYTES:
        return count * NULL_BYTES
    if hasattr(array, "storage"):
        return inner(array.storage)
    own = count * VALUE_BYTES
    if (lengths := _text_lengths(array)) is not None:
        return own + (compute.sum(lengths).as_py() or 0)
    if types.is_dictionary(kind):
        return own + count * _largest(array.dictionary, measured)
    if types.is_run_end_encoded(kind):
        return own + count * _largest(array.values, measured)
    if types.is_struct(kind):
        return own + sum(inner(array.field(index)) for index in range(kind.num_fields))
    if types.is_union(kind):
        return own + count * sum(inner(array.field(index)) for index in range(kind.num_fields))
    if types.is_fixed_size_list(kind):
        return own + inner(array.values.slice(array.offset * kind.list_size, count * kind.list_size))
    if hasattr(array, "sizes"):  # a view of lists, which may all be the same
        places = zip(array.offsets.to_pylist(), array.sizes.to_pylist(), strict=True)
        return own + sum(inner(array.values.slice(start, length)) for start, length in places)
    if hasattr(array, "offsets"):
        start, stop = array.offsets[0].as_py(), array.offsets[-1].as_py()
        return own + inner(array.values.slice(start, stop - start))
    return count * max(VALUE_BYTES, int(kind.bit_width) // 8)


def _largest(array: Any, measured: Measured) -> int:
    """The bytes of the longest text of an array, or if it has other values, of all of them."""
    from pyarrow import compute

    if str(array.type) not in TEXTS + TEXT_VIEWS:
        return decoded_bytes(array, measured)
    place = str(array.type), array.offset, len(array), *(None if buffer is None else buffer.address for buffer in array.buffers())
    if place not in measured:
        measured[place] = int(compute.max(_text_lengths(array)).as_py() or 0)
    return measured[place]


def _text_lengths(array: Any) -> Any:
    """The bytes of each text of an array, as another one; None if it has other values."""
    import pyarrow
    from pyarrow import compute

    if str(array.type) in TEXTS:
        return compute.binary_length(array)
    if str(array.type) not in TEXT_VIEWS:
        return None
    # Source: Apache Arrow, Columnar format, variable-size binary view layout: 16 bytes each, of which the first four are the length
    lengths = memoryview(array.buffers()[1]).cast("i")[4 * array.offset : 4 * (array.offset + len(array)) : 4]
    return pyarrow.array([max(0, length) for length in lengths])


def unpacked_bytes(source: "NativeFile", most_batches: int) -> int:
    """The bytes to which the compressed buffers of a stream unpack, as each says before its content; the stream begins where it stands.

    Raises struct.error for a stream that is broken. Source: Message.fbs of Apache Arrow.
    """
    total, position, size = 0, source.tell(), source.size()
    while most_batches > 0:
        source.seek(position)
        mark, length = struct.unpack("<II", source.read(8).ljust(8, b"\0"))
        head, length = (8, length) if mark == CONTINUATION else (4, mark)
        if not 0 < length <= size - position - head:
            break
        source.seek(position + head)
        message = source.read(length)
        (root,) = struct.unpack_from("<I", message)
        kind = _number(message, _field(message, root, 1), "B")
        body = position + head + length
        if kind in (DICTIONARY_BATCH, RECORD_BATCH):
            table = _follow(message, _field(message, root, 2))
            total += _buffer_bytes(source, message, table if kind == RECORD_BATCH else _follow(message, _field(message, table, 1)), body)
            most_batches -= kind == RECORD_BATCH
        position = body + _number(message, _field(message, root, 3), "q")
        if position < body:
            break
    return total


def _buffer_bytes(source: "NativeFile", message: bytes, batch: int, body: int) -> int:
    """The bytes to which the buffers of a batch unpack; 0 if they are not compressed."""
    place = _field(message, batch, 2)
    if not place or not _field(message, batch, 3):
        return 0
    vector, total = _follow(message, place), 0
    for index in range(_number(message, vector, "I")):
        start, length = struct.unpack_from("<qq", message, vector + 4 + 16 * index)
        if length >= 8 and 0 <= start <= source.size() - body - 8:
            source.seek(body + start)
            (unpacked,) = struct.unpack("<q", source.read(8))
            total += max(unpacked, 0)
    return total


def _field(message: bytes, table: int, index: int) -> int:
    """Where a field of a table stands; 0 if it has its default. Source: FlatBuffers internals, tables."""
    vtable = table - int(struct.unpack_from("<i", message, table)[0])
    slot = 4 + 2 * index
    offset = _number(message, vtable + slot, "H") if slot < _number(message, vtable, "H") else 0
    return table + offset if offset else 0


def _follow(message: bytes, place: int) -> int:
    return place + _number(message, place, "I")


def _number(message: bytes, place: int, form: str) -> int:
    """A number of a message; 0 at no place."""
    return int(struct.unpack_from(f"<{form}", message, place)[0]) if place else 0
