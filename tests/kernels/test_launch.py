import torch

from imprint.kernels.launch import QuantizedRows
from imprint.quant.group_int4 import GroupInt4
from imprint.quant.row_int import RowInt
from tests.kernels.quantized_weights import for_kernel, stored


def test_a_word_has_the_columns_of_four_bytes() -> None:
    four, eight, group = (for_kernel(stored(one, 2, 256)) for one in (RowInt(4), RowInt(8), GroupInt4()))

    assert [one.words.shape for one in (four, eight, group)] == [(2, 32), (2, 64), (2, 32)]
    assert {one.columns for one in (four, eight, group)} == {256}
    assert (four.group_words, eight.group_words, group.group_words) == (0, 0, 16)


def test_words_share_the_memory_of_the_integers() -> None:
    weight = QuantizedRows(torch.zeros(2, 8, dtype=torch.int8), torch.ones(2), 8, 0, range(2))
    weight.integers[1, 4] = 7

    assert weight.words.tolist() == [[0, 0], [0, 7]]
