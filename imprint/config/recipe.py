"""Reads a recipe file and its overrides and validates them against the caller's section."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from imprint.config.problems import Problem, explain_errors, quote_value
from imprint.config.section import Section, default_tag
from imprint.config.syntax import parse, parse_scalar, render
from imprint.errors import UserError

S = TypeVar("S", bound=Section)


def read_recipe(path: Path, overrides: Sequence[str], schema: type[S]) -> S:
    """The recipe at `path` with each `a.b=c` of `overrides` applied; the last one wins.

    Raises UserError with one line for each problem: the file or the override, the dotted path, what was found, what is allowed.
    """
    values = parse(_read(path), str(path))
    if not isinstance(values, dict | None):
        raise UserError(f"{path}: must hold `key: value` lines, got {quote_value(values)}")
    return _validate(values or {}, overrides, schema, str(path))


def read_overrides(overrides: Sequence[str], schema: type[S]) -> S:
    """The section that `a=b` overrides make without a recipe file; problems are reported as by `read_recipe`."""
    return _validate({}, overrides, schema, "")


def _validate(values: dict[str, Any], overrides: Sequence[str], schema: type[S], source: str) -> S:
    for override in overrides:
        _apply(values, override)
    _fill_default_tags(values, schema)
    try:
        # From JSON, strict pydantic accepts lists for tuples and text for paths, but still no text for numbers.
        text = json.dumps(values)
    except (ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{source or 'overrides'}: cannot be a recipe: a value holds itself, or is nested too deeply.") from error
    try:
        return schema.model_validate_json(text)
    except ValidationError as error:
        problems = explain_errors(error.errors(include_url=False), schema)
    raise UserError("\n".join(f"{_origin(problem, source, overrides)}: {problem.text}" for problem in problems))


def dump(section: Section) -> str:
    """`section` as a YAML recipe with every knob; `read_recipe` reads it back equal."""
    return render(section.model_dump(mode="json"))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such recipe. Check the path; recipes end in .yaml.") from None
    except IsADirectoryError:
        raise UserError(f"{path}: this is a folder. Give a recipe, a file that ends in .yaml.") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: this is not UTF-8 text. Save the recipe as UTF-8, then run again.") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}. Check the path; recipes end in .yaml.") from error


def _apply(values: dict[str, Any], override: str) -> None:
    dotted, equals, text = override.partition("=")
    *parents, last = dotted.split(".")
    if not equals and "＝" in override:
        raise UserError(f"override {override}: has a full-width ＝. Type =, as in train.steps=200 / 等号是全角的：请改用半角 =")
    if not equals or not all((*parents, last)):
        raise UserError(f"override {override}: must look like section.key=value, for instance train.steps=200")
    for parent in parents:
        if values.get(parent) is None:
            values[parent] = {}
        values = values[parent]
        if not isinstance(values, dict):
            raise UserError(f"override {override}: {parent} holds {quote_value(values)}, not a section; set it as a whole: {parent}=...")
    values[last] = parse_scalar(text, f"override {override if len(override) <= 80 else override[:80] + '...'}")


def _fill_default_tags(values: dict[str, Any], schema: type[Section]) -> None:
    """Add the default tag to each tagged union whose values name no tag."""
    for name, field in schema.model_fields.items():
        value, tag = values.get(name), default_tag(field)
        if isinstance(value, dict) and tag is not None:
            values[name] = {str(field.discriminator): tag} | value


def _origin(problem: Problem, source: str, overrides: Sequence[str]) -> str:
    """The override that set the value, else the file; with the path unless the override names it."""
    for override in reversed(overrides):
        dotted = override.partition("=")[0]
        if problem.path == dotted:
            return f"override {override}"
        if problem.path.startswith((f"{dotted}.", f"{dotted}[")):
            return f"override {override}: {problem.path}"
    return ": ".join(part for part in (source, problem.path) if part)
