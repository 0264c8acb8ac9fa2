import json
from pathlib import Path

import pytest

from imprint.data.dataset import load_samples
from imprint.data.held_out import HeldOutRecord, rows_of
from imprint.data.sample import Sample
from imprint.data.section import DataSection
from imprint.messages import UserError
from imprint.runs import RunFolder


def write_rows(path: Path, numbers: list[int]) -> DataSection:
    """A file of conversations with two answers each, of which a fifth is held out."""
    rows = [{"prompt": f"问{number}", "response": f"答{number}", "history": [[f"先问{number}", f"先答{number}"]]} for number in numbers]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return DataSection(train=path, prompt_column="prompt", response_column="response", history_column="history", dev_share=0.2)


def queries(samples: list[Sample]) -> set[str]:
    return {sample.query for sample in samples}


def test_the_rows_that_a_run_held_out_are_found_wherever_they_stand(tmp_path: Path) -> None:
    learned, held_out = load_samples(write_rows(tmp_path / "rows.jsonl", list(range(20))))
    record = HeldOutRecord.of(20, held_out)
    assert (record.rows, record.count) == (20, len(rows_of(held_out)))
    longer = write_rows(tmp_path / "rows.jsonl", [*range(100, 150), *range(20), *range(200, 250)])
    assert queries(load_samples(longer)[1]) & queries(learned), "without the record, learned rows are drawn"
    more, found = load_samples(longer, record=record)
    assert queries(found) == queries(held_out)
    assert queries(learned) < queries(more)
    assert not queries(more) & queries(held_out)


def test_an_unchanged_file_gives_the_drawn_rows_even_if_rows_are_equal(tmp_path: Path) -> None:
    section = write_rows(tmp_path / "rows.jsonl", [number % 3 for number in range(30)])
    drawn = load_samples(section)
    assert load_samples(section, record=HeldOutRecord.of(30, drawn[1])) == drawn


def test_rows_that_are_gone_or_changed_are_not_found(tmp_path: Path) -> None:
    held_out = load_samples(write_rows(tmp_path / "rows.jsonl", list(range(20))))[1]
    record = HeldOutRecord.of(20, held_out)
    without = [number for number in range(20) if f"问{number}" != held_out[-1].query]
    assert len(rows_of(load_samples(write_rows(tmp_path / "rows.jsonl", without), record=record)[1])) == record.count - 1
    assert load_samples(write_rows(tmp_path / "rows.jsonl", [300]), record=record)[1] == []
    assert load_samples(write_rows(tmp_path / "rows.jsonl", [300, 301]), record=record)[1] == []


def test_a_record_is_read_as_it_was_written_and_a_damaged_one_is_refused(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    assert HeldOutRecord.read(run.held_out) is None
    record = HeldOutRecord.of(3, [Sample("问", "答", None, "rows.jsonl:1")])
    record.write(run.held_out)
    assert HeldOutRecord.read(run.held_out) == record
    run.held_out.write_text('{"rows": "many"}', encoding="utf-8")
    with pytest.raises(UserError, match=r"held-out.json: is not what Imprint wrote .* Give rows with --data, or delete the file"):
        HeldOutRecord.read(run.held_out)
