"""What a check of data has found, as lines for a terminal."""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from imprint.check.duplicates import Digests, Pairs, contradicting, leaked, leaked_questions, repeated
from imprint.check.findings import EXAMPLES, KINDS, FindingKind, FindingTally
from imprint.check.lengths import CUT_SHARE, Lengths, cost, histogram, summary
from imprint.check.scan import DataScan
from imprint.check.terminal import DEFAULT_COLUMNS, Style, clip_columns, pad_right, width
from imprint.messages import Bilingual

LANGUAGE_NAMES: Mapping[str, str] = {
    "zh": "Chinese 中文",
    "en": "English",
    "ja": "Japanese",
    "ko": "Korean",
    "ru": "Russian",
    "mixed": "mixed 混合",
}
EXCERPT_COLUMNS = 60
"""Columns of an excerpt, where the line has room for so many."""
MIN_EXCERPT = 12
"""Columns of an excerpt behind a place as long as a line."""


def heading(title: Bilingual, style: Style) -> str:
    """The first line of a section of the report."""
    return "\n" + style(title.line, "bold")


def location_shortener(sources: Sequence[str]) -> Callable[[str], str]:
    """How places in these sources are shown: without the folders that all of them are in."""
    try:
        shared = os.path.commonpath([str(Path(source).parent) for source in sources])
    except ValueError:  # an absolute path and a relative one
        shared = ""
    return lambda location: location.removeprefix(shared).lstrip(os.sep) if shared and location.startswith(shared + os.sep) else location


def all_findings(scan: DataScan, dev: DataScan | None, short: Callable[[str], str]) -> dict[str, FindingTally]:
    """All findings by their kinds, those that compare rows among them."""
    found = dict(scan.findings)
    bad, empty = scan.bad_reasons + (dev.bad_reasons if dev else Counter()), scan.empty_reasons + (dev.empty_reasons if dev else Counter())

    def paired(pairs: Pairs, others: Digests, words: str) -> FindingTally:
        shown = list(zip(pairs.rows[:EXAMPLES], pairs.matches[:EXAMPLES], strict=True))
        return FindingTally(len(pairs), [(scan.digests.locations[row], f"{words} {short(others.locations[like])}") for row, like in shown])

    found |= {"bad": _by_reason(bad), "empty": _by_reason(empty)}
    found |= {"repeated": paired(repeated(scan.digests), scan.digests, "repeats")}
    found["contradicting"] = paired(contradicting(scan.digests), scan.digests, "asks what is asked in")
    if dev is not None:
        found["leaked"] = paired(leaked(scan.digests, dev.digests), dev.digests, "is")
        found["leaked_questions"] = paired(leaked_questions(scan.digests, dev.digests), dev.digests, "asks what is asked in")
    return {name: found[name] for name in KINDS if name in found and found[name].count}


def _by_reason(reasons: Counter[str]) -> FindingTally:
    return FindingTally(reasons.total(), [("", f"{count:,} × {reason}") for reason, count in reasons.most_common(EXAMPLES)])


def length_lines(scan: DataScan, style: Style) -> Iterator[str]:
    """Both histograms, what the limits cost, and which limits would cost less."""
    if not scan.samples:
        return
    yield heading(Bilingual("lengths in tokens", "词元长度"), style)
    for title, lengths in ((Bilingual("prompts", "提问"), scan.prompt_lengths), (Bilingual("answers", "回答"), scan.answer_lengths)):
        yield f"  {style(title.line, 'underline')}   {summary(lengths)} · limit {lengths.limit:,}"
        for line in histogram(lengths, style):
            yield f"    {line}"
        yield "    " + style(cost(lengths, title.english), *(["yellow"] if lengths.cut else ["green"]))
    for words, share in ((Bilingual("to cut at most 1 %", "至多截断 1 %"), CUT_SHARE), (Bilingual("to cut nothing", "不截断"), 0.0)):
        yield f"  {pad_right(words.line, 36)}{style(limits(scan.prompt_lengths, scan.answer_lengths, share), 'cyan')}"


def limits(source: Lengths, target: Lengths, share: float) -> str:
    """The knobs of a recipe that cut at most this share of each side."""
    return f"data.max_source_length={source.limit_for(share)} data.max_target_length={target.limit_for(share)}"


def language_line(languages: Counter[str], style: Style) -> Iterator[str]:
    """The share of rows or documents in each language."""
    whole = languages.total()
    if whole:
        yield heading(Bilingual("languages", "语言"), style)
        yield "  " + " · ".join(f"{LANGUAGE_NAMES.get(name, name)} {percent(count, whole)}" for name, count in languages.most_common())


def finding_lines(
    found: Mapping[str, FindingTally],
    short: Callable[[str], str],
    *,
    compared: bool,
    style: Style,
    columns: int = DEFAULT_COLUMNS,
    kinds: Mapping[str, FindingKind] = KINDS,
) -> Iterator[str]:
    """What was found of these `kinds`, the gravest first, each with its first rows; and what was looked for in vain."""
    yield heading(Bilingual("findings", "检查结果"), style)
    column = max([len(f"{tally.count:,}") for tally in found.values()], default=1)
    room = columns - column - 6
    for name, tally in found.items():
        kind = kinds[name]
        sign = style("✗", "red", "bold") if kind.severity == "error" else style("!", "yellow", "bold")
        mend = style(f"  · --fix {kind.fix}", "dim") if kind.fix else ""
        yield f"  {sign} {tally.count:>{column},}  {kind.label.line}{mend}"
        for location, text in tally.examples:
            before = f"{short(location)}  " if location else ""
            shown = before + clip_columns(text, max(min(EXCERPT_COLUMNS, room - width(before)), MIN_EXCERPT) if location else room)
            yield " " * (column + 6) + style(shown.rstrip(), "dim")
    absent = [kind.label.chinese for name, kind in kinds.items() if name not in found and (compared or not name.startswith("leaked"))]
    for number, row in enumerate(_wrap(Bilingual("none of the rest", "其余均未发现：").line, absent, room)):
        yield (f"  {style('✓', 'green', 'bold')} {0:>{column}}  " if number == 0 else " " * (column + 6)) + row


def _wrap(head: str, words: Sequence[str], columns: int) -> Iterator[str]:
    """The words in lines of so many columns, behind a head."""
    row = head
    for word in words:
        if width(row) + width(word) + 2 > columns:
            yield row
            row = ""
        row += word + ("、" if word != words[-1] else "")
    if words:
        yield row


def percent(part: int, whole: int) -> str:
    """A share as people read it: 12.5 %; what is there is never told as nothing."""
    return "< 0.1 %" if 0 < part < 0.0005 * whole else f"{100 * part / whole:.1f} %"
