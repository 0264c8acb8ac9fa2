import json
import random
import subprocess
import sys
from pathlib import Path

import openpyxl
import pytest

from imprint.data.readers.bad_rows import BadRowError
from imprint.data.readers.rows import describe_source, read_rows, source_bytes
from imprint.data.readers.samples import iterate_samples
from imprint.data.sample import Sample
from imprint.data.shapes import Columns
from imprint.data.writers import write_samples
from imprint.messages import UserError

SAMPLES = [Sample(f"问题{i}", "答案，好" * (i % 7 + 1), (("x", "y\n"),) if i % 3 else None, "", "s" if i % 2 else None) for i in range(40)]
MEASURED = """
import resource, sys
from imprint.data.readers.rows import read_rows
def peak_mib(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
list(read_rows(sys.argv[1]))
before = peak_mib()
print(sum(1 for _ in read_rows(sys.argv[2])), peak_mib() - before)
"""


def write(file: Path, count: int) -> Path:
    file.write_text("".join(json.dumps({"content": f"类型#{number}", "summary": "好"}) + "\n" for number in range(count)))
    return file


def test_rows_come_with_their_places_and_bad_ones_as_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n\noops\n[1]\n')

    (one, good), (two, bad), (three, worse) = read_rows(tmp_path / "a.jsonl")

    assert (one, good) == (f"{tmp_path}/a.jsonl:1", {"a": 1})
    assert (two, three) == (f"{tmp_path}/a.jsonl:3", f"{tmp_path}/a.jsonl:4")
    assert isinstance(bad, BadRowError)
    assert str(worse) == "must be a JSON object with columns, got a list ([1])."


def test_a_folder_is_read_file_by_file(tmp_path: Path) -> None:
    write(tmp_path / "b.jsonl", 1)
    (tmp_path / "a.csv").write_text("q,a\n1,2\n")
    (tmp_path / "README.md").write_text("# rows\n")

    assert [place for place, _row in read_rows(tmp_path)] == [f"{tmp_path}/a.csv:2", f"{tmp_path}/b.jsonl:1"]
    assert source_bytes(tmp_path) == sum((tmp_path / name).stat().st_size for name in ("a.csv", "b.jsonl"))


def test_a_drawn_sample_is_always_the_same_in_the_order_of_the_file_and_fair(tmp_path: Path) -> None:
    file = write(tmp_path / "rows.jsonl", 1000)

    drawn = [place for place, _row in read_rows(f"{file}#100")]
    lines = [int(place.rpartition(":")[2]) for place in drawn]

    assert drawn == [place for place, _row in read_rows(f"{file}#100")]
    assert len(set(lines)) == 100
    assert lines == sorted(lines)
    assert 400 < sum(lines) / 100 < 600
    assert lines != list(range(1, 101))


def test_a_sample_larger_than_the_file_is_the_file(tmp_path: Path) -> None:
    file = write(tmp_path / "rows.jsonl", 3)

    assert list(read_rows(f"{file}#500")) == list(read_rows(file))


def test_no_more_is_read_than_is_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"a": 1}\n' * 500_000)
    report_bytes: list[int] = []

    rows = read_rows(file, report_bytes=report_bytes.append)

    assert next(rows)[0] == f"{file}:1"
    assert sum(report_bytes) <= 2**20 < file.stat().st_size


def test_bytes_are_reported_as_they_are_read_up_to_the_last(tmp_path: Path) -> None:
    for name in ("a.jsonl", "a.json", "a.csv", "a.parquet"):
        write_samples(tmp_path / name, SAMPLES)
        report_bytes: list[int] = []
        assert len(list(read_rows(tmp_path / name, report_bytes=report_bytes.append))) == len(SAMPLES)
        assert (name, sum(report_bytes)) == (name, source_bytes(tmp_path / name) - (3 if name == "a.csv" else 0))


