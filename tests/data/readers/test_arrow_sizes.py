"""What a few bytes of Arrow may stand for: it is told, divided or refused before it is in memory."""

from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import ipc

from imprint.data.readers import arrow_sizes
from imprint.data.readers.arrow import arrow_rows
from imprint.data.readers.arrow_sizes import decoded_bytes, small_batches
from imprint.data.readers.rows import read_rows
from imprint.messages import UserError

TEXTS = ["问题", None, "a" * 300, "", "答"] * 3
LISTS = [["x", "yy"], None, [], ["z" * 50]]
MANY = 1_000_000_000


def written(file: Path, columns: dict[str, Any], *, compression: str | None = None, as_stream: bool = False) -> Path:
    batch = pyarrow.record_batch(columns)
    write = ipc.new_stream if as_stream else ipc.new_file
    with pyarrow.OSFile(str(file), "wb") as sink, write(sink, batch.schema, options=ipc.IpcWriteOptions(compression=compression)) as writer:
        writer.write_batch(batch)
    return file


@pytest.mark.parametrize(
    "array",
    [
        pyarrow.array(TEXTS),
        pyarrow.array(TEXTS, pyarrow.large_string()),
        pyarrow.array(TEXTS, pyarrow.string_view()),
        pyarrow.array(TEXTS).dictionary_encode(),
        pyarrow.array([b"ab", None, b""], pyarrow.binary()),
        pyarrow.array([b"abc", None, b"abd"], pyarrow.binary(3)),
        pyarrow.array([1, None, 3]),
        pyarrow.array([True, False, None]),
        pyarrow.nulls(4),
        pyarrow.array(LISTS),
        pyarrow.array(LISTS, pyarrow.large_list(pyarrow.large_string())),
        pyarrow.array(LISTS, pyarrow.list_view(pyarrow.string())),
        pyarrow.array([["a", "b"], None, ["c", "d"]], pyarrow.list_(pyarrow.string(), 2)),
        pyarrow.array([[{"role": "user", "content": "x" * 100}], [], None]),
        pyarrow.array([[("a", 1)], [], [("b", 2), ("c", 3)]], pyarrow.map_(pyarrow.string(), pyarrow.int64())),
        pyarrow.RunEndEncodedArray.from_arrays(pyarrow.array([2, 5], pyarrow.int32()), pyarrow.array(["x", "y" * 40])),
        pyarrow.UnionArray.from_sparse(pyarrow.array([0, 1], pyarrow.int8()), [pyarrow.array([1, 2]), pyarrow.array(["a", "b"])]),
    ],
    ids=lambda array: str(array.type)[:24],
)
@pytest.mark.parametrize("compression", [None, "lz4", "zstd"])
def test_rows_of_each_type_are_the_same_however_they_are_divided(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, array: Any, compression: str | None
) -> None:
    expected = [{"q": value} for value in array.to_pylist()]
    monkeypatch.setattr(arrow_sizes, "BATCH_BYTES", 200)

    assert [row for _place, row in arrow_rows(written(tmp_path / "a.arrow", {"q": array}, compression=compression))] == expected
    stream = written(tmp_path / "b.arrow", {"q": array[1:]}, compression=compression, as_stream=True)
    assert [row for _place, row in arrow_rows(stream)] == expected[1:]


def test_nulls_and_runs_are_taken_a_thousand_at_a_time() -> None:
    runs = pyarrow.RunEndEncodedArray.from_arrays(pyarrow.array([MANY], pyarrow.int64()), pyarrow.array(["x" * 2**20]))
    batch = pyarrow.record_batch({"a": pyarrow.nulls(MANY), "b": runs})

    parts = list(islice(small_batches(batch), 20))

    assert {part.num_rows for part, _size in parts} <= {62, 63}
    assert all(2**25 < size <= arrow_sizes.BATCH_BYTES for _part, size in parts)


def test_a_dictionary_is_divided_by_the_texts_that_its_rows_have() -> None:
    texts = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * 1000, pyarrow.int32()), ["x" * 2**24])

    parts = list(small_batches(pyarrow.record_batch({"a": texts})))

    assert sum(part.num_rows for part, _size in parts) == 1000
    assert all(size <= arrow_sizes.BATCH_BYTES for _part, size in parts)


