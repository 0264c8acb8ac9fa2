"""What pydantic found wrong with a recipe, as lines for the person who wrote it."""

import difflib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from pydantic_core import ErrorDetails

from imprint.config.knobs import describe
from imprint.config.section import Section, choices, sections, tags

NEEDS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
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
    """Dotted place in the recipe, list items as [0]."""
    text: str
    """What is wrong there."""


def problems(errors: Sequence[ErrorDetails], schema: type[Section]) -> list[Problem]:
    """One problem per place; where a place could hold several types, they are joined by "or"."""
    needs: dict[tuple[str, str], list[str]] = {}
    found: list[Problem | tuple[str, str]] = []
    for error in errors:
        path, home, here = _locate(schema, error["loc"])
        need = _need(error)
        if need is None:
            found.append(_special(error, path, home, here, schema))
        else:
            place = (path, show(error["input"]))
            if place not in needs:
                found.append(place)
            needs.setdefault(place, []).append(need)
    return [_joined(item, needs[item]) if isinstance(item, tuple) else item for item in found]


def show(value: object) -> str:
    """`value` as it may stand in a sentence: text in quotes, cut when long."""
    if value is None:
        return "null"
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def unknown(name: str, names: Sequence[str], elsewhere: Sequence[str] = ()) -> str:
    """What to say about a key that is not among the known `names`; `elsewhere` are the places where it is one."""
    near = elsewhere or difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    return f"is unknown; {hint}allowed here: {', '.join(names)}"


def _joined(place: tuple[str, str], needs: Sequence[str]) -> Problem:
    path, value = place
    return Problem(path, f"must be {' or '.join(needs)}, got {value}")


def _need(error: ErrorDetails) -> str | None:
    """What the place asks for, where that can be said as "must be ..."."""
    context = error.get("ctx", {})
    if error["type"] == "literal_error":
        words = context["expected"].replace("'", "").replace(" or ", ", ")
        return f"one of {words}" if "," in words else str(words)
    need = NEEDS.get(error["type"])
    return need(context) if need else None


def _special(error: ErrorDetails, path: str, home: type[Section], here: object, schema: type[Section]) -> Problem:
    """The problems that are about a key, about the word that chooses a section, or told by a section's own validator."""
    kind, context, key = error["type"], error.get("ctx", {}), path.rpartition(".")[2]
    if kind == "missing":
        field = home.model_fields.get(key)
        return Problem(path, f"is missing: {field.description}" if field and field.description else "is missing")
    if kind == "extra_forbidden":
        knobs = describe(schema)
        choice = " or ".join(knob.when.replace(" = ", "=") for knob in knobs if knob.path == path and knob.when)
        if choice:
            return Problem(path, f"is there with {choice} only; allowed here: {', '.join(home.model_fields)}")
        elsewhere = [knob.path for knob in knobs if knob.path.endswith(f".{key}") and knob.path != path]
        return Problem(path, unknown(key, list(home.model_fields), elsewhere))
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        tag, words = context["discriminator"].strip("'"), context.get("expected_tags", "").replace("'", "")
        if kind == "union_tag_not_found":
            known = ", ".join(word for option in sections(here) for word in tags(option)[:1])
            return Problem(f"{path}.{tag}", f"is missing: it chooses what the section is about, one of {known}")
        return Problem(f"{path}.{tag}", f"must be one of {words}, got {show(context['tag'])}")
    if kind == "json_invalid":  # what is checked was made of values, so it can be too deep and nothing else
        return Problem(path, "is nested too deeply for a recipe")
    if kind == "value_error":
        return Problem(path, str(context["error"]))
    return Problem(path, f"{error['msg']}, got {show(error['input'])}")


def _locate(schema: type[Section], loc: Sequence[int | str]) -> tuple[str, type[Section], object]:
    """The dotted path of pydantic's `loc`, which also names the alternatives tried, the section that its last key is in, and its type."""
    path, home = "", schema
    here: object = schema
    for part in loc:
        options = choices(here)
        if len(options) > 1:
            here = next((option for option in options if _is_called(option, str(part))), None)
        elif isinstance(part, int):
            path += f"[{part}]"
            here = next(iter(get_args(options[0])), None) if options else None
        else:
            path += f".{part}" if path else part
            inside = sections(here)
            home = inside[0] if inside else home
            field = home.model_fields.get(part) if inside else None
            here = field.annotation if field else None
    return path, home, here


def _is_called(option: object, part: str) -> bool:
    """Whether pydantic calls this alternative of a union `part`: by its tag, or by its type's name."""
    return part in tags(option) if sections(option) and tags(option) else getattr(option, "__name__", "") == part