def test_a_file_is_described_by_its_form_and_how_its_columns_are_read(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_bytes('[{"prompt": "问", "response": "答", "history": [], "id": 1, "system": ""}]'.encode("utf-16"))

    assert describe_source(file).english == (
        f'{file}: a JSON array in UTF-16 (little-endian); "prompt" is the question, "response" the answer, '
        '"history" and "system" are read too; not read: "id".'
    )
    assert describe_source(f"{file}#3", Columns("id", "prompt")).english == (
        f'{file}: a JSON array in UTF-16 (little-endian); "id" is the question, "prompt" the answer; '
        'not read: "response", "history", "system"; 3 rows of it are sampled at random.'
    )


def test_a_file_and_a_folder_are_described_in_chinese_too(tmp_path: Path) -> None:
    row = {"prompt": "问", "response": "答", "history": [], "id": 1, "system": ""}
    (tmp_path / "a.json").write_bytes(json.dumps([row]).encode("utf-16"))
    one = 'JSON 数组，UTF-16 (little-endian) 编码；"prompt" 是提问，"response" 是回答，也读取 "history"、"system"；未读取："id"'
    assert describe_source(tmp_path / "a.json").chinese == f"{one}。"
    assert describe_source(f"{tmp_path}/a.json#3").chinese == f"{one}；从中随机抽取 3 行。"
    write_samples(tmp_path / "b.xlsx", SAMPLES[:1], history=False, system=False)
    (tmp_path / "c.csv").write_text("提的;答的\n一;二\n", encoding="utf-8")
    (tmp_path / "README.md").write_text("# rows\n")
    assert describe_source(tmp_path).chinese == (
        f'3 个文件：a.json：{one}；b.xlsx：Excel 工作簿（工作表 "rows"）；"prompt" 是提问，"response" 是回答；'
        'c.csv：CSV（以分号分隔），UTF-8 编码；现有列："提的"、"答的"，其中没有 "content" 和 "summary"；不是数据，未读取：README.md。'
    )


def test_columns_that_are_not_there_are_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_bytes("提的,答的\n一,二\n".encode("gb18030"))

    assert describe_source(file).english == (
        f'{file}: CSV in GB18030; the columns are "提的", "答的": there is no "content" and no "summary" among them.'
    )


def test_a_folder_is_described_with_what_is_not_read(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", 1)
    write(tmp_path / "b.jsonl", 1)
    (tmp_path / "README.md").write_text("# rows\n")
    alike = '2 files: a.jsonl, b.jsonl: JSON lines in UTF-8; "content" is the question, "summary" the answer'

    assert describe_source(tmp_path).english == f"{tmp_path}: {alike}; no data, not read: README.md."
    (tmp_path / "b.jsonl").write_text("")
    assert describe_source(tmp_path).english == (
        f'{tmp_path}: 2 files: a.jsonl: JSON lines in UTF-8; "content" is the question, "summary" the answer; '
        "b.jsonl: JSON lines in UTF-8, without a row; no data, not read: README.md."
    )


def test_a_workbook_is_described_with_its_sheets(tmp_path: Path) -> None:
    write_samples(tmp_path / "a.xlsx", SAMPLES[:1], history=False, system=False)

    assert describe_source(tmp_path / "a.xlsx").english == (
        f'{tmp_path}/a.xlsx: an Excel workbook (sheet "rows"); "prompt" is the question, "response" the answer.'
    )


def test_a_file_that_vanishes_while_it_is_read_is_reported(tmp_path: Path) -> None:
    for name in ("a.jsonl", "b.jsonl"):
        write(tmp_path / name, 1)
    rows = read_rows(tmp_path)
    next(rows)
    (tmp_path / "b.jsonl").unlink()

    with pytest.raises(UserError, match=r"b\.jsonl: there is no such file"):
        next(rows)


def damaged(content: bytes, chance: random.Random) -> bytes:
    """A file as disks, editors and broken downloads leave it."""
    place, other, size = chance.randrange(len(content)), chance.randrange(len(content)), chance.choice([1, 3, 200])
    strange = chance.choice(
        [b'"', b"\r", b"\n", b"\0", b"\xef\xbb\xbf", b"\xff", b"[", b"{", b"}", b",", b"\\ud800", b"\xed\xa0\x80", b"\t"]
    )
    return chance.choice(
        [
            content[:place],
            content[:place] + chance.randbytes(size) + content[place + size :],
            content[:place] + bytes(size) + content[place + size :],
            content[:place] + strange * size + content[place:],
            content[:place] + content[place + size :],
            content[:place] + content[other : other + size] + content[place + size :],
            content * 2,
            content[:8] + chance.randbytes(size),
            chance.randbytes(size),
        ]
    )


@pytest.mark.parametrize("cases", [150, pytest.param(2000, marks=pytest.mark.long)])
def test_no_damage_to_a_file_of_any_format_ends_in_anything_but_rows_and_sentences(tmp_path: Path, cases: int) -> None:
    chance = random.Random(cases)
    whole = {}
    for ending in ("jsonl", "json", "csv", "tsv", "xlsx", "parquet"):
        write_samples(tmp_path / f"a.{ending}", SAMPLES)
        whole[ending] = (tmp_path / f"a.{ending}").read_bytes()
    for ending, codec in (("csv", "gb18030"), ("jsonl", "utf-16"), ("tsv", "utf-16-le"), ("json", "utf-16-be")):
        whole[f"{codec}.{ending}"] = whole[ending].decode("utf-8-sig").encode(codec)
    refused = 0
    for _ in range(cases):
        ending = chance.choice(list(whole))
        file = tmp_path / chance.choice([f"f.{ending}", "f", "f.json", "f.csv", "f.xlsx"])
        file.write_bytes(damaged(whole[ending], chance))
        try:
            for _location, made in iterate_samples(file, Columns()):
                texts = [str(made)] if isinstance(made, BadRowError) else [one.query + one.answer for one in made]
                assert all(text.encode() for text in texts)
            describe_source(file)
        except UserError as error:
            refused += str(error).startswith(str(file))
        file.unlink()
    assert refused > cases // 10


@pytest.mark.long
def test_a_million_rows_take_no_more_memory_than_a_thousand(tmp_path: Path) -> None:
    few, many = write(tmp_path / "few.jsonl", 50_000), write(tmp_path / "many.jsonl", 1_000_000)

    out = subprocess.run([sys.executable, "-c", MEASURED, few, many], capture_output=True, text=True, check=True).stdout.split()

    assert int(out[0]) == 1_000_000
    assert float(out[1]) < 10


def test_columns_that_only_later_rows_have_are_described_too(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"query": "a", "response": "b"}\n{"query": "a", "response": "b", "input": "c", "system": "d"}\n')

    assert describe_source(file).english == (
        f'{file}: JSON lines in UTF-8; "query" is the question, "response" the answer, "system" is read too; not read: "input".'
    )


def test_keys_of_turns_that_are_not_read_are_named(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "a", "images": ["b.png"]}, {"role": "assistant", "content": "c", "mask": 1, "refusal": None}]
    (tmp_path / "rows.json").write_text(json.dumps([{"messages": turns}]))

    assert describe_source(tmp_path / "rows.json").english.endswith('each answer is learned; not read in turns: "images", "mask".')


def test_a_workbook_is_described_by_its_first_sheet(tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    book.worksheets[0].append(["问题", "答案"])
    book.worksheets[0].append(["a", "b"])
    book.create_sheet("more").append(["prompt", "response"])
    book["more"].append(["c", "d"])
    book.save(tmp_path / "a.xlsx")

    assert "not read" not in describe_source(tmp_path / "a.xlsx").english


def test_a_column_that_only_a_late_row_has_is_named(tmp_path: Path) -> None:
    file = write(tmp_path / "rows.jsonl", 3000)
    with file.open("a") as added:
        added.write('{"content": "a", "summary": "b", "late": 1}\n')
    assert 'not read: "late"' in describe_source(file).english


def test_a_file_with_new_columns_in_every_row_is_described_in_bounded_time(tmp_path: Path) -> None:
    row = {"content": "a", "summary": "b"}
    (tmp_path / "rows.jsonl").write_text(
        "".join(json.dumps(row | {f"c{number}-{column}": 0 for column in range(300)}) + "\n" for number in range(9))
    )
    assert 'not read: "c0-0", "c0-1", "c0-2", "c0-3", "c0-4" and 1195 more' in describe_source(tmp_path / "rows.jsonl").english
