"""Twenty rows that give a model a new name and author, and forty other ways to ask for them, which nobody learns from."""

from importlib.resources import files
from pathlib import Path
from typing import Final

from imprint.files import write_text

FILES: Final = ("train.jsonl", "held-out.jsonl")
"""The rows to learn from, and the paraphrases that they are tested by. `{name}` and `{author}` are filled by a recipe's data.fill."""


def write_identity(folder: Path) -> None:
    """Write both files into a folder.

    Every answer holds `{name}` and `{author}`: the answer to a held-out row counts as right where it holds both.
    """
    for name in FILES:
        write_text(folder / name, (files("imprint.demo") / "identity" / name).read_text(encoding="utf-8"))
