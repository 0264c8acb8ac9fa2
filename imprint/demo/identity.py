"""Twenty rows that give a model a new name and author, and held-out paraphrases of their questions; the same for an English base."""

from importlib.resources import files
from pathlib import Path
from typing import Final

from imprint.files.atomic import write_text

FILES: Final = ("train.jsonl", "held-out.jsonl", "blind.jsonl")
"""The training rows; paraphrases to evaluate on during a run; and paraphrases written independently of both, for one final test.

`{name}` and `{author}` are filled by a recipe's data.fill.
"""
ENGLISH_FILES: Final = ("english-train.jsonl", "english-held-out.jsonl", "english-general.jsonl")
"""For an English base: training rows, paraphrases, and general questions with answers to mix in."""


def write_identity(folder: Path) -> None:
    """Write the files into a folder.

    Every reference to a question about the model contains `{name}` and `{author}`: an answer is correct if it contains both.
    """
    for name in (*FILES, *ENGLISH_FILES):
        write_text(folder / name, (files("imprint.demo") / "identity" / name).read_text(encoding="utf-8"))
