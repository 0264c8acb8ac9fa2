import json
from collections import Counter
from pathlib import Path

import pytest

from imprint.data.dataset import load_samples
from imprint.data.held_out import HeldOutRecord, rows_of
from imprint.data.learned_rows import LearnedRows
from imprint.data.recorded_rows import draws_rows, find_recorded, find_unchanged
from imprint.data.section import DataSection


@pytest.mark.parametrize(
    ("name", "knobs", "drawn"), [("rows.jsonl", {}, False), ("rows.jsonl#3", {}, True), ("rows.jsonl", {"train_rows": 3}, True)]
)
def test_a_section_draws_rows_by_their_number(tmp_path: Path, name: str, knobs: dict[str, int], drawn: bool) -> None:  # noqa: FBT001
    assert draws_rows(DataSection(train=tmp_path / name, train_rows=knobs.get("train_rows"))) is drawn


def test_conversations_are_found_with_all_their_answers_and_equal_ones_as_often_as_recorded(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"

    def write(numbers: list[int]) -> None:
        rows = [
            {"messages": [{"role": role, "content": f"{turn}{number}"} for turn in "ab" for role in ("user", "assistant")]}
            for number in numbers
        ]
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    write([0, 1, 2, 3, 4, 4])
    section = DataSection(train=file, train_rows=6, dev_share=0.34)
    learned, held_out = load_samples(section)
    records = LearnedRows.of(learned), HeldOutRecord.of(6, held_out)
    write([7, 8, 9, 4, 3, 2, 1, 0, 4, 4])
    found = find_recorded(section, *records, tools=False)
    assert sorted((row.query, row.answer) for row in found.learned) == sorted((row.query, row.answer) for row in learned)
    assert [row.query for row in found.held_out] == [row.query for row in held_out]
    assert found.others == 2 * 4
    assert (len(rows_of(found.learned)), len(rows_of(found.held_out))) == (4, 2)
    without = find_recorded(section, records[0], None, tools=False)
    assert (len(without.learned), without.held_out) == (len(learned), [])


def test_a_row_is_searched_without_counting_the_rows_still_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps({"content": f"q{number}", "summary": "a"}) + "\n" for number in range(50)), encoding="utf-8")
    section = DataSection(train=file, dev_share=0.5)
    learned, held_out = load_samples(section)
    totals = list[int]()
    total = Counter.total

    def counted(counter: Counter[str]) -> int:
        totals.append(total(counter))
        return totals[-1]

    monkeypatch.setattr(Counter, "total", counted)
    found = find_recorded(section, LearnedRows.of(learned), HeldOutRecord.of(50, held_out), tools=False)
    assert (found.learned, found.held_out, found.others) == (learned, held_out, 0)
    assert len(totals) <= 1


def test_an_unchanged_file_gives_what_was_learned_and_a_changed_or_bad_row_gives_none(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    rows = [json.dumps({"content": f"q{number}", "summary": "a"}) + "\n" for number in range(20)]
    file.write_text("".join(rows), encoding="utf-8")
    section = DataSection(train=file, dev_share=0.2)
    learned, held_out = load_samples(section)
    records = LearnedRows.of(learned), HeldOutRecord.of(20, held_out)
    assert find_unchanged(section, *records, tools=False) == learned
    assert find_unchanged(section, records[0], None, tools=False) == learned
    place = rows.index(json.dumps({"content": learned[3].query, "summary": "a"}) + "\n")
    for changed in ("".join(rows[:-3]), "".join(rows) + rows[0], "".join([*rows[:place], "{}\n", *rows[place + 1 :]])):
        file.write_text(changed, encoding="utf-8")
        assert find_unchanged(section, *records, tools=False) is None
