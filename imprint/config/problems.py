"""Translates pydantic's validation errors into messages for the person who wrote the recipe."""

import difflib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from pydantic_core import ErrorDetails

from imprint.config.knobs import describe
from imprint.config.section import Section, section_types, union_members, union_tags

REQUIREMENTS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "bool_type": lambda _: "true or false",
    "int_type": lambda _: "an integer",
    "int_from_float": lambda _: "an integer",
    "float_type": lambda _: "a number",
    "finite_number": lambda _: "a finite number",
    "string_type": lambda _: "text",
    "path_type": lambda _: "a path",
    "list_type": lambda _: "a list",
    "tuple_type": lambda _: "a list",
    "dict_type": lambda _: "a section with keys of its own",
    "model_type": lambda _: "a section with keys of its own",
    "none_required": lambda _: "null",
    "greater_than": lambda limits: f"above {limits['gt']:g}",
    "greater_than_equal": lambda limits: f"at least {limits['ge']:g}",
    "less_than": lambda limits: f"below {limits['lt']:g}",
    "less_than_equal": lambda limits: f"at most {limits['le']:g}",
    "multiple_of": lambda limits: f"a multiple of {limits['multiple_of']:g}",
    "string_too_short": lambda limits: f"at least {limits['min_length']} characters long",
    "string_too_long": lambda limits: f"at most {limits['max_length']} characters long",
    "too_short": lambda limits: f"at least {limits['min_length']} long",
    "too_long": lambda limits: f"at most {limits['max_length']} long",
}


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a recipe."""

    path: str
    """Dotted path in the recipe, list items as [0]."""
    text: str
    """What is wrong there."""


def explain_errors(errors: Sequence[ErrorDetails], schema: type[Section]) -> list[Problem]:
    """One problem for each path; if a value may have several types, they are joined by "or"."""
    requirements: dict[tuple[str, str], list[str]] = {}
    problems: list[Problem | tuple[str, str]] = []
    for error in errors:
        path, section, annotation = _locate(schema, error["loc"])
        requirement = _requirement(error)
        if requirement is None:
            problems.append(_other_problem(error, path, section, annotation, schema))
        else:
            key = (path, quote_value(error["input"]))
            if key not in requirements:
                problems.append(key)
            requirements.setdefault(key, []).append(requirement)
    return [_joined(item, requirements[item]) if isinstance(item, tuple) else item for item in problems]


def quote_value(value: object) -> str:
    """`value` as it is quoted in a message: JSON, at most 60 characters."""
    if value is None:
        return "null"
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def unknown_key(name: str, names: Sequence[str], elsewhere: Sequence[str] = ()) -> str:
    """The message about a key that is not among `names`; `elsewhere` are the paths where such a key exists."""
    near = elsewhere or difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    return f"is unknown; {hint}allowed here: {', '.join(names)}"


def _joined(key: tuple[str, str], requirements: Sequence[str]) -> Problem:
    path, value = key
    return Problem(path, f"must be {' or '.join(requirements)}, got {value}")


def _requirement(error: ErrorDetails) -> str | None:
    """What the value must be, if that can be said as "must be ..."; else None."""
    context = error.get("ctx", {})
    if error["type"] == "literal_error":
        words = context["expected"].replace("'", "").replace(" or ", ", ")
        return f"one of {words}" if "," in words else str(words)
    requirement = REQUIREMENTS.get(error["type"])
    return requirement(context) if requirement else None


def _other_problem(error: ErrorDetails, path: str, section: type[Section], annotation: object, schema: type[Section]) -> Problem:
    """A problem with a key, with the tag of a union, or from a section's own validator."""
    kind, context, key = error["type"], error.get("ctx", {}), path.rpartition(".")[2]
    if kind == "missing":
        field = section.model_fields.get(key)
        return Problem(path, f"is missing: {field.description}" if field and field.description else "is missing")
    if kind == "extra_forbidden":
        knobs = describe(schema)
        choice = " or ".join(knob.condition.replace(" = ", "=") for knob in knobs if knob.path == path and knob.condition)
        if choice:
            return Problem(path, f"is there with {choice} only; allowed here: {', '.join(section.model_fields)}")
        elsewhere = [knob.path for knob in knobs if knob.path.endswith(f".{key}") and knob.path != path]
        return Problem(path, unknown_key(key, list(section.model_fields), elsewhere))
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        tag, words = context["discriminator"].strip("'"), context.get("expected_tags", "").replace("'", "")
        if kind == "union_tag_not_found":
            known = ", ".join(word for option in section_types(annotation) for word in union_tags(option)[:1])
            return Problem(f"{path}.{tag}", f"is missing: it chooses what the section is about, one of {known}")
        return Problem(f"{path}.{tag}", f"must be one of {words}, got {quote_value(context['tag'])}")
    if kind == "json_invalid":  # the JSON was made from parsed values, so too deep is the only possible problem
        return Problem(path, "is nested too deeply for a recipe")
    if kind == "value_error":
        return Problem(path, str(context["error"]))
    return Problem(path, f"{error['msg']}, got {quote_value(error['input'])}")


def _locate(schema: type[Section], loc: Sequence[int | str]) -> tuple[str, type[Section], object]:
    """Pydantic's `loc`, which also names union members, as a dotted path; the section of its last key, and the key's annotation."""
    path, section = "", schema
    annotation: object = schema
    for part in loc:
        members = union_members(annotation)
        if len(members) > 1:
            annotation = next((member for member in members if _is_named(member, str(part))), None)
        elif isinstance(part, int):
            path += f"[{part}]"
            annotation = next(iter(get_args(members[0])), None) if members else None
        else:
            path += f".{part}" if path else part
            types = section_types(annotation)
            section = types[0] if types else section
            field = section.model_fields.get(part) if types else None
            annotation = field.annotation if field else None
    return path, section, annotation


def _is_named(member: object, name: str) -> bool:
    """Whether pydantic's `loc` calls this member of a union `name`: by its tag, or by its type's name."""
    return name in union_tags(member) if section_types(member) and union_tags(member) else getattr(member, "__name__", "") == name
