"""What to do next with data that was checked, as commands to type."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from imprint.check.findings import KINDS, FindingTally
from imprint.check.lengths import CUT_SHARE, Lengths
from imprint.check.report import heading
from imprint.check.scan import DataScan
from imprint.check.terminal import Style
from imprint.messages import Bilingual

MAX_TOKENS: Final = 2048
"""Tokens of a row that ChatGLM-6B was trained on; a limit beyond them costs memory and teaches nothing."""


@dataclass(frozen=True)
class CheckArguments:
    """What the user has typed."""

    files: Sequence[str]
    """The files to check."""
    dev: str | None
    """The held-out file."""
    model: str | None
    """Whose tokens are counted."""
    overrides: Sequence[str]
    """Knobs."""

    def command(self, *words: str) -> str:
        """A command with the same held-out file, model and knobs."""
        options = [*(["--dev", self.dev] if self.dev else []), *(["--model", self.model] if self.model else []), *self.overrides]
        return shlex.join(["imprint", "data", "check", *words, *options])

    def knobs(self) -> list[str]:
        """What was set for reading, as overrides of a recipe."""
        plain = [override.removeprefix("data.").removeprefix("model.") for override in self.overrides]
        return [f"{'model' if override.startswith('template=') else 'data'}.{override}" for override in plain]


def conclusion_lines(
    arguments: CheckArguments, scan: DataScan, found: Mapping[str, FindingTally], unreadable: int, fixed: Path | None, style: Style
) -> Iterator[str]:
    """One line that says whether something is wrong, and the commands that come next."""
    wrong = [name for name in found if KINDS[name].severity == "error"]
    yield heading(Bilingual("verdict", "结论"), style)
    yield "  " + _sentence(scan, found, wrong, unreadable, style)
    next_file = str(fixed) if fixed else arguments.files[0] if len(arguments.files) == 1 and not (wrong or unreadable) else None
    if fixed is not None:
        yield from _next_command(arguments.command(str(fixed)), Bilingual("looks at it again", "再检查一遍"), style)
    elif len(scan.digests.locations) and (len(arguments.files) > 1 or any(KINDS[name].fix for name in found)):
        words = (
            Bilingual("mends what can be mended and lists the rest", "修复能修的，列出其余")
            if wrong
            else Bilingual("writes one clean file", "整理成一个文件")
        )
        yield from _next_command(
            arguments.command(*arguments.files, "--fix", f"{_source_stem(arguments.files[0])}.mended.jsonl"), words, style
        )
    if next_file is None or not scan.samples:
        return
    model = ["--model", arguments.model] if arguments.model else []
    show = shlex.join(["imprint", "data", "show", next_file, *model, *arguments.overrides])
    yield from _next_command(show, Bilingual("shows what is read and what is learned", "看哪些词元被学习"), style)
    dev = [f"data.dev={arguments.dev}"] if arguments.dev else []
    limits = raised_limits(scan.prompt_lengths, scan.answer_lengths)
    kept = [knob for knob in arguments.knobs() if not any(limit.partition("=")[0] == knob.partition("=")[0] for limit in limits)]
    knobs = [f"data.train={next_file}", *dev, *kept, *limits]
    yield from _next_command(shlex.join(["imprint", "train", "RECIPE.yaml", *knobs]), Bilingual("learns from it", "开始训练"), style)


def _source_stem(source: str) -> str:
    return Path(source.rpartition("#")[0] or source).stem


def raised_limits(source: Lengths, target: Lengths) -> list[str]:
    """The limits that must be raised to cut no more than one row in a hundred, as far as the model goes."""
    sides = (("data.max_source_length", source), ("data.max_target_length", target))
    wanted = [(knob, side, min(side.limit_for(CUT_SHARE), MAX_TOKENS)) for knob, side in sides if side.cut > CUT_SHARE * side.total]
    return [f"{knob}={limit}" for knob, side, limit in wanted if limit > side.limit]


def _sentence(scan: DataScan, found: Mapping[str, FindingTally], wrong: Sequence[str], unreadable: int, style: Style) -> str:
    files = f"{unreadable} of the files cannot be read; " if unreadable else ""
    if not scan.samples:
        return style("✗ " + files + Bilingual("there is nothing to learn from", "没有可学的内容").line, "red", "bold")
    if wrong or unreadable:
        plural = "s" * (len(wrong) != 1)
        kinds = Bilingual(f"{len(wrong)} kind{plural} of mistakes, marked ✗ above", f"{len(wrong)} 类错误，见上 ✗").line if wrong else ""
        return style("✗ " + Bilingual("something is wrong", "有问题").line + ": ", "red", "bold") + files + kinds
    advice = " " + Bilingual("The lines with ! are for you to judge", "带 ! 的请自行判断。").line if found else ""
    return style("✓ " + Bilingual("nothing is wrong", "没有发现错误。").line, "green", "bold") + advice


def _next_command(command: str, purpose: Bilingual, style: Style) -> Iterator[str]:
    yield "  " + style(f"# {purpose.line}", "dim")
    yield "  " + style(command, "cyan")
