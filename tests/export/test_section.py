import pytest

from imprint.config import read_overrides
from imprint.export.section import ExportSection
from imprint.messages import UserError


def test_an_export_is_written_and_verified_as_the_run_says_unless_given() -> None:
    section = ExportSection()
    assert (section.dtype, section.proof_dtype, section.device, section.base_path, section.template) == (None,) * 5
    assert section.questions == 8


@pytest.mark.parametrize("knob", ["dtype=int8", "proof_dtype=half", "questions=0", "questions=1001"])
def test_a_setting_out_of_bounds_is_refused(knob: str) -> None:
    with pytest.raises(UserError, match=f"override {knob}: must be"):
        read_overrides([knob], ExportSection)
