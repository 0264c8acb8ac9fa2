"""Reads a recipe file and its overrides and validates them against the caller's section."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import ValidationError

from imprint.config.problems import Problem, explain_errors, quote_value
from imprint.config.section import Section, default_tag, replaced_knob, section_types
from imprint.config.syntax import parse, parse_scalar, render
from imprint.files.reading import read_text
from imprint.messages import Bilingual, UserError, join_lines

S = TypeVar("S", bound=Section)
ROW_SUFFIXES: Final = (".jsonl", ".ndjson", ".csv", ".tsv", ".xlsx", ".xls", ".parquet", ".arrow")
"""Endings of files of rows, which no recipe has: all but .json, since a recipe may be JSON."""


def read_recipe(path: Path, overrides: Sequence[str], schema: type[S]) -> S:
    """The recipe at `path` with each `a.b=c` of `overrides` applied; the last one wins.

    Raises UserError with one line for each problem: the file or the override, the dotted path, what was found, what is allowed.
    """
    if path.suffix.lower() in ROW_SUFFIXES and path.is_file():
        raise UserError(
            Bilingual(
                f"{path}: is a file of rows, not a recipe. Give it behind a recipe as data.train={path}; `imprint init` lists recipes to "
                "start from.",
                f"{path}：这是数据文件，不是配方。请写在配方之后：data.train={path}；用 imprint init 查看可起步的配方。",
            )
        )
    values = parse(recipe_text(path), str(path))
    if not isinstance(values, dict | None):
        found = quote_value(values)
        raise UserError(
            Bilingual(f"{path}: must hold `key: value` lines, got {found}", f"{path}：应由 `key: value` 行组成，实际是 {found}")
        )
    return _validate(values or {}, overrides, schema, str(path))


def read_overrides(overrides: Sequence[str], schema: type[S]) -> S:
    """The section that `a=b` overrides make without a recipe file; problems are reported as by `read_recipe`."""
    return _validate({}, overrides, schema, "")


def _validate(values: dict[str, Any], overrides: Sequence[str], schema: type[S], source: str) -> S:
    _fill_default_tags(values, schema)
    before = {name: value.copy() for name, value in values.items() if isinstance(value, dict)}
    for override in overrides:
        _apply(values, override)
    _replace_knobs(values, overrides, schema)
    _fill_default_tags(values, schema)
    try:
        # From JSON, strict pydantic accepts lists for tuples and text for paths, but still no text for numbers.
        text = json.dumps(values)
    except (ValueError, TypeError, RecursionError) as error:
        name = source or "overrides"
        raise UserError(
            Bilingual(
                f"{name}: cannot be a recipe: a value contains itself, or is nested too deeply.",
                f"{name}：不能作为配方：有的值包含自身，或嵌套过深。",
            )
        ) from error
    try:
        return schema.model_validate_json(text)
    except ValidationError as error:
        problems = explain_errors(error.errors(include_url=False), schema)
    problems = _changed_tags(values, before, problems, schema)
    located = [(_origin(problem, source, overrides), problem.text) for problem in problems]
    raise UserError(join_lines([Bilingual(f"{origin}: {text.english}", f"{origin}：{text.chinese}") for origin, text in located]))


def dump(section: Section) -> str:
    """`section` as a YAML recipe with every knob; `read_recipe` reads it back equal."""
    return render(section.model_dump(mode="json"))


def recipe_text(path: Path) -> str:
    """The text of a recipe. Raises UserError for what cannot be read, is no text, or is larger than any recipe."""
    try:
        return read_text(path, "utf-8-sig")
    except FileNotFoundError:
        raise UserError(
            Bilingual(
                f"{path}: there is no such recipe. Check the path; recipes end in .yaml.",
                f"{path}：没有这个配方。请检查路径；配方以 .yaml 结尾。",
            )
        ) from None
    except IsADirectoryError:
        raise UserError(
            Bilingual(
                f"{path}: this is a folder. Give a recipe, a file that ends in .yaml.",
                f"{path}：这是一个目录。请给出以 .yaml 结尾的配方文件。",
            )
        ) from None
    except UnicodeDecodeError:
        raise UserError(
            Bilingual(
                f"{path}: this is not UTF-8 text. Save the recipe as UTF-8, then run again.",
                f"{path}：不是 UTF-8 文本。请把配方存为 UTF-8 后重试。",
            )
        ) from None
    except OSError as error:
        raise UserError(
            Bilingual(
                f"{path}: cannot be read: {error.strerror}. Check the path; recipes end in .yaml.",
                f"{path}：无法读取：{error.strerror}。请检查路径；配方以 .yaml 结尾。",
            )
        ) from error


def _apply(values: dict[str, Any], override: str) -> None:
    dotted, equals, text = override.partition("=")
    *parents, last = dotted.split(".")
    if not equals and "＝" in override:
        raise UserError(
            Bilingual(
                f"override {override}: has a full-width ＝. Type =, as in train.steps=200",
                f"{override}：等号是全角的，请改用半角 =，例如 train.steps=200",
            )
        )
    if not equals or not all((*parents, last)):
        raise UserError(
            Bilingual(
                f"override {override}: must look like section.key=value, for instance train.steps=200",
                f"{override}：应写成 section.key=value，例如 train.steps=200",
            )
        )
    for parent in parents:
        if values.get(parent) is None:
            values[parent] = {}
        values = values[parent]
        if not isinstance(values, dict):
            raise UserError(
                Bilingual(
                    f"override {override}: {parent} holds {quote_value(values)}, not a section; set it as a whole: {parent}=...",
                    f"{override}：{parent} 的值是 {quote_value(values)}，不是小节；请整体设置：{parent}=...",
                )
            )
    values[last] = parse_scalar(text, f"override {override if len(override) <= 80 else override[:80] + '...'}")


def _fill_default_tags(values: dict[str, Any], schema: type[Section]) -> None:
    """Add the default tag to each tagged union whose values name no tag."""
    for name, field in schema.model_fields.items():
        value, tag = values.get(name), default_tag(field)
        if isinstance(value, dict) and tag is not None:
            values[name] = {str(field.discriminator): tag} | value


def _replace_knobs(values: dict[str, Any], overrides: Sequence[str], schema: type[Section], prefix: str = "") -> None:
    """Make null what an override counts instead of: `train.epochs=1` a recipe's `train.steps`.

    Raises UserError where both are overrides.
    """
    given = {name: override for override in overrides for name in [override.partition("=")[0]]}
    for name, field in schema.model_fields.items():
        inner, other = values.get(name), replaced_knob(field)
        if isinstance(inner, dict):
            for section in section_types(field.annotation):
                _replace_knobs(inner, overrides, section, f"{prefix}{name}.")
        path, replaced = f"{prefix}{name}", f"{prefix}{other}"
        if other is None or path not in given or inner is None or values.get(other) is None:
            continue
        if replaced in given:
            raise UserError(
                Bilingual(
                    f"override {given[path]}: {given[replaced]} is given too, and only one of them can count. Leave one out.",
                    f"override {given[path]}：同时给出了 {given[replaced]}，两者只能取一个，请去掉其一。",
                )
            )
        values[other] = None


def _changed_tags(
    values: Mapping[str, Any], before: Mapping[str, Mapping[str, Any]], problems: Sequence[Problem], schema: type[Section]
) -> list[Problem]:
    """The problems, where an override chose another kind of section, such as `tune.method=lora`, after the knobs of the recipe's kind.

    What to do comes first, and stands for the problems with the recipe's knobs of that section.
    """
    hints, rest = [], list(problems)
    for name, field in schema.model_fields.items():
        tag, now = str(field.discriminator), values.get(name)
        if field.discriminator is None or not isinstance(now, dict) or not any(one.path.startswith(f"{name}.") for one in problems):
            continue
        recipe = before.get(name, {})
        old, new = recipe.get(tag), now.get(tag)
        if old is None or new is None or old == new or any(one.path == f"{name}.{tag}" for one in problems):
            continue
        kept = {f"{name}.{key}" for key, value in recipe.items() if key != tag and now.get(key) is value}
        rest = [one for one in rest if one.path not in kept]
        hints.append(
            Problem(
                name,
                Bilingual(
                    f"the recipe's knobs here are for {tag}={old}. To replace them all: '{name}={{{tag}: {new}}}'",
                    f"配方中本节的选项属于 {tag}={old}；要整节替换，请写 '{name}={{{tag}: {new}}}'",
                ),
            )
        )
    return [*hints, *rest]


def _origin(problem: Problem, source: str, overrides: Sequence[str]) -> str:
    """The override that set the value, else the file; with the path unless the override names it."""
    for override in reversed(overrides):
        dotted = override.partition("=")[0]
        if problem.path == dotted:
            return f"override {override}"
        if problem.path.startswith((f"{dotted}.", f"{dotted}[")):
            return f"override {override}: {problem.path}"
    return ": ".join(part for part in (source, problem.path) if part)
