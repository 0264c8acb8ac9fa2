"""Walks through the metadata of a GGUF file before a library reads it, which would count up to whatever number a stranger has written.

Format: github.com/ggml-org/ggml, docs/gguf.md: magic, version, number of tensors and of pairs; each pair a key, a type and a value.
"""

import struct
from pathlib import Path
from typing import BinaryIO, Final

NUMBER_BYTES: Final = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Type of a number -> its bytes."""
STRING: Final = 8
ARRAY: Final = 9
MAX_ITEMS: Final = 2**22
"""Items of a list, pairs and tensors: eight times as many as the largest vocabulary has merges."""


def refuse_endless_metadata(file: Path) -> None:
    """Raise ValueError for a GGUF file with more metadata than it has bytes, or than any model has; OSError."""
    with file.open("rb") as stream:
        _Walk(stream, file.stat().st_size).through()


class _Walk:
    """A way through a file, whose place never passes its end."""

    def __init__(self, stream: BinaryIO, size: int) -> None:
        self._stream = stream
        self._left = size
        self._order = "<"

    def through(self) -> None:
        self._take(4)
        if self._number("I") & 0xFFFF == 0:  # the version, in the other order
            self._order = ">"
        tensors, pairs = self._count(), self._count()
        for _pair in range(pairs):
            self._skip(self._number("Q"))
            self._value(self._number("I"))
        for _tensor in range(tensors):
            self._skip(self._number("Q"))
            self._skip(8 * self._number("I") + 4 + 8)

    def _value(self, kind: int) -> None:
        if kind == STRING:
            self._skip(self._number("Q"))
        elif kind == ARRAY:
            item, count = self._number("I"), self._count()
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

    def _count(self) -> int:
        if (count := self._number("Q")) > MAX_ITEMS:
            raise ValueError(f"it has a list of {count:,}, and no model has more than {MAX_ITEMS:,}")
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
