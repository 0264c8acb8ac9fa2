"""Translates pydantic's validation errors into messages for the person who wrote the recipe."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from pydantic_core import ErrorDetails

from imprint.config.knobs import describe
from imprint.config.section import Section, section_types, union_members, union_tags
from imprint.messages import Bilingual, closest, did_you_mean

MAX_EXPLAINED = 100
"""Maximum number of errors that are explained; the rest is counted."""
Context = Mapping[str, Any]
REQUIREMENTS: Mapping[str, Callable[[Context], Bilingual]] = {
    "bool_type": lambda _: Bilingual("true or false", "true 或 false"),
    "int_type": lambda _: Bilingual("an integer", "整数"),
    "int_from_float": lambda _: Bilingual("an integer", "整数"),
    "float_type": lambda _: Bilingual("a number", "数值"),
    "finite_number": lambda _: Bilingual("a finite number", "有限的数值"),
    "string_type": lambda _: Bilingual("text", "文本"),
    "path_type": lambda _: Bilingual("a path", "路径"),
    "list_type": lambda _: Bilingual("a list", "列表"),
    "tuple_type": lambda _: Bilingual("a list", "列表"),
    "dict_type": lambda _: Bilingual("a section with keys of its own", "含有若干键的小节"),
    "model_type": lambda _: Bilingual("a section with keys of its own", "含有若干键的小节"),
    "none_required": lambda _: Bilingual("null", "null"),
    "greater_than": lambda limits: Bilingual(f"above {limits['gt']:g}", f"大于 {limits['gt']:g}"),
    "greater_than_equal": lambda limits: Bilingual(f"at least {limits['ge']:g}", f"不小于 {limits['ge']:g}"),
    "less_than": lambda limits: Bilingual(f"below {limits['lt']:g}", f"小于 {limits['lt']:g}"),
    "less_than_equal": lambda limits: Bilingual(f"at most {limits['le']:g}", f"不大于 {limits['le']:g}"),
    "multiple_of": lambda limits: Bilingual(f"a multiple of {limits['multiple_of']:g}", f"{limits['multiple_of']:g} 的倍数"),
    "string_too_short": lambda limits: Bilingual(f"at least {limits['min_length']} characters long", f"至少 {limits['min_length']} 个字符"),
    "string_too_long": lambda limits: Bilingual(f"at most {limits['max_length']} characters long", f"至多 {limits['max_length']} 个字符"),
    "too_short": lambda limits: Bilingual(f"at least {limits['min_length']} long", f"至少 {limits['min_length']} 项"),
    "too_long": lambda limits: Bilingual(f"at most {limits['max_length']} long", f"至多 {limits['max_length']} 项"),
}


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a recipe."""

    path: str
    """Dotted path in the recipe, list items as [0]."""
    text: Bilingual
    """What is wrong there."""


def explain_errors(errors: Sequence[ErrorDetails], schema: type[Section]) -> list[Problem]:
    """One problem for each path; if a value may have several types, they are joined by "or"."""
    requirements: dict[tuple[str, str], list[Bilingual]] = {}
    problems: list[Problem | tuple[str, str]] = []
    for error in errors[:MAX_EXPLAINED]:
        path, section, annotation = _locate(schema, error["loc"])
        requirement = _requirement(error)
        if requirement is None:
            problems.append(_other_problem(error, path, section, annotation, schema))
        else:
            key = (path, quote_value(error["input"]))
            if key not in requirements:
                problems.append(key)
            requirements.setdefault(key, []).append(requirement)
    explained = [_joined(item, requirements[item]) if isinstance(item, tuple) else item for item in problems]
    more = len(errors) - MAX_EXPLAINED
    return [*explained, Problem("", Bilingual(f"and {more:,} more problems", f"另有 {more:,} 个问题"))] if more > 0 else explained


