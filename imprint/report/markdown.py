"""The before/after report as Markdown, for terminals, code hosts and notes."""

import re
from collections.abc import Mapping
from pathlib import Path

from imprint.files.atomic import write_text
from imprint.metrics.baseline import BASELINE
from imprint.metrics.means import Mean
from imprint.report.comparison import (
    ComparedRow,
    Comparison,
    count_messages,
    format_signed,
    metric_lines,
    metric_notes,
    rate_lines,
    shown_message,
    tuned_warnings,
    win_counts,
)
from imprint.terminal import harmless

MARKUP = re.compile(r"([\\`*_{}\[\]()#+!|~])")


def write_markdown(comparison: Comparison, path: Path) -> None:
    """Write the report to `path` atomically."""
    parts = [f"# {_cell(comparison.title)}", _facts(comparison), _warnings(comparison), _summary(comparison), _counts(comparison)]
    parts += [_row(number, row, comparison) for number, row in enumerate(comparison.shown, start=1)]
    write_text(path, "\n\n".join(part for part in parts if part) + "\n")


def _facts(comparison: Comparison) -> str:
    return "\n".join(f"* {_cell(name)}: {_cell(value)}" for name, value in comparison.settings.items())


def _warnings(comparison: Comparison) -> str:
    return "\n\n".join(
        f"> **Warning.** {_cell(warning.english)}<br>**警告。** {_cell(warning.chinese)}" for warning in tuned_warnings(comparison)
    )


def _summary(comparison: Comparison) -> str:
    protocol = comparison.base_summary.protocol if comparison.base_summary else "answers"
    has_baseline = comparison.baseline is not None
    columns = [protocol, _cell(comparison.base_name), _cell(comparison.tuned_name), "difference", *([BASELINE] if has_baseline else [])]
    lines = [
        f"| {' | '.join(columns)} |",
        "|---|---:|---:|---:|" + ("---:|" if has_baseline else ""),
    ]
    scored = metric_lines(comparison)
    for line in scored:
        interval = f" ({format_signed(line.interval[0], 2)} to {format_signed(line.interval[1], 2)})" if line.interval else ""
        baseline = f" {_mean(line.baseline)} |" if line.baseline else ""
        lines.append(
            f"| {line.metric} | {_mean(line.base)} | {_mean(line.tuned)} | **{format_signed(line.gain, 2)}**{interval} |{baseline}"
        )
    empty_cell = " |" if has_baseline else ""
    lines += [f"| {rate.name.english} | {_share(rate.base)} | {_share(rate.tuned)} | |{empty_cell}" for rate in rate_lines(comparison)]
    notes = []
    if scored and comparison.base_summary is not None:
        notes = ["In brackets: 95 % bootstrap intervals over the rows."]
        notes += [_cell(note.english) for note in metric_notes(comparison.base_summary)]
    if comparison.picture is not None:
        notes.append(f"![confusion matrix]({comparison.picture.name})")
    return "\n\n".join(["\n".join(lines), *notes])


def _counts(comparison: Comparison) -> str:
    """What is counted over all rows, and how many are shown."""
    shown = shown_message(comparison)
    messages = [*(wins.message() for wins in win_counts(comparison.rows)), *count_messages(comparison), *([shown] if shown else [])]
    return "\n".join(f"* {_cell(one.english)}<br>{_cell(one.chinese)}" for one in messages)


def _row(number: int, row: ComparedRow, comparison: Comparison) -> str:
    scored = tuple(row.tuned_scores) if row.label else ()
    lines = [("prompt", row.prompt, [""] * len(scored))]
    if row.label:
        lines.append(("label", row.label, [""] * len(scored)))
    lines.append((_cell(comparison.base_name), row.base, _scores(row.base_scores) if scored else []))
    lines.append((_cell(comparison.tuned_name), row.tuned, _scores(row.tuned_scores) if scored else []))
    table = [["", "text", *scored], ["---", "---", *["---:"] * len(scored)]]
    table += [[name, _cell(text), *scores] for name, text, scores in lines]
    return f"## {number}\n\n" + "\n".join(f"| {' | '.join(cells)} |" for cells in table)


def _share(value: float | None) -> str:
    return "not known" if value is None else f"{value:.1%}"


def _mean(mean: Mean) -> str:
    return f"{mean.value:.2f} ({mean.low:.2f} to {mean.high:.2f})"


def _scores(row: Mapping[str, float]) -> list[str]:
    return [f"{value:.2f}" for value in row.values()]


def _cell(text: str) -> str:
    """The text as one line of a Markdown table cell, with all markup escaped."""
    if not text.strip():
        return "*(empty)*"
    plain = harmless(text.strip()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return "<br>".join(MARKUP.sub(r"\\\1", line.strip()) for line in plain.splitlines())
