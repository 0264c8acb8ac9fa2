"""The word lists of the toy town: text files beside this module, in sections of one line per entry."""

from importlib.resources import files
from typing import Final

FIELD: Final = " | "
"""Separator of the fields of an entry."""


def read_sections(name: str) -> dict[str, list[list[str]]]:
    """Read `words/<name>.txt`: see `parse_sections`."""
    return parse_sections((files("imprint.demo") / "words" / f"{name}.txt").read_text(encoding="utf-8"))


def parse_sections(text: str) -> dict[str, list[list[str]]]:
    """Parse a word list: section head -> its entries in order, each a list of fields.

    Empty lines and lines that start with "#" are comments; a section head is in brackets.
    """
    sections: dict[str, list[list[str]]] = {}
    entries: list[list[str]] = []
    for line in text.splitlines():
        if line.startswith("["):
            entries = sections.setdefault(line.strip("[]"), [])
        elif line and not line.startswith("#"):
            entries.append(line.split(FIELD))
    return sections


def first_fields(entries: list[list[str]]) -> list[str]:
    """The entries of a section whose lines have one field each."""
    return [entry[0] for entry in entries]
