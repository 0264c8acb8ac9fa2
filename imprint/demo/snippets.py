"""Code comment rows: small Python functions, each with a Chinese comment."""

from typing import Final

from imprint.demo.rng import Rng, one_in

HELD_OUT: Final = 8
"""One function in HELD_OUT is in the dev file only."""
NAMES: Final = ("f", "g", "run", "get", "work", "calc", "step", "solve")
ONES: Final = ("a", "b", "n", "m", "x", "y", "k", "t")
LISTS: Final = ("xs", "ys", "row", "nums", "list1", "data")
TEXTS: Final = ("s", "word", "line", "name", "text")
PATTERNS: Final = (
    ("def {f}({a}, {b}):\n    return {a} + {b}", "返回{a}与{b}的和"),
    ("def {f}({a}, {b}):\n    return {a} - {b}", "返回{a}减{b}的差"),
    ("def {f}({a}, {b}):\n    return {a} * {b}", "返回{a}与{b}的积"),
    ("def {f}({a}, {b}):\n    return max({a}, {b})", "返回{a}和{b}中大的一个"),
    ("def {f}({a}, {b}):\n    return min({a}, {b})", "返回{a}和{b}中小的一个"),
    ("def {f}({a}):\n    return {a} % {n} == 0", "判断{a}能不能被{n}除尽"),
    ("def {f}({a}):\n    return {a} ** 2", "返回{a}的平方"),
    ("def {f}({a}):\n    return {a} > {n}", "判断{a}是不是大于{n}"),
    ("def {f}({xs}):\n    return sum({xs})", "求列表{xs}中所有数的和"),
    ("def {f}({xs}):\n    return len({xs})", "返回列表{xs}的长度"),
    ("def {f}({xs}):\n    return max({xs})", "找出列表{xs}中最大的数"),
    ("def {f}({xs}):\n    return sorted({xs})", "把列表{xs}从小到大排好"),
    ("def {f}({xs}):\n    return {xs}[:{n}]", "取列表{xs}的前{n}个"),
    ("def {f}({xs}):\n    return {xs}[::-1]", "把列表{xs}倒过来"),
    ("def {f}({xs}):\n    return [{a} for {a} in {xs} if {a} > {n}]", "留下列表{xs}中大于{n}的数"),
    ("def {f}({xs}):\n    return [{a} * {n} for {a} in {xs}]", "把列表{xs}中每个数乘以{n}"),
    ("def {f}({a}):\n    for i in range({a}):\n        print(i)", "从0开始打印{a}个数"),
    ("def {f}({s}):\n    return {s}.upper()", "把文字{s}变成大写"),
    ("def {f}({s}):\n    return {s} * {n}", "把文字{s}重复{n}次"),
    ("def {f}({s}, {a}):\n    return {a} in {s}", "判断文字{s}里有没有{a}"),
)
"""(function, comment) with the same placeholders."""


def write_snippet_row(rng: Rng, split: str) -> tuple[str, str]:
    """A function and its comment; no dev function is in the training rows, but similar ones are."""
    while True:
        code, comment = _draw(rng)
        if one_in(HELD_OUT, code) == (split == "dev"):
            return code, comment


def _draw(rng: Rng) -> tuple[str, str]:
    code, comment = rng.pick(PATTERNS)
    first = rng.below(len(ONES))
    placeholders = {
        "{f}": rng.pick(NAMES),
        "{a}": ONES[first],
        "{b}": ONES[(first + 1 + rng.below(len(ONES) - 1)) % len(ONES)],
        "{n}": str(2 + rng.below(9)),
        "{xs}": rng.pick(LISTS),
        "{s}": rng.pick(TEXTS),
    }
    for placeholder, word in placeholders.items():
        code, comment = code.replace(placeholder, word), comment.replace(placeholder, word)
    return code, comment
