import pytest
from pydantic import ValidationError

from imprint.serve.generation.section import ServedModelsSection
from imprint.serve.generation.worker import Limits


def test_the_defaults_are_those_of_a_worker() -> None:
    section, limits = ServedModelsSection(), Limits()

    assert (section.slots, section.max_waiting, section.prefill_chunk_tokens) == (limits.slots, limits.waiting, limits.prefill_chunk_tokens)


@pytest.mark.parametrize("knob", ["slots", "max_waiting", "max_length", "kv_tokens", "prefill_chunk_tokens"])
def test_nothing_at_all_is_no_limit(knob: str) -> None:
    with pytest.raises(ValidationError, match=knob):
        ServedModelsSection.model_validate({knob: 0})
