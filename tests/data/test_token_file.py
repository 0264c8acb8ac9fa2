import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from imprint.data.document_rows import DocumentFrame
from imprint.data.encode import EncodedRow
from imprint.data.token_file import ROW, RowLocations, TokenFileRows, TokenWriter, row_lengths
from imprint.messages import UserError

GLM = DocumentFrame(sequence_prefix=(7, 8), bos=(), eos=(9,))
CAUSAL = DocumentFrame(sequence_prefix=(), bos=(9,), eos=(9,))


def written(folder: Path, frame: DocumentFrame, length: int, documents: list[list[int]]) -> TokenFileRows:
    folder.mkdir()
    with TokenWriter(folder, frame, length) as writer:
        for number, ids in enumerate(documents, start=1):
            writer.add(ids, f"some/file.txt:{number}", 2 * len(ids), first=True, last=True)
    return TokenFileRows(folder)


def test_texts_that_share_a_row_each_have_their_marks_and_their_own_labels(tmp_path: Path) -> None:
    rows = written(tmp_path / "glm", GLM, 16, [[20, 21], [30, 31, 32], list(range(40, 49))])
    assert rows[0] == EncodedRow(
        (7, 8, 20, 21, 9, 7, 8, 30, 31, 32, 9), (-100, -100, 20, 21, 9, -100, -100, 30, 31, 32, 9), sequence_starts=(5,)
    )
    assert rows[0].sequences == [
        ((7, 8, 20, 21, 9), (-100, -100, 20, 21, 9)),
        ((7, 8, 30, 31, 32, 9), (-100, -100, 30, 31, 32, 9)),
    ]
    assert rows[1].ids == (7, 8, *range(40, 49), 9)


def test_a_causal_row_scores_all_but_the_first_token_of_each_text(tmp_path: Path) -> None:
    rows = written(tmp_path / "causal", CAUSAL, 10, [[20, 21], [30], list(range(40, 55))])
    assert rows[0] == EncodedRow((9, 20, 21, 9, 9, 30, 9), (-100, 20, 21, 9, -100, 30, 9), sequence_starts=(4,))
    assert [row.ids for row in rows[1:]] == [(9, *range(40, 49)), (48, *range(49, 55), 9)]
    assert rows[2].labels == (-100, *range(49, 55), 9)


def test_a_document_in_passages_is_one_document(tmp_path: Path) -> None:
    whole = written(tmp_path / "whole", CAUSAL, 10, [list(range(40, 55)), [60]])
    (tmp_path / "parts").mkdir()
    with TokenWriter(tmp_path / "parts", CAUSAL, 10) as writer:
        writer.add(range(40, 44), "some/file.txt:1", 8, first=True, last=False)
        writer.add(range(44, 55), "some/file.txt:1", 22, first=False, last=False)
        writer.add([], "some/file.txt:1", 0, first=False, last=True)
        writer.add([60], "some/file.txt:2", 2, first=True, last=True)
    assert list(TokenFileRows(tmp_path / "parts")) == list(whole)
    assert TokenFileRows(tmp_path / "parts").digest == whole.digest


def test_counts_places_and_lengths_need_no_row(tmp_path: Path) -> None:
    rows = written(tmp_path / "glm", GLM, 16, [[20, 21], [30, 31, 32], list(range(40, 70))])
    about = rows.info
    assert (len(rows), about.documents, about.tokens, about.characters) == (4, 3, 38, 70)
    assert row_lengths(rows) == rows.lengths == [len(row.ids) for row in rows]
    assert row_lengths(list(rows)) == rows.lengths
    assert list(RowLocations(rows)) == ["some/file.txt:1"] + ["some/file.txt:3"] * 3
    assert RowLocations(rows)[:2] == ["some/file.txt:1", "some/file.txt:3"]
    assert rows[-1] == rows[3]
    with pytest.raises(IndexError):
        rows[4]


def test_a_limit_takes_the_first_rows_and_makes_other_data_of_them(tmp_path: Path) -> None:
    rows = written(tmp_path / "glm", GLM, 16, [[20, 21], [30, 31, 32], list(range(40, 70))])
    few = TokenFileRows(tmp_path / "glm", 2)
    assert list(few) == rows[:2]
    assert few.digest != rows.digest
    assert TokenFileRows(tmp_path / "glm", 99).digest == rows.digest


def test_other_texts_have_another_digest(tmp_path: Path) -> None:
    one, other, longer = (
        written(tmp_path / name, GLM, length, [[20, last]]) for name, length, last in (("a", 16, 21), ("b", 16, 22), ("c", 18, 21))
    )
    assert len({one.digest, other.digest, longer.digest}) == 3


def test_a_file_cut_short_is_reported(tmp_path: Path) -> None:
    rows = written(tmp_path / "glm", GLM, 16, [[20, 21]])
    (tmp_path / "glm" / "tokens.bin").write_bytes(b"")
    with pytest.raises(UserError, match=r"is truncated\. Delete its folder"):
        rows[0]


@pytest.mark.parametrize(
    "change",
    [{"rows": "x"}, {"rows": -1}, {"rows": 10**30}, {"files": 5}, {"each": ["x"]}, {"each": [2**31]}, {"digest": 5}, {"more": 1}, None],
)
def test_a_strangers_counts_are_checked(tmp_path: Path, change: dict[str, object] | None) -> None:
    written(tmp_path / "glm", GLM, 16, [[20, 21]])
    about = tmp_path / "glm" / "about.json"
    about.write_text("[1]" if change is None else json.dumps(json.loads(about.read_text(encoding="utf-8")) | change), encoding="utf-8")
    with pytest.raises(UserError, match=r"about\.json: is not what Imprint wrote.*\. Delete its folder"):
        TokenFileRows(tmp_path / "glm")


@pytest.mark.parametrize(("start", "stop"), [(0, 2**62), (2**62, 2**62 + 1), (3, 1)])
def test_a_row_that_is_not_in_the_file_takes_no_memory(tmp_path: Path, start: int, stop: int) -> None:
    rows = written(tmp_path / "glm", GLM, 16, [[20, 21]])
    entry = np.fromfile(tmp_path / "glm" / "rows.bin", dtype=ROW)
    entry["start"], entry["stop"] = start, stop
    entry.tofile(tmp_path / "glm" / "rows.bin")
    with pytest.raises(UserError, match=r"tokens\.bin: is truncated"):
        rows[0]


def test_nothing_is_complete_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), TokenWriter(tmp_path, GLM, 16) as writer:
        writer.add([1 // 0], "x:1", 1, first=True, last=True)
    assert not (tmp_path / "about.json").exists()


def test_memory_does_not_grow_with_the_corpus(tmp_path: Path) -> None:
    def peak(folder: Path, documents: int) -> int:
        folder.mkdir()
        tracemalloc.start()
        with TokenWriter(folder, GLM, 64) as writer:
            for number in range(documents):
                writer.add([number % 1000] * 100, f"some/file.txt:{number + 1}", 100, first=True, last=True)
        rows = TokenFileRows(folder)
        assert sum(len(rows[number].ids) for number in range(0, len(rows), len(rows) // 50)) > 0
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    small, large = peak(tmp_path / "small", 300), peak(tmp_path / "large", 4000)
    assert (tmp_path / "large" / "tokens.bin").stat().st_size > 1_600_000
    assert large < small + 160_000
