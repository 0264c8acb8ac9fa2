import pytest

from imprint.chat.section import ChatSection, SamplingSection
from imprint.config import read_overrides
from imprint.loading.section import OpenSection
from imprint.messages import UserError


def test_the_defaults_are_those_of_the_original_chat() -> None:
    assert (ChatSection().temperature, ChatSection().top_p) == (0.95, 0.7)


def test_a_chat_is_sampling_and_what_opens_a_model() -> None:
    assert set(ChatSection.model_fields) == {*SamplingSection.model_fields, *OpenSection.model_fields, "system"}
    assert next(iter(ChatSection.model_fields)) == "temperature"


@pytest.mark.parametrize("knob", ["temperature=-1", "top_p=0", "top_p=1.5", "max_length=2", "seed=-1"])
def test_a_setting_out_of_bounds_is_refused(knob: str) -> None:
    with pytest.raises(UserError, match=f"override {knob}: must be"):
        read_overrides([knob], SamplingSection)
