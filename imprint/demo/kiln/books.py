"""What is written of the craft: books to read, questions whose answers stand in them, and text of another world to compare with."""

import json
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Final

from imprint.data.sample import Sample
from imprint.demo.corpus import documents
from imprint.demo.dice import Dice, weighted
from imprint.demo.kiln.craft import QUESTIONS, STATEMENTS, Craft, read_craft
from imprint.demo.rows import SEED_STRIDE
from imprint.files import write_text

FILES: Final = (
    *("read/books.txt", "read/general.txt", "books-held-out.txt", "general-held-out.txt"),
    *("questions.jsonl", "questions-held-out.jsonl"),
)
"""What `write_kiln` writes; in the texts, blank lines part the documents. General text is read with the books, lest it be forgotten."""


def _state(dice: Dice, glaze: dict[str, str], relation: str) -> str:
    return dice.pick(STATEMENTS[relation]).format_map(glaze)


def _entry(craft: Craft, dice: Dice) -> str:
    """All of a glaze in a row, in any order."""
    glaze = dice.pick(craft.glazes)
    return "".join(_state(dice, glaze, relation) for relation in dice.shuffled(list(STATEMENTS)))


def _day(craft: Craft, dice: Dice) -> str:
    """A day at the kiln, with some facts of several glazes and a word of the craft."""
    told = [_state(dice, dice.pick(craft.glazes), dice.pick(list(STATEMENTS))) for _ in range(2 + dice.below(3))]
    word, meaning = dice.pick(craft.steps)
    return f"{dice.pick(craft.openings)}。{''.join(told)}{word}，就是{meaning}。{dice.pick(craft.endings)}。"


def _lesson(craft: Craft, dice: Dice) -> str:
    """Words of the craft."""
    return "".join(f"{word}：{meaning}。" for word, meaning in dice.shuffled(craft.steps)[: 2 + dice.below(3)])


def _shelf(craft: Craft, dice: Dice) -> str:
    """One relation of several glazes."""
    relation = dice.pick(list(STATEMENTS))
    return "".join(_state(dice, glaze, relation) for glaze in dice.shuffled(craft.glazes)[: 3 + dice.below(3)])


KINDS: Final[tuple[Callable[[Craft, Dice], str], ...]] = weighted([(_entry, 5), (_day, 3), (_shelf, 3), (_lesson, 1)])


def pages(seed: int) -> Iterator[str]:
    """Pages of the books for a seed, without end."""
    craft, dice = read_craft(), Dice(seed * SEED_STRIDE + 5)
    while True:
        yield dice.pick(KINDS)(craft, dice)


def general_texts(seed: int) -> Iterator[str]:
    """The texts of the little town as they are read: questions and answers on lines of their own, without end."""
    for sample in documents(seed):
        yield "\n".join(line for line in _read_aloud(sample).split("\n") if line.strip())


def _read_aloud(sample: Sample) -> str:
    if not sample.query:
        return sample.answer
    turns = [*(sample.history or ()), (sample.query, sample.answer)]
    return "\n".join(f"问：{question}\n答：{answer}" for question, answer in turns)


def questions(*, held_out: bool) -> Iterator[dict[str, str]]:
    """Every question about the glazes that may be asked, with its answer; those held out are of glazes that no other row asks about."""
    for glaze in read_craft().asked_of(held_out=held_out):
        for relation, wordings in QUESTIONS.items():
            for wording in wordings:
                yield {"prompt": wording.format_map(glaze), "response": STATEMENTS[relation][0].format_map(glaze)}


def write_kiln(folder: Path, *, books: int = 3000, general: int = 3000, held_out: int = 200) -> None:
    """Write the six FILES: so many documents of each kind to learn from, and so many held out."""
    for name, made, count in (
        ("read/books.txt", pages(0), books),
        ("books-held-out.txt", pages(1), held_out),
        ("read/general.txt", general_texts(2), general),
        ("general-held-out.txt", general_texts(1), held_out),
    ):
        write_text(folder / name, "\n\n".join(islice(made, count)) + "\n")
    for name, is_held_out in (("questions.jsonl", False), ("questions-held-out.jsonl", True)):
        rows = [json.dumps(row, ensure_ascii=False) + "\n" for row in questions(held_out=is_held_out)]
        write_text(folder / name, "".join(rows))
