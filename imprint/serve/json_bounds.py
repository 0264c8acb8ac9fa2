"""Bounds on JSON of a stranger, before it is parsed: how deep it is, and how many values it has."""

import re
from typing import Final, Literal

MAX_DEPTH: Final = 64
"""Most lists and objects inside each other."""
MAX_VALUES: Final = 30_000
"""Most values, lists and objects among them: enough for the longest chat. A text of a MiB could hold half a million, and reading those
would stop the service for a quarter of a second."""
STRINGS_AND_MARKS: Final = re.compile(r'"(?:[^"\\]++|\\.)*+"?|[\[\]{},]', re.DOTALL)
"""Also a string that never ends, to the end of the text: else each quote in it would begin another search of all that follows."""
MAX_MATCHES_PER_VALUE: Final = 4
"""Most matches of STRINGS_AND_MARKS for each value of valid JSON: the comma or bracket before it, its name in an object, the value itself
if it is a string, and the bracket that closes it. A text with more is no JSON."""


def broken_bound(text: str, most_values: int = MAX_VALUES) -> Literal["depth", "values"] | None:
    """Which bound JSON breaks; None where it breaks none before its end, or before the place from which on it is no JSON."""
    brackets = text.count("[") + text.count("{")
    if brackets <= MAX_DEPTH and brackets + text.count(",") <= most_values:
        return None
    depth = values = 0
    for number, match in enumerate(STRINGS_AND_MARKS.finditer(text)):
        mark = match[0]
        if mark in "[{,":
            values += 1
            depth += mark != ","
            if depth > MAX_DEPTH:
                return "depth"
            if values > most_values:
                return "values"
        elif mark in "]}":
            depth -= 1
        if depth < 0 or number > MAX_MATCHES_PER_VALUE * most_values:
            return None  # the parser stops before this place, too
    return None
