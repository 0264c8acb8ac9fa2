"""Walks through the metadata of a GGUF file before a library reads it, which would count up to whatever number a stranger has written.

Format: github.com/ggml-org/ggml, docs/gguf.md: magic, version, number of tensors and of pairs; each pair a key, a type and a value.
"""

import struct
from collections import Counter
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import BinaryIO, Final

NUMBER_BYTES: Final = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Type of a number -> its bytes."""
UNSIGNED, SIGNED, FLOAT, STRING = 4, 5, 6, 8
TYPES: Final = {UNSIGNED: "uint32", SIGNED: "int32", FLOAT: "float32", STRING: "string"}
ARRAY: Final = 9
MAX_ITEMS: Final = 3 * 2**19
"""Items of all lists together: the largest vocabularies have 1.3 million tokens, types, scores and merges. A reader takes ten
microseconds and a kilobyte for each."""
FREE_ITEMS, ITEM_BYTES = 2**15, 32
"""Items of any file, and the bytes of a file for each further one: a large vocabulary comes with large weights, so that the time to read
the lists grows with the file and not a hundred times as fast."""
TOKENS: Final = b"tokenizer.ggml.tokens"
LISTS: Final[Mapping[bytes, tuple[int, ...]]] = {
    TOKENS: (STRING,),
    b"tokenizer.ggml.merges": (STRING,),
    b"tokenizer.ggml.scores": (FLOAT,),
    b"tokenizer.ggml.token_type": (SIGNED, UNSIGNED),
}
"""The long lists -> types of their items."""
NUMBERS: Final = (b"tokenizer.ggml.scores", b"tokenizer.ggml.token_type")
"""Those that have an item for each token."""
MAX_OTHERS: Final = 2**12
"""Items of all other lists together: languages, tags, and sizes of each block."""
MAX_NAME: Final = 2**16
"""Bytes of a key, as in the format, and of the name of a tensor."""
BITS: Final = 8
"""Numbers of tensors for each byte of a file: no format has less than a bit for a number."""
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
        self._size = size
        self._lengths: Counter[bytes] = Counter()

    def through(self) -> dict[str, int]:
        self._take(4)
        if self._number("I") & 0xFFFF == 0:  # the version, in the other order
            self._order = ">"
        tensors, pairs = self._entries(), self._entries()
        for _pair in range(pairs):
            self._value(self._name(), self._number("I"))
        for key in NUMBERS:
            if self._lengths[key] > self._lengths[TOKENS]:
                raise ValueError(
                    f"{key.decode()} has {self._lengths[key]:,} items, and the vocabulary has {self._lengths[TOKENS]:,} tokens"
                )
        elements = dict(self._tensor() for _tensor in range(tensors))
        if (total := sum(elements.values())) > BITS * self._size:
            raise ValueError(f"its tensors have {total:,} numbers, and its {self._size:,} bytes hold fewer")
        return elements

    def _tensor(self) -> tuple[str, int]:
        name = self._name().decode(errors="replace")
        dimensions = self._number("I")
        if dimensions > MAX_DIMENSIONS:
            raise ValueError(f"a tensor has {dimensions:,} dimensions")
        elements = prod(self._number("Q") for _dimension in range(dimensions))
        if not elements:
            raise ValueError(f"{name:.80} is a tensor without numbers")
        self._skip(4 + 8)
        return name, elements

    def _name(self) -> bytes:
        """A key, or the name of a tensor."""
        if (size := self._number("Q")) > MAX_NAME:
            raise ValueError(f"a name has {size:,} bytes, and none may have more than {MAX_NAME:,}")
        return self._take(size)

    def _value(self, key: bytes, kind: int) -> None:
        if kind == STRING:
            self._skip(self._number("Q"))
        elif kind == ARRAY:
            item, count = self._number("I"), self._number("Q")
            self._refuse_list(key, item, count)
            if item == STRING:
                for _item in range(count):
                    self._skip(self._number("Q"))
            else:
                self._skip(count * self._bytes(item))
        else:
            self._skip(self._bytes(kind))

    def _refuse_list(self, key: bytes, item: int, count: int) -> None:
        """Raise ValueError for a list of another type than its key has, and for lists that are too long together."""
        name = key.decode(errors="replace")
        if key in LISTS and item not in LISTS[key]:
            raise ValueError(f"{name} is a list of {TYPES.get(item, f'the type {item}')}, and must be one of {TYPES[LISTS[key][0]]}")
        self._lengths[key if key in LISTS else b""] += count
        if (items := self._lengths.total()) > MAX_ITEMS:
            raise ValueError(f"its lists have {items:,} items, and those of no model have more than {MAX_ITEMS:,}")
        if items > FREE_ITEMS + self._size // ITEM_BYTES:
            raise ValueError(f"its lists have {items:,} items, and a file of {self._size:,} bytes has no weights for so many")
        if self._lengths[b""] > MAX_OTHERS:
            raise ValueError(f"{name:.80} is a list of {count:,}, and all but the vocabulary have no more than {MAX_OTHERS:,} together")

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
