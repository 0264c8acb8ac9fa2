from typing import Any

import pytest

from imprint.messages import UserError
from imprint.quant.formats import FORMATS, find_format, has_foreign_config, stored_format
from imprint.quant.fp8 import Fp8
from imprint.quant.names import FORMAT_NAMES


def test_every_name_has_a_format_that_knows_itself_by_name_and_by_its_fields() -> None:
    assert {one.name for one in FORMATS} == set(FORMAT_NAMES)
    for one in FORMATS:
        assert find_format(one.name) == one
        assert stored_format({"model_type": "chatglm", **one.fields}) == one
        assert not has_foreign_config(one.fields)


@pytest.mark.parametrize("name", [2, 16, "4", "int4", "int4-g64", True, 4.0, [4]])
def test_other_names_are_refused(name: Any) -> None:
    with pytest.raises(UserError) as caught:
        find_format(name, "model.quantize", optional=True)
    assert f"model.quantize: must be 8, 4, int4-g128, fp8 or None, got {name!r}." in str(caught.value)
    with pytest.raises(UserError, match="must be 8, 4, int4-g128 or fp8, got"):
        find_format(name)


@pytest.mark.parametrize("fields", [{}, {"quantization_bit": 0}, {"quantization_bit": None}, {"quantization_config": None}])
def test_folders_without_a_format_are_plain(fields: dict[str, Any]) -> None:
    assert stored_format(fields) is None
    assert not has_foreign_config(fields)


@pytest.mark.parametrize("config", [{"quant_method": "gptq", "bits": 4}, "awq", {"load_in_4bit": True}])
def test_the_formats_of_other_programs_are_told_apart(config: object) -> None:
    assert stored_format({"quantization_config": config}) is None
    assert has_foreign_config({"quantization_config": config})


@pytest.mark.parametrize(
    "change", [{"format": "int4-g64"}, {"group_size": 64}, {"bits": 8}, {"zero_point": True}], ids=lambda change: str(change)
)
def test_a_format_of_ours_that_says_something_else_is_not_read_as_this_one(change: dict[str, object]) -> None:
    fields = find_format("int4-g128").fields
    with pytest.raises(UserError, match=r"which this version does not know; of its own it has int4-g128, fp8\. Use the version that wrote"):
        stored_format({"quantization_config": {**fields["quantization_config"], **change}})


def test_two_formats_at_once_are_refused() -> None:
    with pytest.raises(UserError, match=r'"quantization_bit" and "quantization_config" name two formats'):
        stored_format({**find_format(4).fields, **find_format("int4-g128").fields})


def test_a_folder_of_fp8_says_which_blocks_keep_16_bits_and_an_older_one_has_none() -> None:
    first_form = {"quantization_config": {"quant_method": "imprint", "format": "fp8", "bits": 8}}

    assert stored_format(first_form) == Fp8(plain_ends=0) != find_format("fp8")
    assert Fp8(plain_ends=0).fields == first_form
    assert find_format("fp8").fields["quantization_config"] == {**first_form["quantization_config"], "plain_ends": 1}
    with pytest.raises(UserError, match="which this version does not know"):
        stored_format(Fp8(plain_ends=2).fields)
