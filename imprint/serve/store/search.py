"""When a text has a word: also where one of them is composed otherwise, of another width, or of another case."""

import unicodedata
from functools import lru_cache
from typing import Final

PIECE: Final = 256
"""Characters that are normalized at once: what puts marks in their order takes the square of their number."""
MOST_JOINED: Final = 32
"""Most characters after those that are looked at for one that begins anew; nobody writes so many marks on a letter."""


def has_word(text: str, word: str) -> bool:
    """Whether a text has a word: `café` whatever it is composed of, `ＡＢＣ` as `abc`."""
    return _searched(word) in searchable(text)


def searchable(text: str) -> str:
    """A text as it is searched: compatibility forms (NFKC) in one case. Takes time linear in its length, whatever it is."""
    if text.isascii():
        return text.lower()
    pieces, begin = [], 0
    while begin < len(text):
        end = min(begin + PIECE, len(text))
        most = min(end + MOST_JOINED, len(text))
        while end < most and _joins(text[end]):
            end += 1
        pieces.append(unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text[begin:end]).casefold()))
        begin = end
    return "".join(pieces)


def _joins(character: str) -> bool:
    """Whether a character may make one with that before it: a mark, or the rest of a syllable of Hangul."""
    return unicodedata.combining(character) != 0 or "\u1160" <= character <= "\u11ff" or "\uff9e" <= character <= "\uff9f"


_searched = lru_cache(maxsize=64)(searchable)
"""The words of searches, which are few while the texts are many."""
