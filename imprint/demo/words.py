"""The word lists of the little world: text files beside this module, in sections of one line per entry."""

from importlib.resources import files
from typing import Final

NAMES: Final = ("goods", "clashes", "frames", "talk", "town", "common")
FIELD: Final = " | "
"""What stands between the fields of one entry."""


def read_sections(name: str) -> dict[str, list[list[str]]]:
    """Read `words/<name>.txt`: see `parse_sections`."""
    return parse_sections((files("imprint.demo") / "words" / f"{name}.txt").read_text(encoding="utf-8"))


def parse_sections(text: str) -> dict[str, list[list[str]]]:
    """Take a list of words apart: section head -> its entries, each a list of fields, in their order.

    Empty lines and lines that start with "#" are comments; a head stands in brackets.
    """
    sections: dict[str, list[list[str]]] = {}
    entries: list[list[str]] = []
    for line in text.splitlines():
        if line.startswith("["):
            entries = sections.setdefault(line.strip("[]"), [])
        elif line and not line.startswith("#"):
            entries.append(line.split(FIELD))
    return sections


def read_characters() -> str:
    """Every character of all word lists, comments left out, each once, in the order of their numbers."""
    entries = [entry for name in NAMES for section in read_sections(name).values() for entry in section]
    return "".join(sorted({character for entry in entries for field in entry for character in field}))


def first_fields(entries: list[list[str]]) -> list[str]:
    """The entries of a section whose lines have one field each."""
    return [entry[0] for entry in entries]
