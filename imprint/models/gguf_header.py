"""Walks through the metadata of a GGUF file before a library reads it, which would count up to whatever number a stranger has written.

Format: github.com/ggml-org/ggml, docs/gguf.md: magic, version, number of tensors and of pairs; each pair a key, a type and a value.
"""

import struct
from math import prod
from pathlib import Path
from typing import BinaryIO, Final

NUMBER_BYTES: Final = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Type of a number -> its bytes."""
STRING: Final = 8
ARRAY: Final = 9
MAX_ITEMS: Final = 3 * 2**19
"""Items of all lists together: the largest vocabularies have 1.3 million tokens, types, scores and merges. A reader takes ten
microseconds and a kilobyte for each."""
MAX_ENTRIES: Final = 2**16
"""Pairs, and tensors."""
MAX_DIMENSIONS: Final = 8


def walk_through_metadata(file: Path) -> dict[str, int]:
    """Name -> elements of the tensors. Raises ValueError for more metadata than the file has bytes, or than any model has; OSError."""
    with file.open("rb") as stream:
        return _Walk(stream, file.stat().st_size).through()


class _Walk:
    """A way through a file, whose place never passes its end."""

    def __init__(self, stream: BinaryIO, size: int) -> None:
        self._stream = stream
        self._left = size
        self._order = "<"
        self._items = 0

    def through(self) -> dict[str, int]:
        self._take(4)
        if self._number("I") & 0xFFFF == 0:  # the version, in the other order
            self._order = ">"
        tensors, pairs = self._entries(), self._entries()
        for _pair in range(pairs):
            self._skip(self._number("Q"))
            self._value(self._number("I"))
        return dict(self._tensor() for _tensor in range(tensors))

    def _tensor(self) -> tuple[str, int]:
        name = self._take(self._number("Q")).decode(errors="replace")
        dimensions = self._number("I")
        if dimensions > MAX_DIMENSIONS:
            raise ValueError(f"a tensor has {dimensions:,} dimensions")
        elements = prod(self._number("Q") for _dimension in range(dimensions))
        self._skip(4 + 8)
        return name, elements

    def _value(self, kind: int) -> None:
        if kind == STRING:
            self._skip(self._number("Q"))
        elif kind == ARRAY:
            item, count = self._number("I"), self._number("Q")
            self._items += count
            if self._items > MAX_ITEMS:
                raise ValueError(f"its lists have {self._items:,} items, and those of no model have more than {MAX_ITEMS:,}")
            if item == STRING:
                for _item in range(count):
                    self._skip(self._number("Q"))
            else:
                self._skip(count * self._bytes(item))
        else:
            self._skip(self._bytes(kind))

    def _bytes(self, kind: int) -> int:
        if kind not in NUMBER_BYTES:
            raise ValueError(f"a value is of the type {kind}, or a list of lists")
        return NUMBER_BYTES[kind]

    def _entries(self) -> int:
        if (count := self._number("Q")) > MAX_ENTRIES:
            raise ValueError(f"it has {count:,} settings or tensors, and no model has more than {MAX_ENTRIES:,}")
        return count

    def _number(self, form: str) -> int:
        (number,) = struct.unpack(self._order + form, self._take(struct.calcsize(form)))
        return int(number)

    def _take(self, size: int) -> bytes:
        self._spend(size)
        return self._stream.read(size)

    def _skip(self, size: int) -> None:
        self._spend(size)
        self._stream.seek(size, 1)

    def _spend(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise ValueError("it ends in the middle of its metadata")
