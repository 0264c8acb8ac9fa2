"""Whether a text has a word, whatever the Unicode composition, the width and the case of the two."""

import unicodedata
from functools import lru_cache
from typing import Final

CHUNK: Final = 256
"""Characters that are normalized at once: the time to sort combining marks grows with the square of their number."""
MAX_MARKS: Final = 32
"""Most combining marks by which a chunk is prolonged, so that no letter is cut from its marks; nobody writes more on one letter."""


def has_word(text: str, word: str) -> bool:
    """Whether a text has a word: `café` whatever it is composed of, `ＡＢＣ` as `abc`."""
    return _searched(word) in searchable(text)


def searchable(text: str) -> str:
    """A text as it is searched: compatibility forms (NFKC) in one case. Takes time linear in its length, whatever it is."""
    if text.isascii():
        return text.lower()
    chunks, begin = [], 0
    while begin < len(text):
        end = min(begin + CHUNK, len(text))
        most = min(end + MAX_MARKS, len(text))
        while end < most and _joins(text[end]):
            end += 1
        chunks.append(unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text[begin:end]).casefold()))
        begin = end
    return "".join(chunks)


def _joins(character: str) -> bool:
    """Whether a character may make one with that before it: a mark, or the rest of a syllable of Hangul."""
    return unicodedata.combining(character) != 0 or "\u1160" <= character <= "\u11ff" or "\uff9e" <= character <= "\uff9f"


_searched = lru_cache(maxsize=64)(searchable)
"""The words of searches, which are few while the texts are many."""
