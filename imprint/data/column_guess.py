"""Guesses which columns of a row are the question and the answer, to propose them; a guess is never applied."""

import shlex
from collections.abc import Mapping
from typing import Final

PROMPT: Final = "prompt_column"
"""The knob that names the column of the question."""
RESPONSE: Final = "response_column"
"""The knob that names the column of the answer."""
HISTORY: Final = "history_column"
"""The knob that names the column of the earlier turns."""


def guessed_columns(row: Mapping[str, object], prompt: str, response: str, knob_prefix: str = "") -> dict[str, str]:
    """Knob -> column of a row that lacks `prompt`, `response` or both; empty unless as many columns of text are left."""
    named = {PROMPT: prompt, RESPONSE: response}
    missing = [knob for knob, column in named.items() if column not in row]
    texts = [column for column, value in row.items() if column not in named.values() and _is_text(value)]
    if not missing or len(texts) != len(missing):
        return {}
    found = named | dict(zip(missing, texts, strict=True))
    return {f"{knob_prefix}{knob}": column for knob, column in found.items()}


def knob_words(knobs: Mapping[str, str]) -> str:
    """Overrides as they are typed in a shell."""
    return " ".join(f"{knob}={column}" if column == "..." else shlex.join([f"{knob}={column}"]) for knob, column in knobs.items())


def _is_text(value: object) -> bool:
    """Whether a value is a text and no number: the cells of a CSV file are all texts."""
    if not isinstance(value, str) or not value.strip():
        return False
    try:
        float(value.replace(",", ""))
    except ValueError:
        return True
    return False
