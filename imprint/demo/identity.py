"""Twenty rows that give a model a new name and author, and other ways to ask for them, which nobody learns from."""

from importlib.resources import files
from pathlib import Path
from typing import Final

from imprint.files import write_text

FILES: Final = ("train.jsonl", "held-out.jsonl", "blind.jsonl")
"""The rows to learn from; the paraphrases that a run is watched by; and those that were written without a look at either, to be asked once.

`{name}` and `{author}` are filled by a recipe's data.fill.
"""


def write_identity(folder: Path) -> None:
    """Write the three files into a folder.

    Every answer holds `{name}` and `{author}`: the answer to a paraphrase counts as right where it holds both.
    """
    for name in FILES:
        write_text(folder / name, (files("imprint.demo") / "identity" / name).read_text(encoding="utf-8"))
