"""Checks of what is passed to the public Python functions: a value of another type is named, never taken for something else."""

import operator
import os
from collections.abc import Iterable, Sequence
from numbers import Real
from pathlib import Path
from typing import cast

from imprint.messages import Bilingual, UserError

MAX_NAME = 255
"""Bytes of the name of a file or folder; systems have no longer ones."""
MAX_SHOWN = 60
"""Characters of a wrong value that a message repeats."""


def wrong_argument(name: str, allowed: str, value: object, chinese: str) -> UserError:
    """The error of an argument: what is allowed, and what was passed."""
    try:
        shown = repr(value)
    except Exception:  # an untrusted class
        shown = "?"
    shown = shown if len(shown) <= MAX_SHOWN else f"{shown[:MAX_SHOWN]}..."
    return UserError(
        Bilingual(
            f"{name}: must be {allowed}, got {type(value).__name__} {shown}.", f"{name} 须为{chinese}，实际为 {type(value).__name__}。"
        )
    )


def text(name: str, value: object) -> str:
    """A text. Raises UserError for anything else."""
    if not isinstance(value, str):
        raise wrong_argument(name, "a text", value, "文本")
    return value


def texts(name: str, value: object) -> Sequence[str]:
    """A sequence of texts. Raises UserError for one text, and for an item that is none."""
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        raise wrong_argument(name, "a list of texts", value, "文本的列表")
    return [text(f"{name}[{index}]", item) for index, item in enumerate(value)]


def integer(name: str, value: object, *, at_least: int | None = None) -> int:
    """An integer of any library. Raises UserError for anything else, and for one that is too small."""
    if type(value) is int and (at_least is None or value >= at_least):
        return value  # at once, because it is called for each token
    least = "" if at_least is None else f" of at least {at_least}"
    wrong = wrong_argument(name, f"an integer{least}", value, "整数" if at_least is None else f"不小于 {at_least} 的整数")
    if isinstance(value, bool):
        raise wrong
    try:
        number = operator.index(value)  # type: ignore[arg-type]  # whatever it is
    except TypeError:
        raise wrong from None
    if at_least is not None and number < at_least:
        raise wrong
    return number


def number(name: str, value: object) -> float:
    """A number. Raises UserError for anything else."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise wrong_argument(name, "a number", value, "数字")
    try:
        return float(value)
    except OverflowError:
        raise wrong_argument(name, "a number of at most 1e308", value, "不超过 1e308 的数字") from None


def token_ids(name: str, value: object) -> list[int]:
    """A list of integers, also those of a tensor or an array. Raises UserError for anything else."""
    items = _items(name, value, "a list of token ids", "词元 id 的列表")
    if all(type(item) is int for item in items):
        return cast("list[int]", items)
    return [integer(f"{name}[{index}]", item) for index, item in enumerate(items)]


def _items(name: str, value: object, allowed: str, chinese: str) -> list[object]:
    """The items of anything but a text; a tensor without dimensions has none. Raises UserError for what has no items."""
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        raise wrong_argument(name, allowed, value, chinese)
    try:
        return list(value)
    except TypeError:
        raise wrong_argument(name, allowed, value, chinese) from None


def id_rows(name: str, value: object) -> list[list[int]]:
    """A list of rows of token ids. Raises UserError for anything else, such as one row."""
    rows = _items(name, value, "a list of rows, each a list of token ids", "若干行词元 id 的列表")
    return [token_ids(f"{name}[{index}]", row) for index, row in enumerate(rows)]


def path(name: str, value: object) -> Path:
    """A path. Raises UserError for anything else."""
    if not isinstance(value, str | os.PathLike):
        raise wrong_argument(name, "a path", value, "路径")
    if any(len(part.encode(errors="replace")) > MAX_NAME for part in Path(value).parts):
        raise wrong_argument(name, f"a path, whose names have at most {MAX_NAME} bytes", value, f"路径（每级名称不超过 {MAX_NAME} 字节）")
    try:
        encoded = os.fsencode(value)
    except UnicodeEncodeError:
        encoded = b"\0"
    if b"\0" in encoded:
        raise wrong_argument(name, "a path, without NUL and half characters", value, "路径（不含 NUL 和半个字符）")
    return Path(value)
