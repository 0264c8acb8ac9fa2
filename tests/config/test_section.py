from typing import Annotated, Literal

import pytest
from pydantic import ValidationError

from imprint.config import Field, Section
from imprint.config.section import choices, sections, tags


class Prefix(Section):
    method: Literal["prefix"] = Field("prefix", description="How.")
    start: Literal["random", "text"] = Field("text", description="From what.")


class Full(Section):
    method: Literal["full"] = Field("full", description="How.")


def test_a_section_cannot_be_changed_and_takes_no_text_for_a_word_of_its_own() -> None:
    section = Prefix()
    with pytest.raises(ValidationError, match="frozen"):
        section.start = "random"  # type: ignore[misc]
    with pytest.raises(ValidationError, match="extra"):
        Prefix.model_validate({"lenght": 3})


def test_the_alternatives_of_a_type_are_flat_and_without_none() -> None:
    union = Annotated[Prefix | Full, Field(discriminator="method")] | None
    assert choices(union) == [Prefix, Full]
    assert choices(int | str | None) == [int, str]
    assert choices(None.__class__) == []
    assert sections(union) == [Prefix, Full]
    assert sections(tuple[Prefix, ...] | int) == []


def test_the_word_that_chooses_a_section_is_its_tag() -> None:
    assert tags(Prefix) == ["prefix"]
    assert tags(int) == []
