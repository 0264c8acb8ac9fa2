from typing import Any

import pytest

from imprint.messages import UserError
from imprint.models.configs.fields import positive_float, positive_int, stop_ids, weight_format
from imprint.quant.row_int import RowInt


@pytest.mark.parametrize("value", [None, 0, -1, 2.0, "2", True, [2]])
def test_what_is_no_whole_number_of_at_least_one_is_named(value: object) -> None:
    with pytest.raises(UserError, match=r'config\.json: "layers" must be an integer of at least 1, got .*\. Take config\.json from'):
        positive_int({"layers": value}, "layers")


def test_a_missing_number_takes_its_default_or_is_named() -> None:
    assert positive_int({}, "layers", default=3) == 3
    with pytest.raises(UserError, match='"layers" must be an integer of at least 1, got None'):
        positive_int({}, "layers")


def test_of_several_names_the_first_that_is_there_counts() -> None:
    assert positive_int({"new": 2, "old": 1}, "old", "new") == 1
    assert positive_int({"new": 2, "old": None}, "old", "new") == 2
    with pytest.raises(UserError, match='"old" or "new" must be an integer of at least 1, got None'):
        positive_int({}, "old", "new")


@pytest.mark.parametrize("value", [0, -1e-5, "1e-5", True, float("nan"), float("inf")])
def test_what_is_no_positive_number_is_named(value: object) -> None:
    with pytest.raises(UserError, match=r'"epsilon" must be a number above 0, got .*\. Take config\.json from'):
        positive_float({"epsilon": value}, "epsilon", 1.0)


@pytest.mark.parametrize("fields", [{}, {"epsilon": None}])
def test_a_missing_positive_number_takes_its_default(fields: dict[str, object]) -> None:
    assert positive_float(fields, "epsilon", 1.0) == 1.0


@pytest.mark.parametrize("value", [0, None])
def test_no_bits_are_no_quantization(value: object) -> None:
    assert weight_format({"quantization_bit": value}, {}) is None
    assert weight_format({}, {}) is None


def test_two_columns_share_a_byte_at_four_bits_only() -> None:
    assert weight_format({"quantization_bit": 8}, {"width": 3}) == RowInt(8)
    assert weight_format({"quantization_bit": 4}, {"width": 2}) == RowInt(4)
    with pytest.raises(UserError, match='"width" 3 is odd, but at 4 bits two columns share a byte'):
        weight_format({"quantization_bit": 4}, {"width": 3})


@pytest.mark.parametrize(("value", "ids"), [(2, {2}), ([5, 7, 8], {5, 7, 8}), (None, set()), (0, {0})])
def test_answers_end_with_one_id_with_several_or_with_none(value: object, ids: set[int]) -> None:
    assert stop_ids({"eos_token_id": value}) == ids
    assert stop_ids({}) == set()


@pytest.mark.parametrize("value", ["2", [2, "3"], -1, True, 2.0, {"a": 2}, 10**12, [2, 10**30]])
def test_ends_that_are_no_ids_are_named(value: Any) -> None:
    with pytest.raises(UserError, match='"eos_token_id" must be an id or a list of ids, got'):
        stop_ids({"eos_token_id": value})
