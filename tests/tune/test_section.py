import pytest
from pydantic import ValidationError

from imprint.tune.section import PrefixSection


class TestSection:
    def test_the_default_start_is_the_tasks_instruction(self) -> None:
        section = PrefixSection()

        assert (section.start, section.length, section.projection, section.prefix_dropout) == ("text", None, None, 0.0)
        assert "广告" in section.text

    @pytest.mark.parametrize("change", [{"length": 0}, {"prefix_dropout": 1.0}, {"start": "warm"}, {"text": ""}, {"rank": 8}])
    def test_impossible_values_are_refused(self, change: dict[str, object]) -> None:
        with pytest.raises(ValidationError):
            PrefixSection.model_validate(change)
