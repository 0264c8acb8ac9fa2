from dataclasses import replace
from pathlib import Path
from zlib import crc32

from imprint.data.learned_rows import LearnedRows
from imprint.data.sample import Sample
from imprint.files.reading import MAX_LINES_BYTES
from imprint.templates import Message


def rows(*numbers: int) -> list[Sample]:
    return [Sample(f"问{number}", f"答{number}", None, f"rows.jsonl:{place}") for place, number in enumerate(numbers, start=1)]


def test_the_rows_that_were_learned_are_found_wherever_they_stand() -> None:
    record = LearnedRows.of(rows(1, 2, 3))
    assert len(record) == 3
    now = rows(7, 3, 8, 1, 9)
    assert record.select(now) == [now[1], now[3]]
    assert record.select(rows(1, 1, 2, 2)) == [row for row in rows(1, 1, 2, 2) if row.location in ("rows.jsonl:1", "rows.jsonl:3")]


def test_of_samples_with_one_digest_each_may_have_been_learned() -> None:
    one, other = (Sample("问", text, None, f"rows.jsonl:{line}") for line, text in enumerate(("plumless", "buckeroo"), start=1))
    same = crc32(b"plumless"), crc32(b"buckeroo")
    assert same[0] == same[1]
    record = LearnedRows.of([other])
    assert record == LearnedRows.of([one])
    assert record.select([one, one, other]) == [one, other]
    assert record.missing([one, other]) == 0
    assert (record.missing([]), LearnedRows.of([other, other]).missing([other])) == (1, 0), "a copy is still there"


def test_another_answer_another_turn_before_and_another_system_prompt_are_other_rows() -> None:
    row = Sample("问", "答", (("先问", "先答"),), "rows.jsonl:1", "你是助手")
    record = LearnedRows.of([row])
    others = [
        replace(row, answer="另答"),
        replace(row, history=(("先问", "又答"),)),
        replace(row, history=None),
        replace(row, system=None),
        replace(row, tool="天气"),
        replace(row, query="问答", answer=""),
        replace(row, further_messages=(Message("assistant", "1", "天气", continues=True),)),
    ]
    assert record.select(others) == []
    moved = replace(row, location="rows.jsonl:9")
    assert record.select([moved]) == [moved]


def test_a_record_is_read_as_it_was_written_and_a_damaged_or_endless_one_is_none(tmp_path: Path) -> None:
    file = tmp_path / "learned-rows.bin"
    assert LearnedRows.read(file) is None
    record = LearnedRows.of(rows(1, 2))
    record.write(file)
    assert LearnedRows.read(file) == record
    whole = file.read_bytes()
    for damaged in (b"", whole[:-1], whole[4:], whole[:4] + bytes([whole[4] ^ 1]) + whole[5:]):
        file.write_bytes(damaged)
        assert LearnedRows.read(file) is None
    with file.open("r+b") as opened:
        opened.truncate(MAX_LINES_BYTES + 1)
    assert LearnedRows.read(file) is None
