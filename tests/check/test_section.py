import pytest

from imprint.check.section import CheckSection, ConvertSection
from imprint.config import Section, read_overrides
from imprint.data.section import DataSection, TextsSection
from imprint.messages import UserError


def test_a_check_knows_the_reading_knobs_of_a_recipe_and_sets_none_of_them() -> None:
    recipe = {*DataSection.model_fields, *TextsSection.model_fields}
    assert set(CheckSection.model_fields) - recipe == {"base_path", "template"}
    assert set(CheckSection().model_dump(exclude_none=True)) == set()


def test_columns_are_called_alike_when_data_is_learned_and_converted() -> None:
    for name, knob in ConvertSection.model_fields.items():
        assert knob.default == DataSection.model_fields[name].default


@pytest.mark.parametrize("section", [CheckSection, ConvertSection])
def test_a_misspelled_column_knob_is_refused(section: type[Section]) -> None:
    with pytest.raises(UserError, match="promt_column"):
        read_overrides(["promt_column=q"], section)
