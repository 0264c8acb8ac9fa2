"""The base of every section of a recipe, and how to look into one."""

import types
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, field_validator
from pydantic.fields import FieldInfo

__all__ = ["Field", "Otherwise", "Section", "choices", "default_tag", "sections", "tags"]


class Section(BaseModel):
    """A frozen group of knobs; an unknown key is an error, text is never taken for a number, NaN is no number."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, validate_default=True, allow_inf_nan=False)

    @field_validator("*")
    @classmethod
    def _without_nul(cls, value: object) -> object:
        if isinstance(value, str | Path) and "\0" in str(value):
            raise ValueError("holds a NUL character, which no file name and no text of a recipe may hold; take it out")
        return value


@dataclass(frozen=True)
class Otherwise:
    """Beside a tagged union in `Annotated`: the word that chooses where a recipe has none."""

    word: str
    """One of the union's tags."""


def choices(annotation: object) -> list[object]:
    """The alternatives of a type, without `None`: `int | None` -> [int], a tagged union -> its sections."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return choices(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return [choice for part in get_args(annotation) for choice in choices(part)]
    return [] if annotation is type(None) else [annotation]


def sections(annotation: object) -> list[type[Section]]:
    """The sections among the alternatives of a type."""
    return [choice for choice in choices(annotation) if isinstance(choice, type) and issubclass(choice, Section)]


def tags(option: object) -> list[str]:
    """The words that choose this section in a tagged union: those of its fields that can hold one word only."""
    fields = [field for section in sections(option) for field in section.model_fields.values()]
    words = [get_args(field.annotation) for field in fields if get_origin(field.annotation) is Literal]
    return [str(word[0]) for word in words if len(word) == 1]


def default_tag(field: FieldInfo) -> str | None:
    """The word that chooses among the sections of a tagged union where a recipe has none, if there is such a word."""
    return next((mark.word for mark in field.metadata if isinstance(mark, Otherwise)), None)
