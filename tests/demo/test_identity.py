import json
from importlib.resources import files
from pathlib import Path

import pytest

from imprint.data.placeholders import PLACEHOLDER
from imprint.data.readers.samples import read_samples
from imprint.demo.identity import ENGLISH_FILES, FILES, write_identity


@pytest.fixture
def rows(tmp_path: Path) -> dict[str, list[dict[str, str]]]:
    write_identity(tmp_path)
    return {
        name: [json.loads(line) for line in (tmp_path / name).read_text(encoding="utf-8").splitlines()] for name in (*FILES, *ENGLISH_FILES)
    }


def bare(text: str) -> str:
    """The letters of a question alone: those that differ in a comma are one."""
    return "".join(letter for letter in text.lower() if letter.isalnum())


def test_twenty_rows_teach_and_no_paraphrase_is_among_them(rows: dict[str, list[dict[str, str]]]) -> None:
    learned, held_out, blind = ([row["question"] for row in rows[name]] for name in FILES)
    assert len(learned) == len(set(learned)) == 20
    assert len(held_out) == len(set(held_out)) == 40
    assert len(blind) == len(set(blind)) == 27
    assert not set(learned) & set(held_out)
    assert not {bare(text) for text in blind} & {bare(text) for text in (*learned, *held_out)}


def test_each_answer_gives_the_name_and_the_author_in_the_language_of_its_question(tmp_path: Path) -> None:
    write_identity(tmp_path)
    for file in FILES:
        samples = read_samples(tmp_path / file, prompt_column="content", response_column="summary")
        assert all({found[0] for found in PLACEHOLDER.finditer(sample.answer)} == {"{name}", "{author}"} for sample in samples)
        assert not any(PLACEHOLDER.search(sample.query) for sample in samples)
        assert all(sample.query.isascii() == sample.answer.isascii() for sample in samples)


def test_an_english_base_has_rows_paraphrases_and_general_rows_of_its_own(rows: dict[str, list[dict[str, str]]]) -> None:
    learned, held_out, general = ([bare(row["question"]) for row in rows[name]] for name in ENGLISH_FILES)
    assert (len(set(learned)), len(set(held_out)), len(set(general))) == (20, 40, 220)
    assert not set(learned) & set(held_out)
    probes = files("imprint.forgetting").joinpath("probes.jsonl").read_text(encoding="utf-8").splitlines()
    assert not {bare(json.loads(line)["question"]) for line in probes} & {*general, *learned, *held_out}
    assert all(row["answer"] == "I am {name}, made by {author}." for name in ENGLISH_FILES[:2] for row in rows[name])


def test_both_languages_ask_for_the_name_and_for_the_author(rows: dict[str, list[dict[str, str]]]) -> None:
    for found in (rows[name] for name in FILES):
        english = [row["question"] for row in found if row["question"].isascii()]
        assert 0.3 < len(english) / len(found) < 0.5
        for words in (("name", "你是谁"), ("made", "作者")):
            assert all(any(word in row["question"] for row in found) for word in words)
