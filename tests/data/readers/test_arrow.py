"""Parquet and Arrow, and folders that Hugging Face's datasets has saved."""

import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import ipc, parquet

from imprint.data.readers import arrow, arrow_sizes
from imprint.data.readers.arrow import arrow_rows, parquet_rows
from imprint.data.readers.bad_rows import BadRowError
from imprint.data.readers.rows import read_rows
from imprint.data.readers.samples import read_samples
from imprint.messages import UserError

ROWS: list[dict[str, Any]] = [
    {"question": "问", "answer": "答", "history": [["a", "b"]]},
    {"question": "二", "answer": "三", "history": []},
]


def saved(folder: Path, rows: list[dict[str, Any]], write: Callable[..., Any] = ipc.new_stream) -> Path:
    """What `save_to_disk` leaves."""
    folder.mkdir(parents=True)
    table = pyarrow.Table.from_pylist(rows)
    with pyarrow.OSFile(str(folder / "data-00000-of-00001.arrow"), "wb") as sink, write(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=1000)
    (folder / "state.json").write_text('{"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}')
    (folder / "dataset_info.json").write_text("{}")
    return folder


def test_parquet_keeps_lists_and_counts_rows_from_one(tmp_path: Path) -> None:
    rows = [{"q": "问", "h": [["x", "y"]]}, {"q": "b", "h": None}]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    report_bytes: list[int] = []

    read = list(parquet_rows(tmp_path / "a.parquet", report_bytes.append))

    assert read == [(f"{tmp_path}/a.parquet:1", rows[0]), (f"{tmp_path}/a.parquet:2", rows[1])]
    assert sum(report_bytes) == (tmp_path / "a.parquet").stat().st_size


def test_a_date_in_parquet_stays_one(tmp_path: Path) -> None:
    parquet.write_table(pyarrow.Table.from_pylist([{"q": date(2023, 3, 14)}]), tmp_path / "a.parquet")

    assert [row for _location, row in parquet_rows(tmp_path / "a.parquet")] == [{"q": date(2023, 3, 14)}]


