"""Which rows are there twice: sixteen bytes a row and its place, so that a million rows fit beside the program itself."""

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np

Hashes = np.ndarray[Any, np.dtype[np.uint64]]


class Locations:
    """The places of rows, "file:line" each, in a few bytes a row."""

    def __init__(self) -> None:
        self._files: dict[str, int] = {}
        self._file = array("I")
        self._line = array("Q")

    def __len__(self) -> int:
        """How many places there are."""
        return len(self._line)

    def append(self, location: str) -> None:
        """Add the place of the next row."""
        file, _, line = location.rpartition(":")
        self._file.append(self._files.setdefault(file, len(self._files)))
        self._line.append(int(line))

    def __getitem__(self, row: int) -> str:
        """The place of a row, as it was given."""
        return f"{list(self._files)[self._file[row]]}:{self._line[row]}"


class Digests:
    """What every row asks and answers, as two numbers of 64 bits: equal texts have equal numbers."""

    def __init__(self) -> None:
        self.locations = Locations()
        self._prompts = array("Q")
        self._rows = array("Q")

    def append(self, location: str, asked: Sequence[str], answer: str) -> None:
        """Add a row: what is asked, with all that was said before, and what is answered."""
        digest = blake2b("\0".join(asked).encode("utf-8", "surrogatepass"), digest_size=8)
        self._prompts.append(int.from_bytes(digest.digest(), "little"))
        digest.update(b"\0\0" + answer.encode("utf-8", "surrogatepass"))
        self._rows.append(int.from_bytes(digest.digest(), "little"))
        self.locations.append(location)

    def prompt_hashes(self) -> Hashes:
        """The questions' numbers, a row each."""
        return np.frombuffer(self._prompts, dtype=np.uint64)

    def row_hashes(self) -> Hashes:
        """The rows' numbers: question and answer."""
        return np.frombuffer(self._rows, dtype=np.uint64)


@dataclass(frozen=True)
class Pairs:
    """Rows that are like an earlier row, or like a row of another file."""

    rows: list[int]
    """Their numbers, increasing."""
    matches: list[int]
    """For each of them the row that it is like."""

    def __len__(self) -> int:
        """How many there are."""
        return len(self.rows)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Each with the row that it is like."""
        return zip(self.rows, self.matches, strict=True)


def repeated(digests: Digests) -> Pairs:
    """The rows whose question and answer an earlier row has."""
    return _equal_earlier(digests.row_hashes())


def contradicting(digests: Digests) -> Pairs:
    """The rows whose question an earlier row has, with an answer that none of those has: each further answer once."""
    asked, whole = digests.prompt_hashes(), digests.row_hashes()
    again = set(_equal_earlier(whole).rows)
    pairs = [(row, like) for row, like in _equal_earlier(asked) if row not in again]
    return Pairs([row for row, _ in pairs], [like for _, like in pairs])


def leaked(train: Digests, dev: Digests) -> Pairs:
    """The rows of `train` that are rows of `dev`."""
    return _in_both(train.row_hashes(), dev.row_hashes())


def leaked_questions(train: Digests, dev: Digests) -> Pairs:
    """The rows of `train` whose question `dev` asks too, with another answer."""
    same = set(leaked(train, dev).rows)
    pairs = [(row, like) for row, like in _in_both(train.prompt_hashes(), dev.prompt_hashes()) if row not in same]
    return Pairs([row for row, _ in pairs], [like for _, like in pairs])


def _equal_earlier(numbers: Hashes) -> Pairs:
    order = np.argsort(numbers, kind="stable")
    ordered = numbers[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]])) if len(ordered) else np.empty(0, dtype=np.int64)
    sizes = np.diff(np.append(starts, len(ordered)))
    first = np.repeat(order[starts], sizes)
    later = np.flatnonzero(first != order)
    rows, like = order[later], first[later]
    by_row = np.argsort(rows)
    return Pairs(rows[by_row].tolist(), like[by_row].tolist())


def _in_both(train: Hashes, dev: Hashes) -> Pairs:
    if not len(dev) or not len(train):
        return Pairs([], [])
    order = np.argsort(dev, kind="stable")
    found = np.minimum(np.searchsorted(dev, train, sorter=order), len(dev) - 1)
    like = order[found]
    rows = np.flatnonzero(dev[like] == train)
    return Pairs(rows.tolist(), like[rows].tolist())
