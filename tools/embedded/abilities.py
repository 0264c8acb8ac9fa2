"""Files in the embedded base's folder against forgetting: probe questions, general rows to mix in, and neutral text."""

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Final

from imprint.data.section import GENERAL_FILE
from imprint.demo.arithmetic import ask_problem, draw_problem
from imprint.demo.corpus import documents
from imprint.demo.rng import Rng
from imprint.demo.rows import SEED_STRIDE
from imprint.demo.talk import read_topics
from imprint.demo.town import read_town
from imprint.files.atomic import write_text
from imprint.forgetting.section import PROBES, TEXT

Row = dict[str, str | list[str]]
IDENTITY_NAMES: Final = ("小印", "Xiaoyin", "思想钢印", "Imprint")
"""Names in texts about the toy model's identity, which users may want to change."""
PROBES_PER_KIND: Final = 40
"""Number of probes of each kind."""
GENERAL_ROWS: Final = 1_000
TEXTS: Final = 60
MIN_CHARACTERS: Final = 20
"""Minimum length of a neutral text."""
GENERAL_KINDS: Final = ("fact", "fact", "sum", "sum", "talk")
"""Kinds of general rows; each is drawn equally often."""
HELD_OUT_SEED: Final = 2
"""Seed of a corpus stream that the base was not trained on."""


def write_abilities(folder: Path) -> None:
    """Write the three files into a folder; deterministic."""
    for name, rows in ((PROBES, list(probe_rows())), (GENERAL_FILE, list(general_rows()))):
        write_text(folder / name, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    write_text(folder / TEXT, "".join(text + "\n" for text in neutral_texts()))


def probe_rows() -> Iterator[Row]:
    """Small talk, held-out sums, and facts of the town, each with all accepted answers; none about the toy model's identity."""
    rng, questions = Rng(SEED_STRIDE * 11), set[str]()
    for kind in ("talk", "sum", "fact"):
        for query, answers in islice(_without_repeats(_draw(kind, rng, held_out=True), questions), PROBES_PER_KIND):
            yield {"question": query, "answer": list(answers), "kind": kind}


def general_rows() -> Iterator[Row]:
    """Rows of the probes' kinds, without the probes' questions and without the facts that they ask for."""
    probed = list(probe_rows())
    questions = {str(row["question"]) for row in probed}
    facts = {str(row["answer"][0]) for row in probed if row["kind"] == "fact"}
    rng = Rng(SEED_STRIDE * 13)
    streams = {kind: _draw(kind, rng, held_out=False) for kind in set(GENERAL_KINDS)}
    number = 0
    while number < GENERAL_ROWS:
        query, answers = next(streams[rng.pick(GENERAL_KINDS)])
        if query not in questions and answers[0] not in facts and not is_about_identity(query, *answers):
            number += 1
            yield {"question": query, "answer": rng.pick(answers)}


def neutral_texts() -> Iterator[str]:
    """The last lines of texts from a corpus stream that the base was not trained on."""
    plain_texts = (sample.answer.rpartition("\n")[2] for sample in documents(HELD_OUT_SEED) if not sample.query)
    return islice((text for text in plain_texts if len(text) >= MIN_CHARACTERS and not is_about_identity(text)), TEXTS)


def is_about_identity(*texts: str) -> bool:
    """Whether a text contains a name of the toy model or its project."""
    return any(name in text for name in IDENTITY_NAMES for text in texts)


def _draw(kind: str, rng: Rng, *, held_out: bool) -> Iterator[tuple[str, tuple[str, ...]]]:
    """An endless stream of (question, accepted answers) of a kind."""
    topics = [topic for topic in read_topics(identity=False) if not is_about_identity(*topic.answers)]
    while True:
        if kind == "sum":
            question = draw_problem(rng, held_out=held_out)
            yield ask_problem(question, rng), (question.answer,)
        elif kind == "fact":
            fact = rng.pick(read_town().facts)
            yield rng.pick(fact.questions), (fact.answer,)
        else:
            topic = rng.pick(topics)
            yield rng.pick(topic.questions), topic.answers


def _without_repeats(drawn: Iterator[tuple[str, tuple[str, ...]]], questions: set[str]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Those whose question was not questions before and that are not about the toy model's identity."""
    for query, answers in drawn:
        if query not in questions and not is_about_identity(query, *answers):
            questions.add(query)
            yield query, answers