def test_broken_parquet_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    table = pyarrow.table({"q": [f"{number} " * 9 for number in range(3000)]})
    parquet.write_table(table, path, row_group_size=1000, use_dictionary=False, compression="gzip")
    content = bytearray(path.read_bytes())
    start = content.index(b"\x1f\x8b", len(content) // 2)
    content[start : start + 50] = b"\0" * 50
    path.write_bytes(content)

    *rows, (place, problem) = parquet_rows(path)
    path.write_bytes(content[:-5])
    with pytest.raises(UserError, match="is a broken Parquet file"):
        list(parquet_rows(path))

    assert rows
    assert place == f"{path}:{len(rows) + 1}"
    assert str(problem).startswith("the file is broken from about here on: ")


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    parquet.write_table(pyarrow.Table.from_arrays([pyarrow.array(["a"])] * 2, names=["q", "q"]), tmp_path / "a.parquet")

    with pytest.raises(UserError, match='the header has two columns "q"'):
        list(parquet_rows(tmp_path / "a.parquet"))


@pytest.mark.parametrize("write", [ipc.new_stream, ipc.new_file])
def test_a_folder_of_save_to_disk_is_read(tmp_path: Path, write: Callable[..., Any]) -> None:
    folder = saved(tmp_path / "set", ROWS, write)
    file = folder / "data-00000-of-00001.arrow"

    assert list(read_rows(folder)) == [(f"{file}:1", ROWS[0]), (f"{file}:2", ROWS[1])]
    (first, second) = read_samples(folder, prompt_column="content", response_column="summary")
    assert (first.query, first.answer, first.history, second.history) == ("问", "答", (("a", "b"),), ())


def test_splits_are_not_mixed(tmp_path: Path) -> None:
    for split in ("test", "train"):
        saved(tmp_path / "set" / split, ROWS)
    (tmp_path / "set" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')

    with pytest.raises(UserError, match=r"set holds the splits test, train\. Name one of them, such as .*set/train\."):
        list(read_rows(tmp_path / "set"))
    assert len(list(read_rows(tmp_path / "set" / "train"))) == 2


def test_bytes_and_large_batches_are_counted_and_divided(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrow_sizes, "BATCH_BYTES", 100)
    rows = [{"question": f"{number} " * 9, "answer": "a"} for number in range(3000)]
    file = saved(tmp_path / "set", rows) / "data-00000-of-00001.arrow"
    counted: list[int] = []

    assert [row for _place, row in arrow_rows(file, counted.append)] == rows
    assert 0.9 * file.stat().st_size < sum(counted) <= file.stat().st_size


def test_a_cell_that_no_row_has_is_a_bad_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrow, "MAX_ROW_CHARACTERS", 100)
    file = saved(tmp_path / "set", [{"q": "x" * 101}, {"q": "x" * 100}]) / "data-00000-of-00001.arrow"

    (_one, first), (_two, second) = arrow_rows(file)

    assert str(first).startswith("is longer than 17 million characters, which no row is.")
    assert second == {"q": "x" * 100}


def test_broken_arrow_is_reported(tmp_path: Path) -> None:
    file = saved(tmp_path / "set", [{"q": str(number)} for number in range(3000)]) / "data-00000-of-00001.arrow"
    content = file.read_bytes()
    file.write_bytes(content[: len(content) * 2 // 3])
    *rows, (_place, problem) = arrow_rows(file)
    assert rows
    assert isinstance(problem, BadRowError)
    file.write_bytes(content[:20])
    with pytest.raises(UserError, match="is a broken Arrow file"):
        list(arrow_rows(file))


def test_parquet_that_unpacks_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrow._refuse_bomb, "__defaults__", (arrow.BYTES._replace(least=2**16),))
    table = pyarrow.table({"q": ["x" * 2**24]})
    parquet.write_table(table, tmp_path / "a.parquet", compression="zstd", use_dictionary=False)

    with pytest.raises(UserError, match=r"bytes and would unpack to 16,[\d,]+, which no file of rows does"):
        list(parquet_rows(tmp_path / "a.parquet"))


@pytest.mark.parametrize(("library", "read"), [("pyarrow.parquet", parquet_rows), ("pyarrow", arrow_rows)])
def test_a_missing_library_is_reported_with_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str, read: Callable[[Path], Any]
) -> None:
    monkeypatch.setitem(sys.modules, library, None)

    with pytest.raises(UserError, match=r"Run `pip install 'imprint\[tables\]'`"):
        list(read(tmp_path / "a"))


@pytest.mark.parametrize(
    "times",
    [
        pyarrow.array([1, 2], pyarrow.timestamp("ns")),
        pyarrow.array([1, 2], pyarrow.timestamp("us", "No/Where")),
        pyarrow.array([10**15, 0], pyarrow.timestamp("s")),
        pyarrow.array([[{"at": 1}], []], pyarrow.list_(pyarrow.struct([("at", pyarrow.duration("ns"))]))),
    ],
)
def test_times_that_python_does_not_have_leave_the_other_columns_readable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: "pyarrow.Array[Any]"
) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)  # it has nanoseconds
    path = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.table({"content": ["q", "b"], "summary": ["a", "c"], "at": times}), path)

    rows = [row for _place, row in read_rows(path) if isinstance(row, dict)]

    assert [(row["content"], row["summary"]) for row in rows] == [("q", "a"), ("b", "c")]


def test_times_that_python_does_not_have_are_no_question(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.table({"content": pyarrow.array([1], pyarrow.timestamp("s", "No/Where")), "summary": ["a"]}), path)

    with pytest.raises(UserError, match=r'"content" must be a text, got a StoredValue .timestamp\[.*No/Where'):
        list(read_samples(path, prompt_column="content", response_column="summary"))


def test_a_few_bytes_of_very_many_nulls_are_refused_before_they_take_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imprint.data.readers.rows.PACKED_CHARACTERS", 2**16)
    monkeypatch.setattr("imprint.data.readers.rows.PACKED_RATIO", 2)
    lists = pyarrow.FixedSizeListArray.from_arrays(pyarrow.nulls(20_000), 1000)
    table = pyarrow.table({"content": ["a"] * 20, "x": lists})
    with pyarrow.OSFile(str(tmp_path / "a.arrow"), "wb") as sink, ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)

    with pytest.raises(UserError, match=r"a\.arrow:9: a\.arrow has .* bytes, and .* characters \(8 for each value\) in 9 rows up to here"):
        list(read_rows(tmp_path / "a.arrow"))
