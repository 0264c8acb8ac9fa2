"""The verdict of a check, and the commands to run next."""

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, count
from pathlib import Path
from typing import Final

from imprint.check.findings import KINDS, FindingTally
from imprint.check.proposal import Proposal
from imprint.check.report import heading
from imprint.check.scan import DataScan
from imprint.data.limits import LengthLimits
from imprint.data.readers.questions import read_questions
from imprint.data.section import DataSection
from imprint.data.truncation import limits_cure
from imprint.messages import Bilingual, UserError
from imprint.terminal import Style

DEFAULT_COLUMNS: Final = {name: DataSection.model_fields[name].default for name in ("prompt_column", "response_column")}
"""With these, the columns are detected; the starter of a classification names other ones."""


@dataclass(frozen=True)
class CheckArguments:
    """Command-line arguments of a check."""

    files: Sequence[str]
    """The files to check."""
    dev: str | None
    """The held-out file."""
    model: str | None
    """Model whose tokenizer counts tokens."""
    overrides: Sequence[str]
    """Overrides of knobs."""
    base: str | None = None
    """The base that the model is or tunes, as a recipe names it; None for the toy."""

    def command(self, *words: str) -> str:
        """A command with the same held-out file, model and knobs."""
        options = [*(["--dev", self.dev] if self.dev else []), *(["--model", self.model] if self.model else []), *self.overrides]
        return shlex.join(["imprint", "data", "check", *words, *options])

    def knobs(self) -> list[str]:
        """The overrides as overrides of a recipe."""
        given = [override.removeprefix("data.").removeprefix("model.") for override in self.overrides]
        plain = [override for override in given if not override.startswith("base_path=")]
        return [f"{'model' if override.startswith('template=') else 'data'}.{override}" for override in plain]


def conclusion_lines(
    arguments: CheckArguments, scan: DataScan, findings: Mapping[str, FindingTally], unreadable: int, fixed: Path | None, style: Style
) -> Iterator[str]:
    """The verdict in one line, and the commands to run next. `unreadable`: number of files that cannot be read."""
    errors = [name for name in findings if KINDS[name].severity == "error"]
    yield heading(Bilingual("verdict", "结论"), style)
    yield "  " + (_verdict(scan, findings, errors, unreadable, style) if fixed is None or unreadable else _fixed_verdict(errors, style))
    if scan.guess and not scan.samples:
        kept = [knob for knob in arguments.overrides if knob.removeprefix("data.").partition("=")[0] not in scan.guess]
        guessed = [f"{knob}={column}" for knob, column in scan.guess.items()]
        command = replace(arguments, overrides=[*kept, *guessed]).command(*arguments.files)
        words = Bilingual("checks it with these columns, a guess: see whether they are right", "按这两列检查（猜测，请核对）")
        yield from _next_command(command, words, style)
    yield from _use_of_questions(arguments.files, scan)
    next_file = str(fixed) if fixed else arguments.files[0] if len(arguments.files) == 1 and not (errors or unreadable) else None
    if fixed is not None:
        yield from _next_command(arguments.command(str(fixed)), Bilingual("checks it again", "再检查一遍"), style)
    elif len(scan.digests.locations) and (len(arguments.files) > 1 or any(KINDS[name].fix for name in findings)):
        words = (
            Bilingual("fixes what can be fixed and lists the rest", "修复能修的，列出其余")
            if errors
            else Bilingual("writes one clean file", "整理成一个文件")
        )
        yield from _next_command(
            arguments.command(*arguments.files, "--fix", f"{_source_stem(arguments.files[0])}.fixed.jsonl"), words, style
        )
    if next_file is None or not scan.samples:
        return
    model = ["--model", arguments.model] if arguments.model else []
    show = shlex.join(["imprint", "data", "show", next_file, *model, *arguments.overrides])
    yield from _next_command(show, Bilingual("shows which tokens are read and which are learned", "查看哪些词元只读、哪些被学习"), style)
    dev = [f"data.dev={arguments.dev}"] if arguments.dev else []
    limits = raised_limits(scan)
    kept = [knob for knob in arguments.knobs() if not any(limit.partition("=")[0] == knob.partition("=")[0] for limit in limits)]
    knobs = [f"data.train={next_file}", *dev, *kept, *limits]
    proposal = scan.kinds.proposal()
    yield from train_commands(proposal.starter, next_file, [*knobs, *_knobs_of(proposal, arguments)], style)


def _use_of_questions(files: Sequence[str], scan: DataScan) -> Iterator[str]:
    """Where no row has an answer, but each file has questions: what they are good for."""
    if not scan.samples and not scan.guess and all(map(_holds_questions, files)):
        mix = f"data.mix_general={{rows: {files[0]}, answers: base}}"
        yield (
            "  "
            + Bilingual(f"as general rows they need no answers, the base gives them: {mix}", "作通用数据时不需要答案，由底座自己回答").line
        )


def _holds_questions(source: str) -> bool:
    try:
        return bool(read_questions(Path(source), prompt_column="content", limit=1))
    except UserError:  # reported when it is read
        return False


