"""Duplicate rows, found by 64-bit hashes: 16 bytes a row and its location, so that a million rows fit into memory."""

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Final

import numpy as np

from imprint.data.sample import split_location

LINE_BITS: Final = 36
"""Bits of a line number."""
Hashes = np.ndarray[Any, np.dtype[np.uint64]]


class Locations:
    """Locations of rows ("file:line"), in a few bytes a row."""

    def __init__(self) -> None:
        self._files: dict[str, int] = {}
        self._file = array("I")
        self._line = array("Q")
        """Lines; of several rows that begin on one line, the number of the row in the bits above."""

    def __len__(self) -> int:
        """Number of locations."""
        return len(self._line)

    def append(self, location: str) -> None:
        """Add the location of the next row."""
        file, line, row = split_location(location)
        self._file.append(self._files.setdefault(file, len(self._files)))
        self._line.append(row << LINE_BITS | line)

    def __getitem__(self, row: int) -> str:
        """The location of a row, as it was given."""
        number, line = divmod(self._line[row], 1 << LINE_BITS)
        return f"{list(self._files)[self._file[row]]}:{line}" + (f", row {number}" if number else "")


class Digests:
    """Two 64-bit hashes of each row: one of its prompt, one of prompt and answer."""

    def __init__(self) -> None:
        self.locations = Locations()
        self._prompts = array("Q")
        self._rows = array("Q")

    def append(self, location: str, prompt: Sequence[str], answer: str) -> None:
        """Add a row: the texts of its prompt, earlier turns included, and its answer."""
        digest = blake2b("\0".join(prompt).encode("utf-8", "surrogatepass"), digest_size=8)
        self._prompts.append(int.from_bytes(digest.digest(), "little"))
        digest.update(b"\0\0" + answer.encode("utf-8", "surrogatepass"))
        self._rows.append(int.from_bytes(digest.digest(), "little"))
        self.locations.append(location)

    def prompt_hashes(self) -> Hashes:
        """Hashes of the prompts, (rows,)."""
        return np.frombuffer(self._prompts, dtype=np.uint64)

    def row_hashes(self) -> Hashes:
        """Hashes of prompts and answers, (rows,)."""
        return np.frombuffer(self._rows, dtype=np.uint64)


@dataclass(frozen=True)
class Pairs:
    """Rows that match an earlier row, or a row of another file."""

    rows: list[int]
    """Row indices, increasing."""
    matches: list[int]
    """For each of them the index of the row that it matches."""

    def __len__(self) -> int:
        """Number of pairs."""
        return len(self.rows)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """(row, matching row) pairs."""
        return zip(self.rows, self.matches, strict=True)


def duplicated(digests: Digests) -> Pairs:
    """Rows with the prompt and the answer of an earlier row."""
    return _equal_earlier(digests.row_hashes())


def contradicting(digests: Digests) -> Pairs:
    """Rows with the prompt of an earlier row and a new answer; each further answer counts once."""
    duplicates = set(_equal_earlier(digests.row_hashes()).rows)
    pairs = [(row, match) for row, match in _equal_earlier(digests.prompt_hashes()) if row not in duplicates]
    return Pairs([row for row, _ in pairs], [match for _, match in pairs])


def leaked(train: Digests, dev: Digests) -> Pairs:
    """Rows of `train` that `dev` has too."""
    return _in_both(train.row_hashes(), dev.row_hashes())


def leaked_questions(train: Digests, dev: Digests) -> Pairs:
    """Rows of `train` whose prompt `dev` has too, with another answer."""
    same = set(leaked(train, dev).rows)
    pairs = [(row, match) for row, match in _in_both(train.prompt_hashes(), dev.prompt_hashes()) if row not in same]
    return Pairs([row for row, _ in pairs], [match for _, match in pairs])


def _equal_earlier(hashes: Hashes) -> Pairs:
    order = np.argsort(hashes, kind="stable")
    ordered = hashes[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]])) if len(ordered) else np.empty(0, dtype=np.int64)
    sizes = np.diff(np.append(starts, len(ordered)))
    first = np.repeat(order[starts], sizes)
    later = np.flatnonzero(first != order)
    rows, matches = order[later], first[later]
    by_row = np.argsort(rows)
    return Pairs(rows[by_row].tolist(), matches[by_row].tolist())


def _in_both(train: Hashes, dev: Hashes) -> Pairs:
    if not len(dev) or not len(train):
        return Pairs([], [])
    order = np.argsort(dev, kind="stable")
    positions = np.minimum(np.searchsorted(dev, train, sorter=order), len(dev) - 1)
    matches = order[positions]
    rows = np.flatnonzero(dev[matches] == train)
    return Pairs(rows.tolist(), matches[rows].tolist())
