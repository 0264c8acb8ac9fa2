"""Errors of the command line in both languages: argparse has its own only in English."""

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final

from imprint.messages import Bilingual, closest, did_you_mean

CHINESE: Final = (
    (r"the following arguments are required: (.*)", r"缺少参数：\1。"),
    (r"argument (.*?): expected one argument", r"\1 后面需要一个值。"),
    (r"argument (.*?): expected at least one argument", r"\1 后面至少需要一个值。"),
    (r"argument (.*?): expected (\d+) arguments?", r"\1 后面需要 \2 个值。"),
    (r"argument (.*?): ignored explicit argument (.*)", r"\1 不带值，却写了 \2。"),
    (r"argument (.*?): must be an integer of at least 1, got (.*)", r"\1 须为不小于 1 的整数，实际是 \2。"),
    (r"argument (.*?): (\".*\") is unknown; did you mean (.*?)\? allowed here: (.*)", r"\1：没有 \2，是否想写 \3？可用：\4。"),
    (r"argument (.*?): (\".*\") is unknown; allowed here: (.*)", r"\1：没有 \2，可用：\3。"),
    (r"argument (.*?): invalid \S+ value: (.*)", r"\1 的值 \2 无效。"),
    (r"argument (.*?): not allowed with argument (.*)", r"\1 不能与 \2 同时使用。"),
    (r"ambiguous option: (.*?) could match (.*)", r"\1 不明确，可能是 \2。"),
)
"""Pattern of an English message -> the Chinese one."""
OUTPUT_NAMES: Final = ("o", "out", "output")
"""How people write the option of an output."""
UNKNOWN: Final = "命令行有误。"


def parser_problem(message: str, program: str) -> Bilingual:
    """A message of argparse in both languages, and how to get help."""
    chinese = next((found.expand(text) for pattern, text in CHINESE if (found := re.fullmatch(pattern, message, re.DOTALL))), UNKNOWN)
    return _with_help(Bilingual(f"{message}.", chinese), program)


def unknown_words(
    words: Sequence[str],
    program: str,
    known: Sequence[str],
    *,
    takes_knobs: bool,
    positionals: Mapping[str, str] = MappingProxyType({}),
) -> Bilingual:
    """An error about words that a command does not know, with what may have been meant.

    `known` are its options, `positionals` the names of its positional arguments -> how its help shows them.
    """
    flags = [word for word in words if word.startswith("-")]
    near = closest(flags[0], known) if flags else []
    english, chinese = f"unrecognized arguments: {' '.join(words)}", f"不认识的参数：{' '.join(words)}"
    if flags and (flag := flags[0].partition("=")[0]).lstrip("-").lower() in (unflagged := _without_flag(positionals)):
        shown, form = unflagged[flag.lstrip("-").lower()], f"`{' '.join([program, *positionals.values()])}`"
        return _with_help(
            Bilingual(f"{english}; {shown} is written without {flag}: {form}.", f"{chinese}；{shown} 前不写 {flag}：{form}。"), program
        )
    if near:
        meant = did_you_mean(near, clause=True)
        return _with_help(Bilingual(f"{english}; {meant.english.rstrip()}", f"{chinese}，{meant.chinese}"), program)
    if flags and takes_knobs:
        english += ". Knobs are written without dashes, as in tune.length=128; the flags of an old train.sh go after `imprint main`"
        chinese += "。选项前不加横线，如 tune.length=128；旧 train.sh 的参数写在 `imprint main` 之后"
    return _with_help(Bilingual(f"{english}.", f"{chinese}。"), program)


def _without_flag(positionals: Mapping[str, str]) -> dict[str, str]:
    """What people may type as an option -> the positional argument."""
    output = dict.fromkeys(OUTPUT_NAMES, positionals["output"]) if "output" in positionals else {}
    return {**positionals, **output}


def _with_help(problem: Bilingual, program: str) -> Bilingual:
    return Bilingual(
        f"{problem.english} Run `{program} --help` to see what can be given.", f"{problem.chinese}用 `{program} --help` 查看用法。"
    )