@pytest.mark.parametrize("in_lists", [True, False])
def test_the_texts_of_a_dictionary_are_measured_once_for_a_batch(monkeypatch: pytest.MonkeyPatch, *, in_lists: bool) -> None:
    texts: Any = pyarrow.array([f"text {number}" for number in range(5000)]).dictionary_encode()
    column = pyarrow.ListArray.from_arrays(pyarrow.array(range(5001), pyarrow.int32()), texts) if in_lists else texts
    measure, measured = arrow_sizes._text_lengths, list[int]()

    def counted(array: Any) -> Any:
        lengths = measure(array)
        measured.extend([] if lengths is None else [len(array)])
        return lengths

    monkeypatch.setattr(arrow_sizes, "_text_lengths", counted)
    other = pyarrow.array(["x", "long" * 10] * 2500).dictionary_encode()
    parts = list(small_batches(pyarrow.record_batch({"a": column, "b": other})))

    assert sum(part.num_rows for part, _size in parts) == 5000
    assert measured == [5000, 2]


@pytest.mark.parametrize("as_view", [True, False])
def test_one_list_of_all_the_nulls_there_are_is_a_bad_row(tmp_path: Path, *, as_view: bool) -> None:
    lists: Any = pyarrow.ListArray.from_arrays(pyarrow.array([0, MANY, MANY], pyarrow.int32()), pyarrow.nulls(MANY))
    if as_view:
        places = pyarrow.array([0, 5], pyarrow.int32()), pyarrow.array([MANY, 0], pyarrow.int32())
        lists = pyarrow.ListViewArray.from_arrays(*places, pyarrow.nulls(MANY))

    (_first, long), (_second, row) = arrow_rows(written(tmp_path / "a.arrow", {"q": lists}))

    assert str(long).startswith("is longer than 17 million characters, which no row is.")
    assert row == {"q": []}
    assert decoded_bytes(lists) >= arrow_sizes.ROW_BYTES


def test_lists_that_go_back_are_not_followed(tmp_path: Path) -> None:
    lists = pyarrow.ListArray.from_arrays(pyarrow.array([0, MANY, 0], pyarrow.int32()), pyarrow.nulls(MANY))

    ((_place, problem),) = arrow_rows(written(tmp_path / "a.arrow", {"q": lists}))

    assert str(problem).startswith("the file is broken from about here on: ")


@pytest.mark.parametrize("broken", [0, 1, 999, 1000, 5000, 9999])
def test_rows_ahead_of_a_broken_text_are_read(tmp_path: Path, broken: int) -> None:
    texts = pyarrow.array([b"\xff\xfe" if number == broken else b"text" for number in range(10_000)], pyarrow.binary())
    file = written(tmp_path / "a.arrow", {"q": pyarrow.StringArray.from_buffers(len(texts), *texts.buffers()[1:]), "n": range(10_000)})

    *rows, (_place, problem) = arrow_rows(file)

    assert [row for _place, row in rows] == [{"q": "text", "n": number} for number in range(broken)]
    assert str(problem).startswith("the file is broken from about here on: ")


def test_rows_ahead_of_an_index_without_a_text_are_read(tmp_path: Path) -> None:
    places = pyarrow.array([0] * 2500 + [7] + [0] * 2500, pyarrow.int32())
    column = pyarrow.DictionaryArray.from_arrays(places, ["text"], safe=False)

    *rows, (_place, problem) = arrow_rows(written(tmp_path / "a.arrow", {"q": column}))

    assert [row for _place, row in rows] == [{"q": "text"}] * 2500
    assert str(problem).startswith("the file is broken from about here on: ")


@pytest.mark.parametrize("as_stream", [pytest.param(True, marks=pytest.mark.long), False])
@pytest.mark.parametrize("in_dictionary", [True, False])
def test_what_is_compressed_to_nothing_is_refused_before_it_is_unpacked(tmp_path: Path, *, as_stream: bool, in_dictionary: bool) -> None:
    texts = pyarrow.array(["x" * 300_000_000])
    column = texts.dictionary_encode() if in_dictionary else texts
    file = written(tmp_path / "a.arrow", {"q": column}, compression="zstd", as_stream=as_stream)

    with pytest.raises(UserError, match=r"has [\d,]+ bytes and would unpack to 300,000,[\d,]+, which no file of rows does") as caught:
        list(arrow_rows(file))

    assert "字节，解压后却有 300,000," in str(caught.value)


def test_more_rows_than_bytes_are_refused_where_they_are_read(tmp_path: Path) -> None:
    rows = read_rows(written(tmp_path / "a.arrow", {"q": pyarrow.nulls(MANY)}))

    assert len(list(islice(rows, 100_000))) == 100_000
    with pytest.raises(
        UserError, match=r"a\.arrow has [\d,]+ bytes, and 1,600,016 characters \(8 for each value\) in 100,001 rows up to here"
    ) as caught:
        next(rows)
    assert "请去掉重复的行和文本，或另存为 JSON Lines" in str(caught.value)
