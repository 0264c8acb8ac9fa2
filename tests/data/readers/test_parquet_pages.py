"""What the pages of a Parquet file unpack to is told by themselves."""

import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from imprint.data.readers import parquet_pages
from imprint.data.readers.arrow import parquet_rows
from imprint.data.readers.arrow_sizes import small_batches
from imprint.data.readers.parquet_pages import Pages, read_pages
from imprint.data.readers.rows import read_rows
from imprint.messages import UserError

COLUMN = ("path_in_schema", "data_page_offset", "dictionary_page_offset", "total_compressed_size", "compression", "physical_type")


def pages_of(file: Path) -> tuple[Pages, int]:
    """What is read of the pages, and the bytes that the footer claims."""
    metadata = parquet.ParquetFile(file).metadata
    groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
    columns = [group.column(index) for group in groups for index in range(group.num_columns)]
    return read_pages(file, columns), sum(column.total_uncompressed_size for column in columns)


def repeated(file: Path, text: str, rows: int, **how: Any) -> Path:
    column = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * rows, pyarrow.int32()), [text])
    parquet.write_table(pyarrow.table({"content": column}), file, compression="zstd", dictionary_pagesize_limit=2**30, **how)
    return file


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("how", [{}, {"use_dictionary": False}, {"use_dictionary": False, "column_encoding": "DELTA_BYTE_ARRAY"}])
def test_pages_of_each_kind_are_counted(tmp_path: Path, version: str, how: dict[str, Any]) -> None:
    table = pyarrow.table({"a": [f"text {number}" for number in range(5000)], "b": [[1, None, 3]] * 5000})
    how = how | {"column_encoding": {"a": how["column_encoding"]}} if "column_encoding" in how else how
    parquet.write_table(table, tmp_path / "a.parquet", row_group_size=2000, data_page_version=version, **how)

    pages, claimed = pages_of(tmp_path / "a.parquet")

    assert 0.9 * claimed < pages.unpacked_bytes <= claimed
    assert pages.values == 15_000
    assert pages.row_bytes == len("text 4999") if not how else (pages.row_bytes > 3000) == ("column_encoding" in how)


def test_heads_that_are_broken_end_the_count(tmp_path: Path) -> None:
    generator = random.Random(3)
    parquet.write_table(pyarrow.table({"a": [f"text {number}" for number in range(3000)]}), tmp_path / "a.parquet", row_group_size=1000)
    content = (tmp_path / "a.parquet").read_bytes()
    column = [parquet.ParquetFile(tmp_path / "a.parquet").metadata.row_group(index).column(0) for index in range(3)]
    for _case in range(200):
        damaged, place = bytearray(content), generator.randrange(4, len(content) - 400)
        damaged[place : place + 8] = generator.randbytes(8)
        (tmp_path / "a.parquet").write_bytes(damaged)
        assert read_pages(tmp_path / "a.parquet", column).unpacked_bytes >= 0


@pytest.mark.parametrize("value", [b"\x19\xf3" + b"\xff" * 5 + b"\1", b"\x19\xf7\xff\xff\x7f", b"\x18" + b"\xff" * 9 + b"\1"])
def test_a_head_with_a_value_longer_than_the_file_is_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: bytes) -> None:
    parquet.write_table(pyarrow.table({"a": ["x" * 100]}), tmp_path / "a.parquet", use_dictionary=False)
    column = parquet.ParquetFile(tmp_path / "a.parquet").metadata.row_group(0).column(0)
    content = bytearray((tmp_path / "a.parquet").read_bytes())
    content[4 : 4 + len(value)] = value
    (tmp_path / "a.parquet").write_bytes(content)
    read, count = parquet_pages._value, 0

    def counted(stream: Any, kind: int) -> Any:
        nonlocal count
        assert (count := count + 1) < 1000
        return read(stream, kind)

    monkeypatch.setattr(parquet_pages, "_value", counted)

    assert read_pages(tmp_path / "a.parquet", [column]).unpacked_bytes == 0


