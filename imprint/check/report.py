"""The report of a data check, as lines for a terminal."""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from imprint.check.duplicates import Digests, Pairs, contradicting, duplicated, leaked, leaked_questions
from imprint.check.findings import EXAMPLES, KINDS, FindingKind, FindingTally
from imprint.check.lengths import CUT_SHARE, Lengths, cost, histogram, summary
from imprint.check.scan import DataScan
from imprint.data.readers.bad_rows import OTHERS
from imprint.messages import Bilingual
from imprint.terminal import DEFAULT_COLUMNS, Style, clip_columns, pad_right, width

LANGUAGE_NAMES: Mapping[str, str] = {
    "zh": "Chinese 中文",
    "en": "English 英文",
    "ja": "Japanese 日文",
    "ko": "Korean 韩文",
    "ru": "Russian 俄文",
    "mixed": "mixed 混合",
}
EXCERPT_COLUMNS = 60
"""Columns of an excerpt, if the line is wide enough."""
KINDS_SHOWN = 6
"""Maximum number of kinds of bad rows that are listed."""
MIN_EXCERPT = 12
"""Minimum columns of an excerpt, also after a long location."""


def heading(title: Bilingual, style: Style) -> str:
    """The first line of a section of the report."""
    return "\n" + style(title.line, "bold")


def bad_row_lines(location: str, reason: Bilingual) -> str:
    """A bad row in both languages."""
    return f"✗ {location}: {reason.english}\n  {reason.chinese}"


def location_shortener(sources: Sequence[str]) -> Callable[[str], str]:
    """A function that shortens locations: it drops the folders that all sources share."""
    try:
        shared = os.path.commonpath([str(Path(source).parent) for source in sources])
    except ValueError:  # an absolute path and a relative one
        shared = ""
    return lambda location: location.removeprefix(shared).lstrip(os.sep) if shared and location.startswith(shared + os.sep) else location


def all_findings(scan: DataScan, dev: DataScan | None, short: Callable[[str], str]) -> dict[str, FindingTally]:
    """All findings by kind, duplicates and leaks included; `short` shortens locations."""
    findings = dict(scan.findings)
    bad, empty = scan.bad_reasons + (dev.bad_reasons if dev else Counter()), scan.empty_reasons + (dev.empty_reasons if dev else Counter())

    def tally(pairs: Pairs, others: Digests, verb: Bilingual) -> FindingTally:
        shown = list(zip(pairs.rows[:EXAMPLES], pairs.matches[:EXAMPLES], strict=True))
        return FindingTally(
            len(pairs),
            [(scan.digests.locations[row], f"{verb.english} {short(others.locations[match])} / {verb.chinese}") for row, match in shown],
        )

    same_question = Bilingual("has the question of", "同问")
    findings |= {"bad": _by_reason(bad), "empty": _by_reason(empty)}
    findings |= {"duplicated": tally(duplicated(scan.digests), scan.digests, Bilingual("repeats", "重复"))}
    findings["contradicting"] = tally(contradicting(scan.digests), scan.digests, same_question)
    if dev is not None:
        findings["leaked"] = tally(leaked(scan.digests, dev.digests), dev.digests, Bilingual("is", "相同"))
        findings["leaked_questions"] = tally(leaked_questions(scan.digests, dev.digests), dev.digests, same_question)
    return {name: findings[name] for name in KINDS if name in findings and findings[name].count}


def _by_reason(reasons: Counter[Bilingual]) -> FindingTally:
    """The most frequent kinds, each in both languages, and the number of all other rows."""
    common = reasons.most_common(KINDS_SHOWN)
    lines = [line for kind, count in common for line in (f"{count:,} × {kind.english}", f"    {kind.chinese}")]
    if rest := reasons.total() - sum(count for _kind, count in common):
        lines.append(f"{rest:,} × {OTHERS.line}")
    return FindingTally(reasons.total(), [("", line) for line in lines])


