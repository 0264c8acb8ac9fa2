"""Bounds on JSON of a stranger, before it is parsed: how deep it is, and how many values it has."""

from itertools import accumulate
from types import MappingProxyType
from typing import Final, Literal

MAX_DEPTH: Final = 64
"""Most lists and objects inside each other."""
MAX_VALUES: Final = 30_000
"""Most values, lists and objects among them: enough for the longest chat. A text of a MiB could hold half a million, and reading those
would stop the service for a quarter of a second."""
MAX_QUOTES_PER_VALUE: Final = 4
"""Most quotes for each value of valid JSON: those of its name in an object, and its own if it is a string."""
BRACKETS: Final = MappingProxyType({ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1})
"""A bracket -> by how much it changes the depth."""
NO_BRACKETS: Final = bytes(set(range(256)) - BRACKETS.keys())


def broken_bound(text: str, most_values: int = MAX_VALUES) -> Literal["depth", "values"] | None:
    """Which bound JSON breaks; None where it breaks none. What is no JSON from some place on may get any answer for what follows there.

    All that takes time is done by a few calls for all of the text: a step for each text and mark in it would take four times as long.
    """
    brackets = text.count("[") + text.count("{")
    if brackets <= MAX_DEPTH and brackets + text.count(",") <= most_values:
        return None
    parts = _cut_at_quotes(text, MAX_QUOTES_PER_VALUE * (most_values + 1))
    if len(parts) > MAX_QUOTES_PER_VALUE * (most_values + 1):
        return "values"
    marks = "".join(parts[::2])  # what stands in no string
    brackets = marks.count("[") + marks.count("{")
    steps = marks.encode("ascii", "ignore").translate(None, NO_BRACKETS)[: 2 * most_values]
    if brackets > MAX_DEPTH and max(accumulate(map(BRACKETS.__getitem__, steps))) > MAX_DEPTH:
        return "depth"
    return "values" if brackets + marks.count(",") > most_values else None


def count_values(text: str) -> int:
    """How many values JSON has, about: its lists and objects, and the commas outside its strings."""
    marks = "".join(_cut_at_quotes(text)[::2])
    return sum(map(marks.count, "[{,"))


def _cut_at_quotes(text: str, most: int = -1) -> list[str]:
    """The parts of JSON between the quotes of its strings, of which every second one stands in a string; cut `most` times."""
    return text.replace("\\\\", "").replace('\\"', "").split('"', most)
