"""Which regular expressions of a vocabulary may take a time that grows with a power of a text's length, or doubles with each letter."""

import re
from typing import Final

CHARACTERS: Final = re.compile(r"\\[pP]\{[^{}\\]*\}|\\[sSdDwWhHrntfv]|\\[^A-Za-z0-9]|\[(?:\\.|[^\[\]\\])++\]", re.DOTALL)
"""A class of characters, or an escaped one."""
WORDS: Final = re.compile(r"\(\?i:[^()*+?{}\\\[\]]++\)(\?)?")
"""A group of words, such as `(?i:'s|'t|'ll)`, which counts as one to nine characters, or none where it may be left out."""
AHEAD: Final = re.compile(r"\(\?[!=]x\)$")
"""A look at the next character at the end of an alternative, such as `(?!\\S)`."""
PART: Final = re.compile(r"([^()|*+?{}\\\[\]])([*+?]\+?|\{\d*,?\d*\})?")
"""A character and how often it is repeated; what is no such part is unusual."""
NUMBERS: Final = re.compile(r"x\{\d+,\d+\}\+")
"""`\\p{N}{1,3}+` as an alternative of its own."""
PUBLISHED: Final = frozenset({" ?[^(\\s|[.,!?…。，、।۔،])]+"})
"""Patterns of published vocabularies that have another form: that of BLOOM."""
LONG: Final = 10
"""So many ways count for a repetition without a bound, and for one with more."""
MANY: Final = 100
"""From so many ways on to divide the letters of a text, what has to come after them takes long to fail."""


def may_backtrack(pattern: str) -> bool:
    r"""Whether a pattern has something after repetitions that could share the letters before it in many ways, or any unusual part.

    Usual are alternatives of single characters and their repetitions, with words such as `(?i:'s|'t)` or a look ahead at an end. Two
    repetitions in a row are in published patterns, such as `\s*[\r\n]+`, and nothing follows them.
    """
    if pattern in PUBLISHED:
        return False
    alternatives = WORDS.sub(lambda words: "x{0,9}" if words[1] else "x{1,9}", CHARACTERS.sub("x", pattern)).split("|")
    return any(not NUMBERS.fullmatch(alternative) and _divides(AHEAD.sub("x", alternative)) for alternative in alternatives)


def _divides(alternative: str) -> bool:
    """Whether an alternative has a part that has to come after many ways, or an unusual part."""
    ways, end = 1, 0
    for part in PART.finditer(alternative):
        if part.start() != end:
            return True
        repeated, end = part[2] or "", part.end()
        if ways >= MANY and not repeated.startswith(("*", "?", "{0", "{,")):
            return True
        ways *= _ways(repeated)
    return end != len(alternative)


def _ways(repeated: str) -> int:
    """How many numbers of letters a repetition may take, at most LONG; as many if it takes so many letters; one if it gives none back."""
    if repeated.startswith("{"):
        counts = [int(count) for count in re.findall(r"\d+", repeated)]
        least, most = (0 if repeated.startswith("{,") else min(counts, default=0)), max(counts, default=LONG)
        return LONG if repeated.endswith(",}") or most >= LONG else most - least + 1
    return {"*": LONG, "+": LONG, "?": 2}.get(repeated, 1)
