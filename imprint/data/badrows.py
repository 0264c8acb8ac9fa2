"""What is wrong with a row, and the words in which its values are told."""

import json


class BadRowError(ValueError):
    """What is wrong with one row, as the end of a sentence that starts with its place."""

    text: str = ""
    """The line as it stands in the file, where it is one that cannot be taken apart."""


def describe_value(value: object) -> str:
    """The kind of a value and its beginning: `a string ("...")`."""
    match value:
        case None:
            return "null"
        case bool():
            return f"a truth value ({json.dumps(value)})"
        case int() | float():
            return f"a number ({clip(str(value))})"
        case str():
            return f"a string ({quote(value)})"
        case list() | tuple():
            return f"a list ({clip(_as_json(value))})"
        case dict():
            return f"an object ({clip(_as_json(value))})"
    return f"a {type(value).__name__} ({clip(str(value))})"


def quote(text: str) -> str:
    """The beginning of a text in quotes."""
    return f'"{clip(text)}"'


def clip(text: str, size: int = 40) -> str:
    """The beginning of a text on one line, whatever cannot be printed escaped."""
    shown = text if len(text) <= size else text[:size] + "..."
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in shown)


def _as_json(value: object) -> str:
    """JSON as far as a value is; a table may hold dates and bytes within lists."""
    return json.dumps(value, ensure_ascii=False, default=str)
