import json
from pathlib import Path

import pytest

from imprint.data.formats import read_samples
from imprint.data.placeholders import placeholders
from imprint.demo.identity import FILES, write_identity


@pytest.fixture
def rows(tmp_path: Path) -> dict[str, list[dict[str, str]]]:
    write_identity(tmp_path)
    return {name: [json.loads(line) for line in (tmp_path / name).read_text(encoding="utf-8").splitlines()] for name in FILES}


def test_twenty_rows_teach_and_no_paraphrase_is_among_them(rows: dict[str, list[dict[str, str]]]) -> None:
    learned, held_out = ([row["question"] for row in rows[name]] for name in FILES)
    assert len(learned) == len(set(learned)) == 20
    assert len(held_out) == len(set(held_out)) == 40
    assert not set(learned) & set(held_out)


def test_each_answer_gives_the_name_or_the_author_so_that_neither_is_right_by_chance(tmp_path: Path) -> None:
    write_identity(tmp_path)
    for file in FILES:
        asked = [placeholders(sample) for sample in read_samples(tmp_path / file, prompt_column="content", response_column="summary")]
        assert sorted(map(sorted, asked)) == [["author"]] * (len(asked) // 2) + [["name"]] * (len(asked) // 2)


def test_both_languages_ask_for_both(rows: dict[str, list[dict[str, str]]]) -> None:
    for found in rows.values():
        english = [row for row in found if row["question"].isascii()]
        assert 0.3 < len(english) / len(found) < 0.5
        assert {"{name}" in row["answer"] for row in english} == {True, False}
