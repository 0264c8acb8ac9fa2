import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from imprint.data.readers.samples import read_samples
from imprint.data.sample import Sample
from imprint.data.writers import WRITERS, sample_to_row, write_samples
from imprint.messages import UserError

SAMPLES = [
    Sample("q", "a", None, "f:1"),
    Sample("=1+1", "\ta\r\nb\rc\n", (), "f:2"),
    Sample(' "q", ', "_x000D_ \x01é😀\u2028\x85;,\t", (("x", "y\n"), ("", "")), "f:3", "sys\r"),
    Sample("\ufeffq", "a\n\n\nb\ufeff", None, "f:4", "[1,2]"),
    Sample("{'a'}", "[1]", None, "f:5"),
    Sample("007", "TRUE", None, "f:6"),
]


def read(path: Path) -> list[Sample]:
    return [replace(sample, location="") for sample in read_samples(path, prompt_column="content", response_column="summary")]


@pytest.mark.parametrize("ending", WRITERS)
def test_what_was_written_is_read_back_as_equal_samples(tmp_path: Path, ending: str) -> None:
    write_samples(tmp_path / f"rows{ending}", SAMPLES)

    assert read(tmp_path / f"rows{ending}") == [replace(sample, location="") for sample in SAMPLES]
    assert os.listdir(tmp_path) == [f"rows{ending}"]


@pytest.mark.parametrize("ending", WRITERS)
def test_texts_of_control_characters_are_read_back_too(tmp_path: Path, ending: str) -> None:
    samples = [Sample("\x01\x02\x1b" * 50, "\x7f\x03" * 50, None, "")]
    write_samples(tmp_path / f"rows{ending}", samples, history=False, system=False)

    assert read(tmp_path / f"rows{ending}") == samples


@pytest.mark.parametrize("ending", WRITERS)
def test_a_table_has_only_the_columns_that_are_needed(tmp_path: Path, ending: str) -> None:
    write_samples(tmp_path / f"rows{ending}", SAMPLES[:1], history=False, system=False)

    assert read(tmp_path / f"rows{ending}") == [Sample("q", "a", None, "")]


def test_a_row_has_history_and_system_only_where_it_has_them() -> None:
    assert sample_to_row(SAMPLES[0]) == {"prompt": "q", "response": "a"}
    assert sample_to_row(SAMPLES[1])["history"] == []
    assert sample_to_row(SAMPLES[2])["system"] == "sys\r"


def test_a_table_for_excel_says_its_encoding(tmp_path: Path) -> None:
    write_samples(tmp_path / "rows.csv", [Sample("问", "答", None, "f:1")], history=False, system=False)

    assert (tmp_path / "rows.csv").read_bytes() == "\ufeffprompt,response\r\n问,答\r\n".encode()


def test_another_ending_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        write_samples(tmp_path / "rows.doc", SAMPLES)

    assert str(error.value).splitlines()[0] == (
        f'{tmp_path}/rows.doc: rows cannot be written as ".doc". '
        "The name must end in one of .jsonl, .ndjson, .json, .csv, .tsv, .xlsx, .parquet."
    )


def test_what_a_format_cannot_hold_is_reported_and_the_old_file_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "rows.xlsx"
    path.write_text("old")
    for answer, sentence in (
        ("a" * 32_768, "has 32768 characters, but a cell of Excel holds 32767"),
        ("\ufffe", "holds U\\+FFFE, which Excel"),
    ):
        with pytest.raises(UserError, match=f'f:9: "response" {sentence}'):
            write_samples(path, [Sample("q", answer, None, "f:9")])
    monkeypatch.setattr("imprint.data.writers.EXCEL_ROWS", 3)
    with pytest.raises(UserError, match="a sheet of Excel holds 2 rows, and there are more"):
        write_samples(path, SAMPLES)

    assert (path.read_text(), os.listdir(tmp_path)) == ("old", ["rows.xlsx"])


@pytest.mark.parametrize(("library", "name"), [("openpyxl", "a.xlsx"), ("pyarrow", "a.parquet")])
def test_a_missing_library_is_reported_with_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str, name: str
) -> None:
    monkeypatch.setitem(sys.modules, library, None)

    with pytest.raises(UserError, match=r"Run `pip install 'imprint\[tables\]'`"):
        write_samples(tmp_path / name, SAMPLES)


def test_a_workbook_has_its_temporary_file_where_a_later_start_removes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    seen: list[str] = []

    def samples() -> Iterator[Sample]:
        yield Sample("问", "答", None, "a:1")
        seen.extend(entry.name for entry in temporary.iterdir())

    write_samples(tmp_path / "out.xlsx", samples())
    assert seen
    assert all(name.startswith("imprint-") for name in seen)
    assert not list(temporary.iterdir())
