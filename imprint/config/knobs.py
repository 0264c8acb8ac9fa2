"""Describes every knob of a recipe, for the help and the docs."""

import types
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated, Literal, Union, get_args, get_origin

import annotated_types
from pydantic.fields import FieldInfo

from imprint.config.section import Section, default_tag, may_change, section_types, union_tags
from imprint.config.syntax import render

TYPE_NAMES = {bool: "true | false", int: "integer", float: "number", str: "text", Path: "path", type(None): "null"}


@dataclass(frozen=True)
class Knob:
    """One row of the table of knobs."""

    path: str
    """Dotted path in the recipe."""
    type: str
    """Its type in words; "section" for a group of knobs."""
    default: str
    """The default as YAML; "required" if there is none; empty for a section."""
    bound: str
    """The limits of the value; empty if there are none."""
    description: str
    """What it does."""
    condition: str = ""
    """The tag under which the knob exists, such as "tune.method = prefix"; empty for always."""
    may_change: bool = False
    """Whether a resumed run may have another value."""


def describe(schema: type[Section]) -> list[Knob]:
    """One row for each knob of `schema`; a section comes before its knobs."""
    return list(_rows(schema, None, "", "", changeable=False))


def _rows(schema: type[Section], instance: object, prefix: str, condition: str, *, changeable: bool) -> Iterator[Knob]:
    """The rows of `schema`; `instance` gives the defaults if the section itself is the default of a field.

    `changeable`: whether a resumed run may change all of it.
    """
    for name, field in schema.model_fields.items():
        path = f"{prefix}{name}"
        free = changeable or may_change(field)
        types = section_types(field.annotation)
        default = getattr(instance, name) if isinstance(instance, schema) else _default(field)
        if not types:
            yield Knob(path, _type(field.annotation), _yaml_line(default), _bound(field), field.description or "", condition, free)
            continue
        yield Knob(path, "section", "null" if default is None else "", "", field.description or "", condition, free)
        if field.discriminator is not None:
            yield _tag_row(field, default, path, condition)
        rows: list[Knob] = []
        for section in types:
            inner = f"{path}.{field.discriminator} = {union_tags(section)[0]}" if field.discriminator is not None else condition
            rows += (
                row for row in _rows(section, default, f"{path}.", inner, changeable=free) if row.path != f"{path}.{field.discriminator}"
            )
        # Nested sections come last: a knob after them would be read as one of theirs.
        yield from sorted(rows, key=lambda row: row.type == "section" or row.path.count(".") > path.count(".") + 1)


def _tag_row(field: FieldInfo, default: object, path: str, condition: str) -> Knob:
    """The row of a tagged union's tag."""
    name = str(field.discriminator)
    descriptions = {union_tags(section)[0]: section.model_fields[name].description or "" for section in section_types(field.annotation)}
    tags = list(descriptions)
    same = len(set(descriptions.values())) == 1
    description = descriptions[tags[0]] if same else " ".join(f"{tag}: {text}" for tag, text in descriptions.items())
    chosen = getattr(default, name, default_tag(field) or "required")
    return Knob(f"{path}.{name}", " | ".join(tags), str(chosen), "", description, condition)


def _default(field: FieldInfo) -> object:
    return ... if field.is_required() else field.get_default(call_default_factory=True)


def _yaml_line(value: object) -> str:
    """A default as one line of YAML."""
    if value is ...:
        return "required"
    plain = value.value if isinstance(value, Enum) else str(value) if isinstance(value, Path) else value
    if isinstance(plain, tuple | list):
        return "[" + ", ".join(_yaml_line(item) for item in plain) + "]"
    return render(plain).removesuffix("...\n").strip()


def _type(annotation: object) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type(arguments[0])
    if origin in (Union, types.UnionType):
        return " | ".join(_type(part) for part in arguments)
    if origin is Literal:
        return " | ".join(str(word) for word in arguments)
    if origin in (tuple, list) and (origin is list or arguments[-1] is ...):
        return f"list of {_type(arguments[0])}"
    if origin is tuple:
        return "[" + ", ".join(_type(part) for part in arguments) + "]"
    if origin is dict:
        return f"{_type(arguments[0])}: {_type(arguments[1])}"
    name = getattr(annotation, "__name__", str(annotation))
    return TYPE_NAMES.get(annotation, name) if isinstance(annotation, type) else name


def _bound(field: FieldInfo) -> str:
    limits = []
    for limit in field.metadata:
        match limit:
            case annotated_types.Ge(ge=bound):
                limits.append(f"≥ {bound}")
            case annotated_types.Gt(gt=bound):
                limits.append(f"> {bound}")
            case annotated_types.Le(le=bound):
                limits.append(f"≤ {bound}")
            case annotated_types.Lt(lt=bound):
                limits.append(f"< {bound}")
            case annotated_types.MinLen(min_length=bound):
                limits.append(f"length ≥ {bound}")
            case annotated_types.MaxLen(max_length=bound):
                limits.append(f"length ≤ {bound}")
    return ", ".join(limits)