def length_lines(scan: DataScan, style: Style) -> Iterator[str]:
    """Both histograms, what the limits truncate, also of the held-out rows, and limits that truncate less."""
    if not scan.samples:
        return
    yield heading(Bilingual("lengths in tokens", "词元长度"), style)
    for title, lengths in ((Bilingual("prompts", "提问"), scan.prompt_lengths), (Bilingual("answers", "回答"), scan.answer_lengths)):
        yield from _title_and_cost(title, lengths, histogram(lengths, style), style)
    if scan.held_out is not None and scan.held_out.samples:
        yield from _title_and_cost(Bilingual("held-out prompts", "留出提问"), scan.held_out.prompt_lengths, [], style)
        yield from _title_and_cost(Bilingual("held-out answers", "留出回答"), scan.held_out.answer_lengths, [], style)
    for goal, share in ((Bilingual("to cut at most 1 %", "至多截断 1 %"), CUT_SHARE), (Bilingual("to cut nothing", "不截断"), 0.0)):
        yield f"  {pad_right(goal.line, 36)}{style(str(scan.limits_for(share)), 'cyan')}"


def _title_and_cost(title: Bilingual, lengths: Lengths, histogram: Sequence[str], style: Style) -> Iterator[str]:
    """The lengths of one side in a line, their histogram, and what the limit truncates."""
    yield f"  {style(title.line, 'underline')}   {summary(lengths, 'limit 上限')}"
    yield from (f"    {line}" for line in histogram)
    yield "    " + style(cost(lengths, title).line, *(["yellow"] if lengths.cut else ["green"]))


def language_line(languages: Counter[str], style: Style) -> Iterator[str]:
    """The share of rows or documents in each language."""
    total = languages.total()
    if total:
        yield heading(Bilingual("languages", "语言"), style)
        yield "  " + " · ".join(f"{LANGUAGE_NAMES.get(name, name)} {percent(count, total)}" for name, count in languages.most_common())


def finding_lines(
    findings: Mapping[str, FindingTally],
    short: Callable[[str], str],
    *,
    compared: bool,
    style: Style,
    columns: int = DEFAULT_COLUMNS,
    kinds: Mapping[str, FindingKind] = KINDS,
    fixable: bool = True,
) -> Iterator[str]:
    """The findings of these `kinds`, most severe first, with examples, and the kinds that were not found.

    `compared`: whether the rows were compared with held-out ones. `columns`: width of a line. `fixable`: whether
    `--fix` could keep a row.
    """
    yield heading(Bilingual("findings", "检查结果"), style)
    column = max([len(f"{tally.count:,}") for tally in findings.values()], default=1)
    available = columns - column - 6
    for name, tally in findings.items():
        kind = kinds[name]
        sign = style("✗", "red", "bold") if kind.severity == "error" else style("!", "yellow", "bold")
        fix = style(f"  · --fix {kind.fix.line}", "dim") if kind.fix and fixable else ""
        yield f"  {sign} {tally.count:>{column},}  {kind.label.line}{fix}"
        for location, text in tally.examples:
            before = f"{short(location)}  " if location else ""
            size = max(min(EXCERPT_COLUMNS, available - width(before)), MIN_EXCERPT) if location else available
            yield " " * (column + 6) + style((before + clip_columns(text, size)).rstrip(), "dim")
    absent = [kind.label.chinese for name, kind in kinds.items() if name not in findings and (compared or not name.startswith("leaked"))]
    for index, line in enumerate(_wrap(Bilingual("none of the rest", "其余均未发现：").line, absent, available)):
        yield (f"  {style('✓', 'green', 'bold')} {0:>{column}}  " if index == 0 else " " * (column + 6)) + line


def _wrap(head: str, words: Sequence[str], columns: int) -> Iterator[str]:
    """The words after a head, in lines of at most `columns` columns."""
    line = head
    for word in words:
        if width(line) + width(word) + 2 > columns:
            yield line
            line = ""
        line += word + ("、" if word != words[-1] else "")
    if words:
        yield line


def percent(part: int, total: int) -> str:
    """A share as text: 12.5 %; a share above 0 is never shown as 0."""
    return "< 0.1 %" if 0 < part < 0.0005 * total else f"{100 * part / total:.1f} %"
