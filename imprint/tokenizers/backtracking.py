"""Which regular expressions of a vocabulary may take a time that grows with a power of a text's length, or doubles with each letter."""

import re
from typing import Final

CHARACTERS: Final = re.compile(r"\\[pP]\{[^}]*\}|\\.|\[(?:\\.|[^\]\\])*+\]", re.DOTALL)
"""A class of characters, or an escaped one."""
REPEATED_GROUP: Final = re.compile(r"\)[+*{]")
"""A repeated group, which may take a time that doubles with each letter of a text."""
OPTIONAL_GROUP: Final = re.compile(r"\((?:\?[a-z]*:)?[^()*+{]*\)\?")
"""A group without repetitions that may be left out, such as `(?i:'s|'t|'ll)?` at the end of a word."""
PARTS: Final = re.compile(r"(?P<border>[|)]|\((?:\?(?:[a-z]*:|[!=<>]+))?)|(?P<character>.)(?P<repeated>[*+?]\+?|\{\d*,?\d*\})?", re.DOTALL)
MANY: Final = 10
"""From which number on a repetition by number counts as one without a bound."""


def may_backtrack(pattern: str) -> bool:
    r"""Whether a pattern has a repeated group, or something after two repetitions that they could share the letters of in many ways.

    Two in a row are in published patterns, such as `\s*[\r\n]+`, and nothing follows them.
    """
    pattern = CHARACTERS.sub("x", pattern)
    if REPEATED_GROUP.search(pattern):
        return True
    repetitions = 0
    for part in PARTS.finditer(OPTIONAL_GROUP.sub("", pattern)):
        repeated = part["repeated"] or ""
        if part["border"]:
            repetitions = 0 if part["border"] == "|" else repetitions
        elif repetitions >= 2 and not repeated.startswith(("*", "?", "{0", "{,")):
            return True
        else:
            repetitions += _is_long(repeated)
    return False


def _is_long(repeated: str) -> bool:
    """Whether a repetition gives letters back, and takes so many that it matters."""
    if repeated.startswith("{"):
        return repeated.endswith(",}") or max(map(int, re.findall(r"\d+", repeated)), default=0) >= MANY
    return repeated in ("*", "+")
