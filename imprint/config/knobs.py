"""Every knob of a recipe as a row, for the help and the docs."""

import types
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated, Literal, Union, get_args, get_origin

import annotated_types
from pydantic.fields import FieldInfo

from imprint.config.section import Section, default_tag, sections, tags
from imprint.config.syntax import render

NAMES = {bool: "true | false", int: "integer", float: "number", str: "text", Path: "path", type(None): "null"}


@dataclass(frozen=True)
class Knob:
    """One row of the table of knobs."""

    path: str
    """Dotted place in the recipe."""
    type: str
    """What it holds, in words; "section" for a group of knobs."""
    default: str
    """The value it has when the recipe does not say, as YAML; "required" where there is none; empty for a section."""
    bound: str
    """The limits of the value, empty where there are none."""
    sentence: str
    """What it does."""
    when: str = ""
    """The choice under which it is there at all, like "tune.method = prefix"; empty for always."""


def describe(schema: type[Section]) -> list[Knob]:
    """One row for each knob of `schema`, sections before what is in them."""
    return list(_rows(schema, None, "", ""))


def _rows(schema: type[Section], instance: object, prefix: str, when: str) -> Iterator[Knob]:
    """The rows of `schema`; `instance` gives the defaults where the section itself is the default of a field."""
    for name, field in schema.model_fields.items():
        path = f"{prefix}{name}"
        inside = sections(field.annotation)
        default = getattr(instance, name) if isinstance(instance, schema) else _default(field)
        if not inside:
            yield Knob(path, _type(field.annotation), _shown(default), _bound(field), field.description or "", when)
            continue
        yield Knob(path, "section", "null" if default is None else "", "", field.description or "", when)
        if field.discriminator is not None:
            yield _choice(field, default, path, when)
        rows: list[Knob] = []
        for section in inside:
            condition = f"{path}.{field.discriminator} = {tags(section)[0]}" if field.discriminator is not None else when
            rows += (row for row in _rows(section, default, f"{path}.", condition) if row.path != f"{path}.{field.discriminator}")
        # Sections within it come last: what stands behind them would be taken for theirs.
        yield from sorted(rows, key=lambda row: row.type == "section" or row.path.count(".") > path.count(".") + 1)


def _choice(field: FieldInfo, default: object, path: str, when: str) -> Knob:
    """The row of the word that chooses among the sections of a tagged union."""
    name = str(field.discriminator)
    said = {tags(section)[0]: section.model_fields[name].description or "" for section in sections(field.annotation)}
    words = list(said)
    sentence = said[words[0]] if len(set(said.values())) == 1 else " ".join(f"{word}: {text}" for word, text in said.items())
    chosen = getattr(default, name, default_tag(field) or "required")
    return Knob(f"{path}.{name}", " | ".join(words), str(chosen), "", sentence, when)


def _default(field: FieldInfo) -> object:
    return ... if field.is_required() else field.get_default(call_default_factory=True)


def _shown(value: object) -> str:
    """A default as one line of YAML."""
    if value is ...:
        return "required"
    plain = value.value if isinstance(value, Enum) else str(value) if isinstance(value, Path) else value
    if isinstance(plain, tuple | list):
        return "[" + ", ".join(_shown(item) for item in plain) + "]"
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
    return NAMES.get(annotation, name) if isinstance(annotation, type) else name


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