def train_commands(starter: str, source: str, knobs: Sequence[str], style: Style) -> Iterator[str]:
    """The commands that train on a source, which run as they are: a recipe of the starter, in a new folder, and the knobs."""
    stem = _source_stem(source)
    names = chain([stem], (f"{stem}-{number}" for number in count(2)))
    folder = next(folder for name in names if not (folder := Path("runs", name)).exists()).as_posix()
    yield from _next_command(
        shlex.join(["imprint", "init", starter, folder]),
        Bilingual(
            f"writes a recipe ({starter}) to be changed as you like; `imprint init` lists others",
            f"生成 {starter} 配方，可随意修改；imprint init 列出其他配方",
        ),
        style,
    )
    yield from _next_command(shlex.join(["imprint", "train", folder, *knobs]), Bilingual("trains on it", "开始训练"), style)


def _knobs_of(proposal: Proposal, arguments: CheckArguments) -> Iterator[str]:
    """What the recipe of the starter must be told: the labels, no held-out sample rows, the base without the general rows of the toy."""
    if proposal.has_own_dev and not arguments.dev:
        yield "data.dev=null"
    if proposal.labels:
        named = " ".join(arguments.knobs())
        yield from (f"data.{name}={column}" for name, column in DEFAULT_COLUMNS.items() if f"data.{name}=" not in named)
        yield f"task.labels={json.dumps(proposal.labels, ensure_ascii=False)}"
    if arguments.base is not None:
        yield f"model.path={arguments.base}"
        if proposal.mixes_general:
            yield "data.mix_general=null"


def _source_stem(source: str) -> str:
    return Path(source.rpartition("#")[0] or source).stem


def raised_limits(scan: DataScan) -> list[str]:
    """Overrides of the limits that truncate rows, raised as far as the model's maximum length."""
    now = LengthLimits(scan.prompt_lengths.limit, scan.answer_lengths.limit).knobs
    scans = [scan] if scan.held_out is None else [scan, scan.held_out]
    cut = {
        "max_source_length": any(one.prompt_lengths.cut for one in scans),
        "max_target_length": any(one.answer_lengths.cut for one in scans),
    }
    needed = scan.needed.within(scan.max_length).knobs
    return [f"data.{name}={limit}" for name, limit in needed.items() if cut[name] and limit > now[name]]


def _verdict(scan: DataScan, findings: Mapping[str, FindingTally], errors: Sequence[str], unreadable: int, style: Style) -> str:
    files = f"{Bilingual(f'{unreadable} of the files cannot be read', f'{unreadable} 个文件无法读取').line}; " if unreadable else ""
    if not scan.samples:
        nothing = (
            Bilingual("the columns of question and answer are not known", "提问列和回答列未知")
            if scan.partly_read
            else Bilingual("there is nothing to train on", "没有可学的内容")
        )
        return style("✗ " + files + nothing.line, "red", "bold")
    if errors or unreadable:
        plural = "s" * (len(errors) != 1)
        kinds = Bilingual(f"{len(errors)} kind{plural} of errors, marked ✗ above", f"{len(errors)} 类错误，见上 ✗").line if errors else ""
        return style("✗ " + Bilingual("something is wrong", "有问题").line + ": ", "red", "bold") + files + kinds
    if scan.cuts:
        limits = LengthLimits(scan.prompt_lengths.limit, scan.answer_lengths.limit)
        cure = limits_cure(scan.needed, limits, scan.max_length, Bilingual("set", "请设"))
        return style(f"! {_what_is_cut(scan).line}: ", "yellow", "bold") + cure.line
    advice = " " + Bilingual("Lines with ! are for you to judge", "带 ! 的请自行判断。").line if findings else ""
    return style("✓ " + Bilingual("nothing is wrong", "没有发现错误。").line, "green", "bold") + advice


def _what_is_cut(scan: DataScan) -> Bilingual:
    """How many prompts and answers the limits cut, of the rows and of those held out."""
    prompt, answer = scan.prompt_lengths, scan.answer_lengths
    english = f"{prompt.cut:,} prompts and {answer.cut:,} answers of {prompt.total:,}"
    chinese = f"{prompt.total:,} 条中有 {prompt.cut:,} 个提问和 {answer.cut:,} 个回答"
    if scan.held_out is not None and scan.held_out.cuts:
        prompt, answer = scan.held_out.prompt_lengths, scan.held_out.answer_lengths
        english += f", and {prompt.cut:,} prompts and {answer.cut:,} answers of {prompt.total:,} held out,"
        chinese += f"、留出的 {prompt.total:,} 条中有 {prompt.cut:,} 个提问和 {answer.cut:,} 个回答"
    return Bilingual(f"no row is wrong, but {english} are cut", f"没有错误，但 {chinese}被截断")


def _fixed_verdict(errors: Sequence[str], style: Style) -> str:
    """What became of the errors of the files that were read, in the file that was written."""
    done, left = [name for name in errors if KINDS[name].fix], [name for name in errors if not KINDS[name].fix]
    parts = [("repaired or rejected", "已修复或剔除", done), ("left for you to fix", "仍需手动处理", left)]
    texts = [
        Bilingual(
            f"{english}: {', '.join(KINDS[name].label.english for name in names)}",
            f"{chinese}：{'、'.join(KINDS[name].label.chinese for name in names)}",
        ).line
        for english, chinese, names in parts
        if names
    ]
    head = style("✗ ", "red", "bold") if left else style("✓ ", "green", "bold")
    return head + ("; ".join(texts) or Bilingual("nothing was wrong", "没有发现错误").line)


def _next_command(command: str, purpose: Bilingual, style: Style) -> Iterator[str]:
    yield "  " + style(f"# {purpose.line}", "dim")
    yield "  " + style(command, "cyan")
