"""The base class of every section of a recipe, and functions that inspect its types."""

import types
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, field_validator
from pydantic.fields import FieldInfo

from imprint.messages import Bilingual

__all__ = [
    "DefaultTag",
    "Field",
    "InsteadOf",
    "MayChange",
    "Section",
    "default_tag",
    "may_change",
    "replaced_knob",
    "section_types",
    "union_members",
    "union_tags",
]


NUL_CHARACTER = Bilingual(
    "holds a NUL character, which is allowed in no file name and no text of a recipe; remove it",
    "含有 NUL 字符，文件名和配方的文本中都不允许；请去掉",
)
HOME = Bilingual(
    "begins with ~, which a shell replaces only where a word begins, not after =; write the whole path",
    "以 ~ 开头，而 shell 只在词首替换它，等号之后不替换；请写完整路径",
)


class Section(BaseModel):
    """A frozen group of knobs; unknown keys, numbers given as text, and NaN are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, validate_default=True, allow_inf_nan=False)

    @field_validator("*")
    @classmethod
    def _without_nul(cls, value: object) -> object:
        if _has_nul(value):
            raise ValueError(NUL_CHARACTER)
        values = value if isinstance(value, list | tuple) else [value]
        if any(isinstance(one, Path) and one.parts[:1] == ("~",) for one in values):
            raise ValueError(HOME)
        return value


def _has_nul(value: object) -> bool:
    """Whether a text or a path has a NUL character, or one in a list or mapping."""
    if isinstance(value, str | Path):
        return "\0" in str(value)
    if isinstance(value, dict):
        return any(_has_nul(one) for item in value.items() for one in item)
    return isinstance(value, list | tuple) and any(map(_has_nul, value))


@dataclass(frozen=True)
class DefaultTag:
    """Metadata of a tagged union in `Annotated`: the tag used if a recipe gives none."""

    tag: str
    """One of the union's tags."""


@dataclass(frozen=True)
class InsteadOf:
    """Metadata of a knob that counts only while another one of its section is null: given as an override, it makes that one null."""

    knob: str
    """Name of the other knob; in a recipe that sets both, it is the one that counts."""


class _MayChange:
    """Metadata of a knob that a resumed run may change."""


T = TypeVar("T")
MayChange = Annotated[T, _MayChange()]
"""The type of a knob whose value changes no number that a run computes: a resumed run may have another one. Of a section: all its knobs."""


def may_change(field: FieldInfo) -> bool:
    """Whether a knob's type is marked as `MayChange`."""
    return any(isinstance(item, _MayChange) for item in field.metadata)


def replaced_knob(field: FieldInfo) -> str | None:
    """The knob of the same section that an override of this one makes null; None for most knobs."""
    return next((item.knob for item in field.metadata if isinstance(item, InsteadOf)), None)


def union_members(annotation: object) -> list[object]:
    """The members of a union without `None`: `int | None` -> [int], a tagged union -> its sections."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return union_members(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return [member for part in get_args(annotation) for member in union_members(part)]
    return [] if annotation is type(None) else [annotation]


def section_types(annotation: object) -> list[type[Section]]:
    """The sections among the members of a union."""
    return [member for member in union_members(annotation) if isinstance(member, type) and issubclass(member, Section)]


def union_tags(member: object) -> list[str]:
    """The tags that select this section in a tagged union: the value of each field that is a Literal of one value."""
    fields = [field for section in section_types(member) for field in section.model_fields.values()]
    literals = [get_args(field.annotation) for field in fields if get_origin(field.annotation) is Literal]
    return [str(values[0]) for values in literals if len(values) == 1]


def default_tag(field: FieldInfo) -> str | None:
    """The tag of a tagged union used if a recipe gives none; None if it must be given."""
    return next((item.tag for item in field.metadata if isinstance(item, DefaultTag)), None)
