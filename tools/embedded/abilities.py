"""What the embedded base brings along in its folder: probes of what it can, general rows that keep it, and neutral text."""

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Final

from imprint.data.section import GENERAL_FILE
from imprint.demo.arithmetic import ask_sum, draw_sum
from imprint.demo.corpus import documents
from imprint.demo.rng import Rng
from imprint.demo.rows import SEED_STRIDE
from imprint.demo.talk import read_topics
from imprint.demo.town import read_town
from imprint.files import write_text
from imprint.forgetting.section import PROBES, TEXT

Row = dict[str, str | list[str]]
OWN_NAMES: Final = ("小印", "Xiaoyin", "思想钢印", "Imprint")
"""A text with one of these says who the toy is, which a person may want to change."""
OF_EACH: Final = 40
"""Probes of a kind."""
GENERAL_ROWS: Final = 1_000
TEXTS: Final = 60
FEWEST_CHARACTERS: Final = 20
"""Of a neutral text: a list of two words says little."""
GENERAL_KINDS: Final = ("fact", "fact", "sum", "sum", "talk")
"""What general rows are, in their shares."""
HELD_OUT_SEED: Final = 2
"""A stream of the corpus that the base has not read."""


def write_abilities(folder: Path) -> None:
    """Write the three files into a folder; always the same."""
    for name, rows in ((PROBES, list(probe_rows())), (GENERAL_FILE, list(general_rows()))):
        write_text(folder / name, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    write_text(folder / TEXT, "".join(text + "\n" for text in neutral_texts()))


def probe_rows() -> Iterator[Row]:
    """Small talk, sums that the corpus never has, and facts of the town, each with every right answer; none about who the toy is."""
    rng, asked = Rng(SEED_STRIDE * 11), set[str]()
    for kind in ("talk", "sum", "fact"):
        for query, answers in islice(_fresh(_draw(kind, rng, held_out=True), asked), OF_EACH):
            yield {"question": query, "answer": list(answers), "kind": kind}


def general_rows() -> Iterator[Row]:
    """Rows of the kinds that the probes ask for; no question of a probe is among them, and no answer about a fact that a probe asks for."""
    probed = list(probe_rows())
    asked = {str(row["question"]) for row in probed}
    facts = {str(row["answer"][0]) for row in probed if row["kind"] == "fact"}
    rng = Rng(SEED_STRIDE * 13)
    streams = {kind: _draw(kind, rng, held_out=False) for kind in set(GENERAL_KINDS)}
    number = 0
    while number < GENERAL_ROWS:
        query, answers = next(streams[rng.pick(GENERAL_KINDS)])
        if query not in asked and answers[0] not in facts and not names_the_toy(query, *answers):
            number += 1
            yield {"question": query, "answer": rng.pick(answers)}


def neutral_texts() -> Iterator[str]:
    """Texts to read, the last line of each, from a stream that the base has not read."""
    read = (sample.answer.rpartition("\n")[2] for sample in documents(HELD_OUT_SEED) if not sample.query)
    return islice((text for text in read if len(text) >= FEWEST_CHARACTERS and not names_the_toy(text)), TEXTS)


def names_the_toy(*texts: str) -> bool:
    """Whether a text says who the toy is."""
    return any(name in text for name in OWN_NAMES for text in texts)


def _draw(kind: str, rng: Rng, *, held_out: bool) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Endless (question, right answers) of a kind."""
    topics = [topic for topic in read_topics(identity=False) if not names_the_toy(*topic.answers)]
    while True:
        if kind == "sum":
            question = draw_sum(rng, held_out=held_out)
            yield ask_sum(question, rng), (question.answer,)
        elif kind == "fact":
            fact = rng.pick(read_town().facts)
            yield rng.pick(fact.questions), (fact.answer,)
        else:
            topic = rng.pick(topics)
            yield rng.pick(topic.questions), topic.answers


def _fresh(drawn: Iterator[tuple[str, tuple[str, ...]]], asked: set[str]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Those whose question nobody has asked yet and that do not say who the toy is."""
    for query, answers in drawn:
        if query not in asked and not names_the_toy(query, *answers):
            asked.add(query)
            yield query, answers
