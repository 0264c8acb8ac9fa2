"""Matches the regular expressions of peft's `rank_pattern` and `alpha_pattern`, as peft does, but within bounds.

Source of the rule: `get_pattern_key` in peft.utils.other.
"""

import re
import time
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path

import regex

from imprint.messages import Bilingual, UserError

MAX_CHARACTERS = 1000
"""Longest pattern that is read."""
MAX_SECONDS = 5.0
"""Longest time for all patterns of a file."""
COUNT = re.compile(r"\{(\d{1,2}|\d{1,2},|,\d{1,2}|\d{1,2},\d{1,2})\}")
"""A repetition by number, such as {2,5}; the numbers are bounded, since nested ones multiply."""
MAX_COUNTS = 2
"""Most repetitions by number in a pattern."""


def match_patterns(path: Path, field: str, patterns: Mapping[str, float], names: Iterable[str]) -> dict[str, float]:
    """Name of a linear -> the value of the first pattern that matches it; names that none matches are left out.

    A pattern matches a name, or what follows a dot in it, up to its end. `path` and `field` say in errors where the patterns are. Raises
    UserError for a pattern that is no regular expression of Python, or that takes too long.
    """
    compiled = [(_compile(path, field, pattern), pattern, value) for pattern, value in patterns.items()]
    end = time.monotonic() + MAX_SECONDS
    found: dict[str, float] = {}
    for name in names if compiled else ():
        for expression, pattern, value in compiled:
            try:
                if expression.match(name, timeout=max(0.001, end - time.monotonic())):
                    found[name] = value
                    break
            except TimeoutError as error:
                raise _pattern_error(path, field, pattern, f"it takes more than {MAX_SECONDS:g} s") from error
    return found


def _compile(path: Path, field: str, pattern: str) -> "regex.Pattern[str]":
    counts = COUNT.findall(pattern)
    if len(pattern) > MAX_CHARACTERS:
        raise _pattern_error(path, field, pattern, f"it has {len(pattern)} characters; {MAX_CHARACTERS} are allowed")
    if pattern.count("{") != len(counts) or len(counts) > MAX_COUNTS:
        raise _pattern_error(path, field, pattern, "it has more than two repetitions {m,n}, or numbers above 99 in them")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # a set that later versions of Python will read in another way
            re.compile(pattern)
        return regex.compile(rf"(.*\.)?({pattern})$")
    except (re.error, regex.error, RecursionError, OverflowError, Warning) as error:
        raise _pattern_error(path, field, pattern, f"it is no regular expression of Python ({error})") from error


def _pattern_error(path: Path, field: str, pattern: str, problem: str) -> UserError:
    return UserError(
        Bilingual(
            f"{path}: the pattern {pattern[:80]!r} in {field!r} cannot be used: {problem}. Write the linears' full names in its place.",
            f"{field!r} 中的模式 {pattern[:80]!r} 无法使用：请改写为各线性层的全名。",
        )
    )
