"""Matches the regular expressions in an adapter_config.json, as peft does, but within bounds.

Source of the rule for ranks and alphas: `get_pattern_key` in peft.utils.other.
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


class BoundedPattern:
    """A regular expression of a file."""

    def __init__(self, path: Path, field: str, pattern: str, end: float, form: str = "{}") -> None:
        """`path` and `field` say in errors where the pattern is; `form` is what peft puts around it.

        Raises UserError for one that is no regular expression of Python, or too large, and after the time `end`: a long class of
        characters takes a second to read.
        """
        self._path, self._field, self._pattern, self._end = path, field, pattern, end
        self._expression = self._compile(form)
        if time.monotonic() >= end:
            raise self._too_long()

    def match(self, name: str) -> "regex.Match[str] | None":
        """The match at the beginning of a name. Raises UserError after the time that was given."""
        try:
            return self._expression.match(name, timeout=max(0.001, self._end - time.monotonic()))
        except TimeoutError as error:
            raise self._too_long() from error

    def _compile(self, form: str) -> "regex.Pattern[str]":
        counts = COUNT.findall(self._pattern)
        if len(self._pattern) > MAX_CHARACTERS:
            raise self._error(f"it has {len(self._pattern)} characters; {MAX_CHARACTERS} are allowed")
        if self._pattern.count("{") != len(counts) or len(counts) > MAX_COUNTS:
            raise self._error("it has more than two repetitions {m,n}, or numbers above 99 in them")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # a set that later versions of Python will read in another way
                re.compile(self._pattern)
            return regex.compile(form.format(self._pattern))
        except (re.error, regex.error, RecursionError, OverflowError, Warning) as error:
            raise self._error(f"it is no regular expression of Python ({error})") from error

    def _too_long(self) -> UserError:
        return self._error(f"with those before it, it takes more than {MAX_SECONDS:g} s")

    def _error(self, problem: str) -> UserError:
        return UserError(
            Bilingual(
                f"{self._path}: the pattern {self._pattern[:80]!r} in {self._field!r} cannot be used: {problem}. Write the linears' full "
                "names in its place.",
                f"{self._path}：{self._field!r} 中的模式 {self._pattern[:80]!r} 无法使用：请改写为各线性层的全名。",
            )
        )


def deadline() -> float:
    """When the patterns of a file must have been read and matched."""
    return time.monotonic() + MAX_SECONDS


def match_patterns(path: Path, field: str, patterns: Mapping[str, float], names: Iterable[str], end: float) -> dict[str, float]:
    """Name of a linear -> the value of the first pattern that matches it; names that none matches are left out.

    A pattern matches a name, or what follows a dot in it, up to its end. `path` and `field` say in errors where the patterns are. Raises
    UserError for a pattern that is no regular expression of Python, and after the time `end`.
    """
    compiled = [(BoundedPattern(path, field, pattern, end, r"(.*\.)?({})$"), value) for pattern, value in patterns.items()]
    found: dict[str, float] = {}
    for name in names if compiled else ():
        for pattern, value in compiled:
            if pattern.match(name):
                found[name] = value
                break
    return found
