"""Pickles of a stranger that torch reads without running code of theirs: what could take for ever, or all of the memory, is refused before.

A few bytes of an archive unpack to any number, and a tuple of tuples that are one object takes for ever to hash or compare.
"""

import pickletools
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, Final

TUPLES: Final = frozenset(("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"))
"""Operations that make a tuple of others."""
PLAIN: Final = frozenset(("BINUNICODE", "SHORT_BINUNICODE", "BINSTRING", "SHORT_BINSTRING", "GLOBAL", "LONG1"))
"""Operations that make a text, a name or a number, which hold no other values."""
MAX_BYTES: Final = 2**23
"""Largest pickle of weights, unpacked; that of 1,000 tensors has 150 KB."""
ZIP_START: Final = b"PK\x03\x04"
LEGACY_PICKLES: Final = 4
"""Pickles before the values in a file from before torch 1.6."""


def refuse_endless_weights(file: Path) -> None:
    """Raise ValueError for a `.bin` file whose pickle is large, is compressed, or uses a tuple twice; zipfile.BadZipFile and OSError."""
    with file.open("rb") as stream:
        if stream.read(len(ZIP_START)) != ZIP_START:  # as torch has it: what stands at the end of a file does not matter
            stream.seek(0)
            for _pickle in range(LEGACY_PICKLES):
                refuse_shared(stream, lambda made: made in TUPLES)
            return
    with zipfile.ZipFile(file) as archive:
        for entry in archive.infolist():
            if entry.filename.lower().endswith("data.pkl"):
                if entry.file_size > MAX_BYTES or entry.compress_type != zipfile.ZIP_STORED:
                    raise ValueError("its description is compressed, or larger than that of any model")
                refuse_shared(archive.read(entry), lambda made: made in TUPLES)


def refuse_shared(pickle: bytes | IO[bytes], is_refused: Callable[[str | None], bool]) -> None:
    """Raise ValueError if a value of a pickle is used twice that was made by an operation which is refused, and for a large pickle."""
    memo, before = dict[Any, str](), ""
    start = 0 if isinstance(pickle, bytes) else pickle.tell()
    for operation, argument, position in pickletools.genops(pickle):
        if operation.name in ("PUT", "BINPUT", "LONG_BINPUT"):
            memo[argument] = before
        elif operation.name == "MEMOIZE":
            memo[len(memo)] = before
        elif operation.name == "DUP" or (operation.name.endswith("GET") and is_refused(memo.get(argument))):
            raise ValueError("a value that holds others is used twice in it")
        if (position or 0) - start > MAX_BYTES:
            raise ValueError("its description is larger than that of any model")
        before = operation.name