@pytest.mark.parametrize("claimed", [None, 1])
def test_pages_that_columns_share_are_not_read_again_and_again(tmp_path: Path, claimed: int | None) -> None:
    parquet.write_table(pyarrow.table({"a": ["x" * 10_000]}), tmp_path / "a.parquet", compression="none")
    column = parquet.ParquetFile(tmp_path / "a.parquet").metadata.row_group(0).column(0)
    shared = SimpleNamespace(**{name: getattr(column, name) for name in COLUMN})
    shared.total_compressed_size = claimed or shared.total_compressed_size
    columns = iter([shared] * 1000)

    with pytest.raises(ValueError, match="its columns have more bytes than the file"):
        read_pages(tmp_path / "a.parquet", columns)
    assert len(list(columns)) > 990


def test_a_long_text_that_all_rows_share_is_not_made_for_a_thousand_rows_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    def count(batch: Any) -> Any:
        made.append(batch.num_rows)
        return iter([(batch, 0)])

    monkeypatch.setattr("imprint.data.readers.arrow.small_batches", count)
    file = repeated(tmp_path / "a.parquet", "x" * 2**20, 300)

    assert len(list(parquet_rows(file))) == 300
    assert max(made) == 64


def test_texts_told_by_the_one_before_are_no_longer_than_a_page(tmp_path: Path) -> None:
    table = pyarrow.table({"a": [f"text {number}" for number in range(50_000)]})
    how: dict[str, Any] = {"use_dictionary": False, "column_encoding": {"a": "DELTA_BYTE_ARRAY"}, "data_page_size": 2**12}
    parquet.write_table(table, tmp_path / "a.parquet", write_batch_size=100, **how)

    pages, _claimed = pages_of(tmp_path / "a.parquet")

    assert 2**12 <= pages.row_bytes < 2**13 < pages.unpacked_bytes // 10


@pytest.mark.parametrize("compression", ["none", "snappy", "gzip", "zstd", "lz4", "brotli"])
def test_the_longest_text_of_a_dictionary_is_found_however_it_is_compressed(tmp_path: Path, compression: str) -> None:
    table = pyarrow.table({"a": ["x" * (number % 100) for number in range(5000)]})
    parquet.write_table(table, tmp_path / "a.parquet", compression=compression)

    assert pages_of(tmp_path / "a.parquet")[0].row_bytes == 99


def test_a_list_of_one_long_text_again_and_again_is_a_bad_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * 5000, pyarrow.int32()), ["x" * 2**20])
    lists = pyarrow.ListArray.from_arrays(pyarrow.array([0, 5000, 5000], pyarrow.int32()), texts)
    parquet.write_table(pyarrow.table({"q": lists}), tmp_path / "a.parquet", compression="zstd", store_schema=False)

    sizes: list[int] = []

    def measured(batch: Any) -> Any:
        sizes.append(batch.get_total_buffer_size())
        return small_batches(batch)

    monkeypatch.setattr("imprint.data.readers.arrow.small_batches", measured)
    (_first, long), (_second, row) = parquet_rows(tmp_path / "a.parquet")

    assert str(long).startswith("is longer than 17 million characters")
    assert row == {"q": []}
    assert max(sizes) < 2**22


def test_a_text_that_stands_in_all_rows_is_refused_once_it_is_more_than_the_file_holds(tmp_path: Path) -> None:
    rows = read_rows(repeated(tmp_path / "a.parquet", "裙" * 2**20, 1000))

    with pytest.raises(
        UserError, match=r"characters \(8 for each value\) in 64 rows up to here: the same again and again\. Take repeated rows"
    ) as caught:
        list(rows)
    assert "同样的内容在不断重复：请去掉重复的行和文本" in str(caught.value)


def test_a_column_of_more_values_than_its_file_can_hold_is_refused(tmp_path: Path) -> None:
    file = repeated(tmp_path / "a.parquet", "x", 2**24 + 1, data_page_size=2**30)

    with pytest.raises(UserError, match=r"would unpack to 16,777,217 values of a column, which no file of rows does"):
        next(parquet_rows(file))
