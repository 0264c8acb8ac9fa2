"""Texts of the invented domain: books, questions that the books answer, and general text for comparison."""

import json
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Final

from imprint.data.sample import Sample
from imprint.demo.corpus import documents
from imprint.demo.domain_example.craft import QUESTIONS, STATEMENTS, Craft, read_craft
from imprint.demo.rng import Rng, weighted
from imprint.demo.rows import SEED_STRIDE
from imprint.files.atomic import write_text


def _state(rng: Rng, glaze: dict[str, str], relation: str) -> str:
    return rng.pick(STATEMENTS[relation]).format_map(glaze)


def _entry(craft: Craft, rng: Rng) -> str:
    """All facts of one glaze, in random order."""
    glaze = rng.pick(craft.glazes)
    return "".join(_state(rng, glaze, relation) for relation in rng.shuffled(list(STATEMENTS)))


def _day(craft: Craft, rng: Rng) -> str:
    """A day at the kiln: some facts of several glazes and a term of the craft."""
    facts = [_state(rng, rng.pick(craft.glazes), rng.pick(list(STATEMENTS))) for _ in range(2 + rng.below(3))]
    word, meaning = rng.pick(craft.steps)
    return f"{rng.pick(craft.openings)}。{''.join(facts)}{word}，就是{meaning}。{rng.pick(craft.endings)}。"


def _lesson(craft: Craft, rng: Rng) -> str:
    """Several terms of the craft with their meanings."""
    return "".join(f"{word}：{meaning}。" for word, meaning in rng.shuffled(craft.steps)[: 2 + rng.below(3)])


def _shelf(craft: Craft, rng: Rng) -> str:
    """The same relation of several glazes."""
    relation = rng.pick(list(STATEMENTS))
    return "".join(_state(rng, glaze, relation) for glaze in rng.shuffled(craft.glazes)[: 3 + rng.below(3)])


KINDS: Final[tuple[Callable[[Craft, Rng], str], ...]] = weighted([(_entry, 5), (_day, 3), (_shelf, 3), (_lesson, 1)])


def pages(seed: int) -> Iterator[str]:
    """An endless stream of pages of the books."""
    craft, rng = read_craft(), Rng(seed * SEED_STRIDE + 5)
    while True:
        yield rng.pick(KINDS)(craft, rng)


def general_texts(seed: int) -> Iterator[str]:
    """An endless stream of general text, about the toy town; questions and answers are on separate lines."""
    for sample in documents(seed):
        yield "\n".join(line for line in _as_text(sample).split("\n") if line.strip())


def _as_text(sample: Sample) -> str:
    if not sample.query:
        return sample.answer
    turns = [*(sample.history or ()), (sample.query, sample.answer)]
    return "\n".join(f"问：{question}\n答：{answer}" for question, answer in turns)


def questions(*, held_out: bool) -> Iterator[dict[str, str]]:
    """Every question of the training or the held-out rows, with its answer; no glaze is in both."""
    for glaze in read_craft().glazes_for_questions(held_out=held_out):
        for relation, wordings in QUESTIONS.items():
            for wording in wordings:
                yield {"prompt": wording.format_map(glaze), "response": STATEMENTS[relation][0].format_map(glaze)}


def write_domain_example(folder: Path, *, books: int = 3000, general: int = 3000, held_out: int = 200) -> None:
    """Write six files: this many documents of each kind for training, this many held out, and questions.

    Blank lines separate documents. General text is trained on with the books, against forgetting.
    """
    for name, texts, count in (
        ("read/books.txt", pages(0), books),
        ("books-held-out.txt", pages(1), held_out),
        ("read/general.txt", general_texts(2), general),
        ("general-held-out.txt", general_texts(1), held_out),
    ):
        write_text(folder / name, "\n\n".join(islice(texts, count)) + "\n")
    for name, is_held_out in (("questions.jsonl", False), ("questions-held-out.jsonl", True)):
        rows = [json.dumps(row, ensure_ascii=False) + "\n" for row in questions(held_out=is_held_out)]
        write_text(folder / name, "".join(rows))
