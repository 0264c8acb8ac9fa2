"""The longest common subsequence of two lists of words, one row of bits at a time.

Row i of the table of lengths is a number whose bit j is set where L[i][j + 1] > L[i][j]. A row follows from the one above it by a few
operations on integers. Source: Hyyrö, Bit-parallel LCS-length computation revisited, 2004.
"""

import math
from collections.abc import Sequence
from typing import Final

MAX_WORDS_IN_FULL: Final = 4096
"""Words up to which all rows are kept; of more, each sqrt(n)-th is kept and those between two are computed again."""
MAX_UNCACHED_POSITIONS: Final = 32
"""Positions of a word in a longer list up to which its bits are computed again each time."""


def common_length(first: Sequence[str], second: Sequence[str]) -> int:
    """The length of a longest common subsequence, in words."""
    positions, full = _Positions(second), (1 << len(second)) - 1
    row = 0
    for word in first:
        row = _next_row(row, positions.of(word), full)
    return row.bit_count()


def common_words(first: Sequence[str], second: Sequence[str]) -> set[str]:
    """The distinct words of one longest common subsequence: that which the packages' walk from the end of both texts finds.

    The walk takes a pair of equal words as soon as it meets one; else it leaves the last word of `first` if the rest is then longer in
    common than without the last word of `second`.
    """
    positions, full = _Positions(second), (1 << len(second)) - 1
    stride = max(1, len(first) if len(first) <= MAX_WORDS_IN_FULL else math.isqrt(len(first)))
    marks, row = [0], 0
    for index, word in enumerate(first, start=1):
        row = _next_row(row, positions.of(word), full)
        if index % stride == 0:
            marks.append(row)
    common: set[str] = set()
    column = len(second)
    for start in range((len(first) - 1) // stride * stride, -1, -stride):
        rows = [marks[start // stride]]
        for word in first[start : start + stride]:
            rows.append(_next_row(rows[-1], positions.of(word), full))
        column = _walk(first[start : start + stride], second, rows, column, common)
    return common


def _walk(first: Sequence[str], second: Sequence[str], rows: Sequence[int], column: int, common: set[str]) -> int:
    """Walk back over `rows` from a column, adding words in common; returns the column at the first row."""
    index = len(first)
    while index and column:
        if first[index - 1] == second[column - 1]:
            common.add(first[index - 1])
            index, column = index - 1, column - 1
        elif rows[index] >> (column - 1) & 1:  # one less without the last word of `second`, so the length comes from the row above
            index -= 1
        else:
            column -= 1
    return column


class _Positions:
    """Where each word is, as bits; of a long list only frequent words are kept as bits, which are as long as the list."""

    def __init__(self, words: Sequence[str]) -> None:
        self._positions: dict[str, list[int]] = {}
        for position, word in enumerate(words):
            self._positions.setdefault(word, []).append(position)
        self._bits: dict[str, int] = {}
        self._few = 0 if len(words) <= MAX_WORDS_IN_FULL else MAX_UNCACHED_POSITIONS

    def of(self, word: str) -> int:
        """The positions of a word."""
        bits = self._bits.get(word)
        if bits is None:
            positions = self._positions.get(word, [])
            row = bytearray(positions[-1] // 8 + 1 if positions else 0)
            for position in positions:
                row[position // 8] |= 1 << position % 8
            bits = int.from_bytes(row, "little")
            if len(positions) > self._few:
                self._bits[word] = bits
        return bits


def _next_row(row: int, matches: int, full: int) -> int:
    """The row below: of each run of columns of equal length, the first match counts one more."""
    unset = full ^ row
    here = unset & matches
    return full ^ (((unset + here) | (unset ^ here)) & full)
