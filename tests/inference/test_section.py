import pytest

from imprint.config import read_overrides
from imprint.inference.section import DecodingSection
from imprint.messages import UserError
from tests.inference.decoding_knobs import CHANGED


def test_stop_takes_one_text_or_a_list() -> None:
    assert read_overrides(["stop=。"], DecodingSection).stop == ("。",)
    assert read_overrides(['stop=["。", "###"]'], DecodingSection).stop == ("。", "###")


@pytest.mark.parametrize("knob", ["temperature=-1", "top_p=0", "top_p=1.5", "top_k=-1", "repetition_penalty=0", "stop=[1]"])
def test_a_setting_of_decoding_out_of_bounds_is_refused(knob: str) -> None:
    with pytest.raises(UserError, match=r"override .*: must be"):
        read_overrides([knob], DecodingSection)


def test_no_knob_is_left_out_of_the_tests_of_what_passes_knobs_on() -> None:
    defaults = DecodingSection().model_dump()
    assert CHANGED.keys() == defaults.keys()
    assert [name for name, value in CHANGED.items() if value == defaults[name]] == []
