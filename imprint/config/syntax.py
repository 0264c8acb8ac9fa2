"""YAML 1.2 scalars: `1e-3` is a number, `yes` and `2024-01-01` are text; a duplicate key is an error."""

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import chain
from typing import Any, Final

import yaml

from imprint.messages import Bilingual, UserError

MAX_CHARACTERS: Final = 200_000
"""Maximum characters of a YAML text."""
MAX_NODES: Final = 100_000
"""Maximum values of a YAML text with its aliases written out; a long text counts as several."""
CHARACTERS_A_NODE: Final = 100
MAX_DIGITS: Final = 100
"""Maximum digits of an integer."""
MERGE: Final = "tag:yaml.org,2002:merge"
DIGITS = tuple("-+0123456789")
# YAML 1.2's core schema. PyYAML follows 1.1, which reads `1e-3` as text, `no` as false and 1:30 as 90.
SCALARS = (
    ("bool", r"true|True|false|False", tuple("tTfF")),
    ("int", r"[-+]?[0-9]+", DIGITS),
    ("float", r"[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf)|\.(?:nan|NaN)", (*DIGITS, ".")),
    ("null", r"~|null|Null|", ("~", "n", "N", "")),
)
KINDS = ("null", "bool", "int", "float", "str", "seq", "map")
Rules = dict[str, list[tuple[str, re.Pattern[str]]]]


def _resolvers(base: Rules) -> Rules:
    """The resolvers of `base` with ours after them: first character of a scalar -> (tag, pattern) pairs."""
    table = {first: list(rules) for first, rules in base.items()}
    for tag, pattern, firsts in SCALARS:
        for first in firsts:
            table.setdefault(first, []).append((f"tag:yaml.org,2002:{tag}", re.compile(f"(?:{pattern})$")))
    return table


class Loader(yaml.SafeLoader):
    """PyYAML's safe loader with the resolvers above."""

    yaml_implicit_resolvers = _resolvers({})

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        """Read decimal digits: PyYAML would read 010 as octal."""
        digits = str(self.construct_scalar(node))
        if len(digits) > MAX_DIGITS:
            problem = f"a number of {len(digits):,} digits, more than {MAX_DIGITS}"
            raise yaml.constructor.ConstructorError(problem=problem, problem_mark=node.start_mark)
        return int(digits)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002
        """Refuse a duplicate key, of which PyYAML would silently keep the last."""
        seen = set()
        for key in [key for key, _value in node.value if isinstance(key, yaml.ScalarNode)] if isinstance(node, yaml.MappingNode) else ():
            if key.value in seen:
                raise yaml.constructor.ConstructorError(problem=f"the key {key.value!r} occurs twice", problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Refuse a merge that its tag asks for: merges of merges multiply before anything is counted."""
        for key, _value in node.value:
            if key.tag == MERGE:
                raise yaml.constructor.ConstructorError(problem="merges are not part of YAML 1.2", problem_mark=key.start_mark)

    # Only the types that JSON has: no !!binary, !!set or !!timestamp.
    yaml_constructors = {  # noqa: RUF012
        **{tag: make for tag, make in yaml.SafeLoader.yaml_constructors.items() if tag is None or tag.rpartition(":")[2] in KINDS},
        "tag:yaml.org,2002:int": construct_yaml_int,
    }


class Dumper(yaml.SafeDumper):
    """PyYAML's safe dumper; quotes text that YAML 1.1 or 1.2 would read as another type."""

    yaml_implicit_resolvers = _resolvers(yaml.SafeDumper.yaml_implicit_resolvers)


def parse(text: str, source: str) -> Any:
    """The value of a YAML text; `source` names it in the UserError for invalid YAML, which gives line and column."""
    if len(text) > MAX_CHARACTERS:
        raise UserError(
            Bilingual(
                f"{source}: has {len(text):,} characters, more than {MAX_CHARACTERS:,}, which no recipe has. Is it another file?",
                f"{source}：有 {len(text):,} 个字符，超过 {MAX_CHARACTERS:,} 个，配方不会这么长：请检查是否给错了文件。",
            )
        )
    with _translate_yaml_errors(source):
        value = yaml.load(text, Loader)
        _refuse_many_nodes(value, source)
    return value


def parse_scalar(text: str, source: str) -> Any:
    """The value of one override: a list, mapping or quoted text as in YAML; anything else is one scalar."""
    if text.startswith(("[", "{", '"', "'")):
        return parse(text, source)
    loader = Loader("")
    try:
        with _translate_yaml_errors(source):
            tag = loader.resolve(yaml.ScalarNode, text, (True, False))  # type: ignore[no-untyped-call]
            return loader.construct_object(yaml.ScalarNode(tag, text))
    finally:
        loader.dispose()


def _refuse_many_nodes(value: object, source: str) -> None:
    """Raise UserError if a value is too large with its aliases written out; one that contains itself is left to what writes it as JSON."""
    with suppress(_ContainsItselfError):
        if _written_nodes(value, {}) <= MAX_NODES:
            return
        raise UserError(
            Bilingual(
                f"{source}: its aliases (*name) stand for more than {MAX_NODES:,} values. Write the values out.",
                f"{source}：别名（*名称）展开后超过 {MAX_NODES:,} 个值：请直接写出这些值。",
            )
        )


class _ContainsItselfError(Exception):
    """A value contains itself."""


def _written_nodes(value: object, known: dict[int, int]) -> int:
    """Number of values when each alias is written out, counted until it is above MAX_NODES.

    `known`: id of a value -> its number, 0 while it is open.
    """
    if isinstance(value, str):
        return 1 + len(value) // CHARACTERS_A_NODE
    if not isinstance(value, dict | list):
        return 1
    if id(value) not in known:
        known[id(value)], total = 0, 1
        for item in chain(value, value.values()) if isinstance(value, dict) else value:
            total += _written_nodes(item, known)
            if total > MAX_NODES:
                break
        known[id(value)] = total
    if not known[id(value)]:
        raise _ContainsItselfError
    return known[id(value)]


@contextmanager
def _translate_yaml_errors(source: str) -> Iterator[None]:
    """Turn PyYAML's exceptions into a UserError with line and column, if known."""
    try:
        yield
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        location = f"{source}:{mark.line + 1}:{mark.column + 1}" if mark else source
        raise UserError(_invalid_yaml(location, str(error.problem))) from error
    except RecursionError:
        raise UserError(Bilingual(f"{source}: this is nested too deeply for a recipe.", f"{source}：嵌套过深，不能作为配方。")) from None
    except (yaml.YAMLError, ValueError, LookupError, ArithmeticError) as error:
        raise UserError(_invalid_yaml(source, str(error))) from error


def _invalid_yaml(location: str, problem: str) -> Bilingual:
    return Bilingual(f"{location}: this is not valid YAML: {problem}.", f"{location}：不是有效的 YAML：{problem}。")


def render(value: object) -> str:
    """`value` as YAML, keys in their order; `parse` reads it back equal."""
    return yaml.dump(value, Dumper=Dumper, allow_unicode=True, sort_keys=False, width=120)
