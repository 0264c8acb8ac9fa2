import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from imprint.check.convert import convert_command
from imprint.cli import main
from imprint.data.readers.samples import read_samples
from imprint.data.sample import Sample
from imprint.messages import UserError


def read(path: Path | str) -> list[Sample]:
    samples = read_samples(path, prompt_column="content", response_column="summary")
    return [replace(sample, location="") for sample in samples]


@pytest.fixture
def talks(tmp_path: Path) -> Path:
    """Conversations of two turns, in an encoding of Windows."""
    said = [("human", "问一"), ("gpt", "答一"), ("human", "问二"), ("gpt", "答二")]
    turns = [{"from": who, "value": text} for who, text in said]
    path = tmp_path / "in" / "talks.json"
    path.parent.mkdir()
    path.write_bytes(json.dumps([{"conversations": turns}] * 3, ensure_ascii=False).encode("gb18030"))
    return path


@pytest.mark.parametrize("ending", ["jsonl", "json", "csv", "tsv", "xlsx", "parquet"])
def test_any_source_becomes_any_format_with_equal_samples(tmp_path: Path, talks: Path, ending: str) -> None:
    convert_command(str(talks), tmp_path / f"out.{ending}", overrides=[])

    assert read(tmp_path / f"out.{ending}") == read(talks)
    assert len(read(talks)) == 6


def test_the_command_says_what_it_reads_and_what_it_wrote(tmp_path: Path, talks: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "convert", str(talks), str(tmp_path / "out.jsonl")]) == 0

    first, *_bars, last = capsys.readouterr().out.splitlines()
    assert first == f'{talks}: a JSON array in GB18030; "conversations" holds the turns of a conversation, each answer is learned.'
    assert last == f"{tmp_path}/out.jsonl holds 6 rows / 已写入 6 行"


def test_an_output_that_is_a_link_is_written_where_it_leads(tmp_path: Path, talks: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "out.jsonl").symlink_to("disk/rows.jsonl")
    for _time in range(2):
        convert_command(str(talks), tmp_path / "out.jsonl", overrides=[])
        assert (tmp_path / "out.jsonl").is_symlink()
        assert len(read(tmp_path / "disk" / "rows.jsonl")) == 6


def test_columns_can_be_named(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text('ask,say,before\nq,a,"[[""x"", ""y""]]"\n')

    convert_command(
        f"{tmp_path}/in.csv",
        tmp_path / "out.jsonl",
        overrides=["prompt_column=ask", "response_column=say", "history_column=before"],
    )

    assert (tmp_path / "out.jsonl").read_text() == '{"prompt": "q", "response": "a", "history": [["x", "y"]]}\n'


def test_a_folder_and_a_part_of_it_can_be_converted(tmp_path: Path, talks: Path) -> None:
    (talks.parent / "more.tsv").write_text("question\tanswer\nq\ta\n")

    convert_command(str(talks.parent), tmp_path / "all.jsonl", overrides=[])
    convert_command(f"{talks.parent}#2", tmp_path / "two.jsonl", overrides=[])

    assert read(tmp_path / "all.jsonl") == read(talks.parent)
    assert read(tmp_path / "two.jsonl") == read(f"{talks.parent}#2")


def test_bad_rows_are_all_reported_and_what_was_there_stays(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text('{"prompt": "q", "response": "a"}\n{"prompt": "q"}\noops\n')
    (tmp_path / "out.jsonl").write_text("old")

    with pytest.raises(UserError) as error:
        convert_command(f"{tmp_path}/in.jsonl", tmp_path / "out.jsonl", overrides=[])

    head, first, second, *_chinese = str(error.value).splitlines()
    assert head.startswith(f"{tmp_path}/in.jsonl: 2 of 3 rows are bad. Nothing was written. `imprint data check ")
    assert first.startswith(f'{tmp_path}/in.jsonl:2: there is no column "response"')
    assert second.startswith(f"{tmp_path}/in.jsonl:3: is not JSON")
    assert (tmp_path / "out.jsonl").read_text() == "old"
    assert sorted(os.listdir(tmp_path)) == ["in.jsonl", "out.jsonl"]


def test_a_source_is_never_written_over(tmp_path: Path, talks: Path) -> None:
    for source, output, sentence in (
        (talks, talks, "is the file that is read. Give another name."),
        (talks.parent, talks.parent / "deep" / "out.jsonl", "is in the folder that is read"),
        (talks, tmp_path / "out.txt", 'rows cannot be written as ".txt"'),
    ):
        with pytest.raises(UserError, match=sentence):
            convert_command(str(source), output, overrides=[])
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(UserError, match=r"is a folder\. Give the name of a file"):
        convert_command(str(talks), tmp_path / "folder.csv", overrides=[])

    assert len(read(talks)) == 6


def test_an_empty_source_is_reported(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text("\n")

    with pytest.raises(UserError, match="holds no rows, so there is nothing to write"):
        convert_command(f"{tmp_path}/in.jsonl", tmp_path / "out.jsonl", overrides=[])


def test_real_rows_stay_equal_through_every_format(tmp_path: Path, shared: Path) -> None:
    source = shared / "data" / "instruct" / "oasst_zh.json"
    wanted = read(source)
    for ending in ("csv", "xlsx", "parquet"):
        convert_command(str(source), tmp_path / f"out.{ending}", overrides=[])
        assert read(tmp_path / f"out.{ending}") == wanted
