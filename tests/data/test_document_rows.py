import random
from itertools import pairwise
from pathlib import Path

import pytest

from imprint.data.document_rows import DocumentFrame, RowPacker, RowSpan, SlidingWindows, Window, document_frame, encode_document_start
from imprint.tokenizers import read_tokenizer
from tests.families import chatglm2_folder, fields_of, glm4_folder, published_folder
from tests.vocabulary import tiny_tokenizer

GLM = DocumentFrame(sequence_prefix=(7, 8), bos=(), eos=(9,))
CAUSAL = DocumentFrame(sequence_prefix=(), bos=(9,), eos=(9,))


def rows_of(frame: DocumentFrame, length: int, documents: list[int]) -> list[RowSpan]:
    cutter = RowPacker(frame, length)
    return [row for tokens in documents for row in cutter.add(tokens)] + list(cutter.finish())


def test_chatglm_reads_a_text_behind_its_two_marks_and_learns_where_it_ends() -> None:
    special = tiny_tokenizer().control
    assert document_frame(tiny_tokenizer()) == DocumentFrame(sequence_prefix=(special.gmask, special.sop), bos=(), eos=(special.eop,))


def test_the_other_families_read_a_text_behind_what_begins_theirs(tmp_path: Path) -> None:
    folders = [
        chatglm2_folder(tmp_path / "a"),
        glm4_folder(tmp_path / "b"),
        published_folder(tmp_path / "c"),
        published_folder(tmp_path / "d", prefix=True),
    ]
    second, fourth, plain, prefixed = (read_tokenizer(folder, fields_of(folder)) for folder in folders)
    assert second is not None
    assert fourth is not None
    assert plain is not None
    assert prefixed is not None
    assert document_frame(second) == DocumentFrame(sequence_prefix=(second.controls["[gMASK]"], second.controls["sop"]), bos=(), eos=(2,))
    special = [fourth.controls[name] for name in ("[gMASK]", "<sop>", "<|endoftext|>")]
    assert document_frame(fourth) == DocumentFrame(sequence_prefix=(special[0], special[1]), bos=(), eos=(special[2],))
    assert document_frame(plain) == DocumentFrame(sequence_prefix=(), bos=(2,), eos=(2,))
    assert document_frame(prefixed) == DocumentFrame(sequence_prefix=(), bos=(1,), eos=(2,))


def test_an_opening_is_the_beginning_of_a_document_of_the_family() -> None:
    special = tiny_tokenizer().control
    assert encode_document_start(tiny_tokenizer(), "上衣") == [special.gmask, special.sop, *tiny_tokenizer().encode("上衣")]


def test_short_documents_share_a_row_as_long_as_all_of_both_fits() -> None:
    assert rows_of(GLM, 20, [5, 6, 7, 4]) == [RowSpan(0, 11, 0, 15, 11), RowSpan(11, 22, 2, 15, 11)]
    assert rows_of(CAUSAL, 20, [5, 6, 7, 4]) == [RowSpan(0, 18, 0, 18, 15), RowSpan(18, 22, 3, 4, 3)]


def test_a_document_of_exactly_a_row_is_not_cut() -> None:
    assert rows_of(GLM, 20, [18]) == [RowSpan(0, 18, 0, 20, 18)]
    assert rows_of(CAUSAL, 20, [20]) == [RowSpan(0, 20, 0, 20, 19)]


def test_a_long_document_takes_full_rows_and_its_end_shares_one() -> None:
    assert rows_of(GLM, 20, [3, 40, 5]) == [
        RowSpan(0, 3, 0, 5, 3),
        RowSpan(3, 21, 1, 20, 18),
        RowSpan(21, 39, 1, 20, 18),
        RowSpan(39, 48, 1, 13, 9),
    ]


def test_rows_of_a_causal_model_repeat_one_token_so_that_none_is_left_unscored() -> None:
    assert rows_of(CAUSAL, 20, [45]) == [RowSpan(0, 20, 0, 20, 19), RowSpan(19, 39, 0, 20, 19), RowSpan(38, 45, 0, 7, 6)]


@pytest.mark.parametrize("frame", [GLM, CAUSAL])
def test_every_token_is_scored_once_and_no_row_is_too_long(frame: DocumentFrame) -> None:
    chance = random.Random(0)
    for _ in range(200):
        documents = [chance.randrange(2, 90) for _ in range(chance.randrange(1, 12))]
        rows = rows_of(frame, 32, documents)
        assert sum(row.num_scored for row in rows) == sum(documents) - frame.overlap * len(documents)
        assert max(row.num_ids for row in rows) <= 32
        assert all(one.stop - other.start in (0, frame.overlap) for one, other in pairwise(rows))
        assert rows[-1].stop == sum(documents)


# Windows for measuring


def windows_of(frame: DocumentFrame, length: int, stride: int, *passages: list[int]) -> list[Window]:
    windows = SlidingWindows(frame, length, stride)
    last = len(passages) - 1
    return [one for place, ids in enumerate(passages) for one in windows.add(ids, first=place == 0, last=place == last)]


def test_a_short_text_is_one_window_whose_every_token_is_measured() -> None:
    assert windows_of(GLM, 20, 10, [1, 2, 3]) == [Window((7, 8, 1, 2, 3), (-100, -100, 1, 2, 3), 3)]
    assert windows_of(CAUSAL, 20, 10, [1, 2, 3]) == [Window((9, 1, 2, 3), (-100, 1, 2, 3), 3)]


@pytest.mark.parametrize("frame", [GLM, CAUSAL])
@pytest.mark.parametrize("stride", [1, 5, 9])
@pytest.mark.parametrize("count", [1, 9, 10, 11, 47])
def test_every_token_of_a_long_text_is_measured_once_with_something_before_it(frame: DocumentFrame, stride: int, count: int) -> None:
    text = list(range(100, 100 + count))
    found = windows_of(frame, 12, stride, text)
    assert [label for window in found for label in window.labels if label != -100] == text
    assert max(len(window.ids) for window in found) <= 12
    assert all(window.num_scored == sum(label != -100 for label in window.labels) > 0 for window in found)
    assert all(window.labels[0] == -100 for window in found)
    least = 12 - len(frame.sequence_prefix) - stride
    assert all(
        window.labels[: len(frame.sequence_prefix) + least].count(-100) == len(frame.sequence_prefix) + least for window in found[1:]
    )


def test_where_nothing_stands_before_a_text_its_first_token_is_not_measured() -> None:
    bare = DocumentFrame(sequence_prefix=(), bos=(), eos=())
    assert windows_of(bare, 20, 10, [1, 2, 3]) == [Window((1, 2, 3), (-100, 2, 3), 2)]


def test_a_text_in_passages_is_measured_as_in_one_piece() -> None:
    text = list(range(100, 140))
    assert windows_of(CAUSAL, 12, 6, text[:3], text[3:30], text[30:]) == windows_of(CAUSAL, 12, 6, text)
    assert windows_of(CAUSAL, 12, 6, text, []) == windows_of(CAUSAL, 12, 6, text)