def quote_value(value: object) -> str:
    """`value` as it is quoted in a message: JSON, at most 60 characters."""
    if value is None:
        return "null"
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def unknown_key(name: str, names: Sequence[str], elsewhere: Sequence[str] = ()) -> Bilingual:
    """The message about a key that is not among `names`; `elsewhere` are the paths where such a key exists."""
    meant = did_you_mean(elsewhere or closest(name, names), clause=True)
    return Bilingual(f"is unknown; {meant.english}allowed here: {', '.join(names)}", f"不存在；{meant.chinese}此处可用：{'、'.join(names)}")


def _joined(key: tuple[str, str], requirements: Sequence[Bilingual]) -> Problem:
    path, value = key
    english = f"must be {' or '.join(one.english for one in requirements)}, got {value}"
    return Problem(path, Bilingual(english, f"要求：{'或'.join(one.chinese for one in requirements)}；实际是 {value}"))


def _requirement(error: ErrorDetails) -> Bilingual | None:
    """What the value must be, if that can be said as "must be ..."; else None."""
    context = error.get("ctx", {})
    if error["type"] == "literal_error":
        words = context["expected"].replace("'", "").replace(" or ", ", ")
        return Bilingual(f"one of {words}", f"{words} 之一") if "," in words else Bilingual(str(words), str(words))
    requirement = REQUIREMENTS.get(error["type"])
    return requirement(context) if requirement else None


def _other_problem(error: ErrorDetails, path: str, section: type[Section], annotation: object, schema: type[Section]) -> Problem:
    """A problem with a key, with the tag of a union, or from a section's own validator."""
    kind, context, key = error["type"], error.get("ctx", {}), path.rpartition(".")[2]
    if kind == "missing":
        field = section.model_fields.get(key)
        description = f": {field.description}" if field and field.description else ""
        return Problem(path, Bilingual(f"is missing{description}", "缺少这一项"))
    if kind == "extra_forbidden":
        return Problem(path, _extra_key(path, section, schema))
    if kind == "union_tag_not_found":
        known = ", ".join(word for option in section_types(annotation) for word in union_tags(option)[:1])
        text = Bilingual(
            f"is missing: it chooses what the section is about, one of {known}", f"缺少这一项：它决定本节的内容，取 {known} 之一"
        )
        return Problem(f"{path}.{_tag(context)}", text)
    if kind == "union_tag_invalid":
        words, found = context["expected_tags"].replace("'", ""), quote_value(context["tag"])
        text = Bilingual(f"must be one of {words}, got {found}", f"必须是 {words} 之一，实际是 {found}")
        return Problem(f"{path}.{_tag(context)}", text)
    if kind == "json_invalid":  # the JSON was made from parsed values, so too deep is the only possible problem
        return Problem(path, Bilingual("is nested too deeply for a recipe", "嵌套过深，不能作为配方"))
    if kind == "value_error":
        message = context["error"].args[0]
        return Problem(path, message if isinstance(message, Bilingual) else Bilingual(str(message), "取值有误，见上"))
    found = quote_value(error["input"])
    return Problem(path, Bilingual(f"{error['msg']}, got {found}", f"取值有误，实际是 {found}"))


def _extra_key(path: str, section: type[Section], schema: type[Section]) -> Bilingual:
    """The message about a key that its section does not have."""
    knobs, key = describe(schema), path.rpartition(".")[2]
    choice = " or ".join(knob.condition.replace(" = ", "=") for knob in knobs if knob.path == path and knob.condition)
    if choice:
        names = list(section.model_fields)
        return Bilingual(
            f"exists only with {choice}; allowed here: {', '.join(names)}", f"仅在 {choice} 时可用；此处可用：{'、'.join(names)}"
        )
    return unknown_key(
        key, list(section.model_fields), [knob.path for knob in knobs if knob.path.endswith(f".{key}") and knob.path != path]
    )


def _tag(context: Context) -> str:
    return str(context["discriminator"]).strip("'")


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
