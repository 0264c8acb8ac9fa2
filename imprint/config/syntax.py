"""YAML as people expect it: `1e-3` is a number, `yes` and `2024-01-01` are text, a key that is there twice is an error."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import yaml

from imprint.errors import UserError

DIGITS = tuple("-+0123456789")
# YAML 1.2's core schema; PyYAML's own rules are those of 1.1, which read `1e-3` as text, `no` as false and 1:30 as 90.
SCALARS = (
    ("bool", r"true|True|false|False", tuple("tTfF")),
    ("int", r"[-+]?[0-9]+", DIGITS),
    ("float", r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf)|\.(?:nan|NaN)", (*DIGITS, ".")),
    ("null", r"~|null|Null|", ("~", "n", "N", "")),
)
KINDS = ("null", "bool", "int", "float", "str", "seq", "map")
Rules = dict[str, list[tuple[str, re.Pattern[str]]]]


def _resolvers(base: Rules) -> Rules:
    """The rules of `base` with ours after them: for the first letter of a scalar, what it may be and how that looks."""
    table = {first: list(rules) for first, rules in base.items()}
    for tag, pattern, firsts in SCALARS:
        for first in firsts:
            table.setdefault(first, []).append((f"tag:yaml.org,2002:{tag}", re.compile(f"(?:{pattern})$")))
    return table


class Loader(yaml.SafeLoader):
    """PyYAML's safe loader with the rules above."""

    yaml_implicit_resolvers = _resolvers({})

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        """Read decimal digits as they stand: PyYAML would take 010 for eight."""
        return int(str(self.construct_scalar(node)))

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002
        """Refuse a key that is there twice, where PyYAML would silently keep the last."""
        seen = set()
        for key in [key for key, _value in node.value if isinstance(key, yaml.ScalarNode)] if isinstance(node, yaml.MappingNode) else ():
            if key.value in seen:
                raise yaml.constructor.ConstructorError(problem=f"the key {key.value!r} is there twice", problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)

    # Only what JSON has too: no !!binary, !!set or !!timestamp.
    yaml_constructors = {  # noqa: RUF012
        **{tag: make for tag, make in yaml.SafeLoader.yaml_constructors.items() if tag is None or tag.rpartition(":")[2] in KINDS},
        "tag:yaml.org,2002:int": construct_yaml_int,
    }


class Dumper(yaml.SafeDumper):
    """PyYAML's safe dumper that quotes whatever either set of rules would take for something else than text."""

    yaml_implicit_resolvers = _resolvers(yaml.SafeDumper.yaml_implicit_resolvers)


def parse(text: str, place: str) -> Any:
    """The value of a YAML text; UserError with line and column where it is not YAML."""
    with _sentences(place):
        return yaml.load(text, Loader)


def parse_scalar(text: str, place: str) -> Any:
    """The value of one override: a list, a mapping or a quoted text as in YAML, anything else up to its end as one scalar."""
    if text.startswith(("[", "{", '"', "'")):
        return parse(text, place)
    loader = Loader("")
    try:
        with _sentences(place):
            tag = loader.resolve(yaml.ScalarNode, text, (True, False))  # type: ignore[no-untyped-call]
            return loader.construct_object(yaml.ScalarNode(tag, text))
    finally:
        loader.dispose()


@contextmanager
def _sentences(place: str) -> Iterator[None]:
    """Turn what PyYAML raises into a UserError with line and column, where it knows them."""
    try:
        yield
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"{place}:{mark.line + 1}:{mark.column + 1}" if mark else place
        raise UserError(f"{where}: this is not valid YAML: {error.problem}.") from error
    except RecursionError:
        raise UserError(f"{place}: this is nested too deeply for a recipe.") from None
    except (yaml.YAMLError, ValueError, LookupError) as error:
        raise UserError(f"{place}: this is not valid YAML: {error}.") from error


def render(value: object) -> str:
    """`value` as YAML that `parse` reads back as it was, keys in their order."""
    return yaml.dump(value, Dumper=Dumper, allow_unicode=True, sort_keys=False, width=120)
