from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import ValidationError

from imprint.config import DefaultTag, Field, InsteadOf, Section, describe, read_overrides
from imprint.config.section import default_tag, replaced_knob, section_types, union_members, union_tags
from imprint.messages import UserError


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
    assert union_members(union) == [Prefix, Full]
    assert union_members(int | str | None) == [int, str]
    assert union_members(None.__class__) == []
    assert section_types(union) == [Prefix, Full]
    assert section_types(tuple[Prefix, ...] | int) == []


def test_the_word_that_chooses_a_section_is_its_tag() -> None:
    assert union_tags(Prefix) == ["prefix"]
    assert union_tags(int) == []


def test_a_tagged_union_may_have_a_word_that_chooses_where_a_recipe_has_none() -> None:
    class Whole(Section):
        marked: Annotated[Prefix | Full, Field(discriminator="method", description="Marked."), DefaultTag("full")]
        plain: Annotated[Prefix | Full, Field(discriminator="method", description="Plain.")]

    assert default_tag(Whole.model_fields["marked"]) == "full"
    assert default_tag(Whole.model_fields["plain"]) is None
    assert [knob.default for knob in describe(Whole) if knob.path.endswith(".method")] == ["full", "required"]
    assert isinstance(read_overrides(["marked={}", "plain.method=prefix"], Whole).marked, Full)


def test_a_knob_names_the_one_that_counts_instead_of_it() -> None:
    class Length(Section):
        steps: int | None = Field(None, description="Steps.")
        epochs: Annotated[int, InsteadOf("steps")] = Field(1, description="Epochs.")

    assert replaced_knob(Length.model_fields["epochs"]) == "steps"
    assert replaced_knob(Length.model_fields["steps"]) is None
    assert read_overrides(["epochs=2"], Length).epochs == 2


def test_a_path_that_no_shell_has_expanded_is_refused_in_a_list_too() -> None:
    class Files(Section):
        train: Path | tuple[Path, ...] = Field(description="Files.")

    assert read_overrides(["train=a/~"], Files).train == Path("a/~")
    for override in ("train=~/a", "train=[a, ~/b]"):
        with pytest.raises(UserError, match="begins with ~, which a shell replaces only where a word begins"):
            read_overrides([override], Files)
