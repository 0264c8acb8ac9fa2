"""The before/after report as one HTML file."""

import base64
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

from imprint.messages import Bilingual
from imprint.metrics.baseline import BASELINE
from imprint.metrics.means import Mean
from imprint.report.answers import answer_box, label_box, prompt_box
from imprint.report.comparison import (
    ComparedRow,
    Comparison,
    MetricLine,
    RateLine,
    WinCount,
    count_messages,
    format_signed,
    metric_lines,
    metric_notes,
    rate_lines,
    shown_message,
    tuned_warnings,
    win_counts,
)
from imprint.report.html import escape, page_header, ui_message, ui_text, write_page

SETTING_NAMES: Final[Mapping[str, str]] = MappingProxyType(
    {"data": "数据", "decoding": "解码方式", "seed": "随机种子", "references": "参考答案", "labels": "标签", "questions": "问题数"}
)
"""Setting of the evaluation -> its name in Chinese."""


def write_html(comparison: Comparison, path: Path) -> None:
    """Write the report to `path`."""
    rows = "\n".join(_row(number, row) for number, row in enumerate(comparison.shown, start=1))
    overline = ui_text(Bilingual("before and after tuning", "微调前后对照"))
    header = page_header(comparison.title, overline, comparison.base_name, comparison.tuned_name)
    write_page(
        path,
        comparison.title,
        header,
        f"""{_scores(comparison)}
<section aria-labelledby="answers">
<h2 id="answers">{ui_text(Bilingual("Answers side by side", "逐条对照"))}</h2>
{_counts(comparison)}
{_toolbar(comparison.shown)}
<div id="rows">
{rows}
</div>
<p id="none" hidden>{ui_text(Bilingual("No answer fits the choice above.", "没有符合条件的回答。"))}</p>
</section>""",
    )


def _scores(comparison: Comparison) -> str:
    """The tables of scores and failure rates, with warnings above and the evaluation settings below."""
    lines, base, tuned = metric_lines(comparison), comparison.base_summary, comparison.tuned_summary
    top = max([10.0, *(mean.high for line in lines if not line.lower_is_better for mean in (line.base, line.tuned))])
    baseline_cell = "<td></td>" if comparison.baseline else ""
    rates = (_rate(line, baseline_cell, plotted=bool(lines)) for line in rate_lines(comparison))
    body = "\n".join([*(_metric(line, top) for line in lines), *rates])
    settings = (
        {ui_text(Bilingual("protocol", "评分协议")): base.protocol, ui_text(Bilingual("rows scored", "评分条数")): f"{tuned.rows:,}"}
        if base and tuned
        else {}
    )
    settings |= {
        ui_text(Bilingual(escape(name), SETTING_NAMES.get(name, escape(name)))): value for name, value in comparison.settings.items()
    }
    items = "".join(f"<div><dt>{name}</dt><dd>{escape(value)}</dd></div>" for name, value in settings.items())
    warnings = "".join(f'<p class="warning">{ui_message(warning)}</p>' for warning in tuned_warnings(comparison))
    scale = f'<td class="plot" aria-hidden="true"><span>0</span><span>{top:.0f}</span></td>' if lines else ""
    baseline = f'<th scope="col">{escape(BASELINE)}</th>' if comparison.baseline else ""
    heading = ui_text(Bilingual("Scores", "评分")) if lines else ui_text(Bilingual("At a glance", "概览"))
    return f"""<section aria-labelledby="scores">
<h2 id="scores">{heading}</h2>
{warnings}
<div class="wide"><table class="scores">
<thead><tr><th scope="col">{ui_text(Bilingual("metric", "指标")) if lines else ui_text(Bilingual("share", "比例"))}</th>
<th scope="col">{ui_text(Bilingual("base", "底座"))}</th>
<th scope="col">{ui_text(Bilingual("tuned", "微调后"))}</th><th scope="col">{ui_text(Bilingual("difference", "变化"))}</th>{baseline}
{scale}</tr></thead>
<tbody>
{body}
</tbody>
</table></div>
{_picture(comparison)}
{_notes(comparison)}
<dl class="facts">{items}</dl>
</section>"""


def _notes(comparison: Comparison) -> str:
    """How to read the tables."""
    except_perplexity = (
        (", but for perplexity", "（困惑度除外）") if any(line.lower_is_better for line in metric_lines(comparison)) else ("", "")
    )
    score_note = ui_text(
        Bilingual(
            f"0 to 100, higher is nearer to the label{except_perplexity[0]}. Small print: 95 % bootstrap interval over the rows; ▲ better "
            "and ▼ worse stand where that of the difference leaves out 0. ",
            f"0 到 100，越高越接近参考答案{except_perplexity[1]}。小字：对样本做自助法（bootstrap）得到的 95% 区间；"
            "变化的区间不含 0 时标 ▲ 更好、▼ 更差。",
        )
    )
    rate_note = ui_text(
        Bilingual(
            "Repeating: a sequence of four characters occurs four times or more. Never-ending: cut off by the length limit.",
            "重复：某四个连续的字出现四次或更多。停不下来：回答是被长度上限截断的，而不是模型自己结束的。",
        )
    )
    if comparison.tuned_summary is None:
        return f'<p class="note">{rate_note}</p>'
    metrics = "".join(
        f'\n<p class="note">{ui_text(Bilingual(escape(note.english), escape(note.chinese)))}</p>'
        for note in metric_notes(comparison.tuned_summary)
    )
    return f'<p class="note">{score_note}{rate_note}</p>{metrics}'


def _picture(comparison: Comparison) -> str:
    """The picture of the scores, embedded in the page."""
    if comparison.picture is None:
        return ""
    data = base64.b64encode(comparison.picture.read_bytes()).decode()
    caption = ui_text(
        Bilingual("Confusion matrix: rows are true labels, columns are predicted labels.", "混淆矩阵：行是正确标签，列是模型给出的标签。")
    )
    return f'<figure><img alt="" src="data:image/png;base64,{data}"><figcaption class="note">{caption}</figcaption></figure>'


def _rate(line: RateLine, baseline_cell: str, *, plotted: bool) -> str:
    shares = "".join(f"<td>{'–' if share is None else f'{share:.1%}'}</td>" for share in (line.base, line.tuned))
    rise = "" if line.base is None or line.tuned is None else format_signed(100 * (line.tuned - line.base), 1)
    plot = '<td class="plot" aria-hidden="true"></td>' if plotted else ""
    return f'<tr class="rates"><th scope="row">{ui_text(line.name)}</th>{shares}<td>{rise}</td>{baseline_cell}{plot}</tr>'


def _metric(line: MetricLine, top: float) -> str:
    interval = f"<small>{format_signed(line.interval[0], 2)} … {format_signed(line.interval[1], 2)}</small>" if line.interval else ""
    baseline = _mean(line.baseline) if line.baseline else ""
    tracks = "" if line.lower_is_better else _track("base", line.base, 11, top) + _track("tuned", line.tuned, 24, top)
    return f"""<tr><th scope="row">{escape(line.metric.upper())}</th>{_mean(line.base)}{_mean(line.tuned)}
<td><span class="gain {line.kind}">{_arrow(line.kind)}{format_signed(line.gain, 2)}</span>{interval}</td>{baseline}
<td class="plot" aria-hidden="true"><svg width="100%" height="34">{tracks}</svg></td></tr>"""


def _mean(mean: Mean) -> str:
    return f"<td><b>{mean.value:.2f}</b><small>{mean.low:.2f} – {mean.high:.2f}</small></td>"


def _track(model: str, mean: Mean, height: int, top: float) -> str:
    """A bar up to the mean with a whisker over its interval, `height` pixels from the top; widths are in percent."""
    value, low, high = (f"{min(max(number / top, 0.0), 1.0) * 100:.2f}%" for number in (mean.value, mean.low, mean.high))
    return (
        f'<rect class="{model}" x="0" y="{height - 4}" width="{value}" height="8" rx="2"/>'
        f'<line class="whisker" x1="{low}" x2="{high}" y1="{height}" y2="{height}"/>'
    )


def _counts(comparison: Comparison) -> str:
    """What is counted over all rows: nearer answers as a sentence and a bar, wins by every other score, identical answers, new texts."""
    wins = win_counts(comparison.rows)
    messages = "".join(f"<p>{ui_message(_as_sentence(message))}</p>" for message in count_messages(comparison))
    shown = shown_message(comparison)
    note = "" if shown is None else f'<p class="note">{ui_message(shown)}</p>'
    return f'<div class="verdict">{_nearer(wins[0]) if wins else ""}{messages}</div>{_win_table(wins)}{note}'


def _as_sentence(message: Bilingual) -> Bilingual:
    return Bilingual(f"{message.english[0].upper()}{message.english[1:]}.", f"{message.chinese}。")


def _nearer(wins: WinCount) -> str:
    counts = {"up": wins.better, "even": wins.same, "down": wins.worse}
    start, bars = 0.0, ""
    for kind, count in counts.items():
        width = 100 * count / wins.rows
        bars += f'<rect class="{kind}" x="{start:.2f}%" width="{width:.2f}%" height="10"/>'
        start += width
    up, even, down = (f'<b class="gain {kind}">{count:,}</b>' for kind, count in counts.items())
    metric, rows = escape(wins.metric.upper()), f"{wins.rows:,}"
    english = f"By {metric} the tuned answer is nearer to the label in {up} of {rows}, as near in {even}, farther in {down}."
    chinese = f"按 {metric}，{rows} 条中微调后更接近参考答案的有 {up} 条，相同 {even} 条，更远 {down} 条。"
    return f'<p>{ui_text(Bilingual(english, chinese))}</p><svg class="share" width="100%" height="10" aria-hidden="true">{bars}</svg>'


def _win_table(wins: list[WinCount]) -> str:
    """Better, same and worse by each score; empty if there is only one, which the sentence above tells."""
    if len(wins) < 2:
        return ""
    names = (Bilingual("by", "指标"), Bilingual("better", "更好"), Bilingual("same", "相同"), Bilingual("worse", "更差"))
    head = "".join(f'<th scope="col">{ui_text(name)}</th>' for name in names)
    lines = "\n".join(
        f'<tr><th scope="row">{escape(one.metric.upper())}</th><td>{one.better:,}</td><td>{one.same:,}</td><td>{one.worse:,}</td></tr>'
        for one in wins
    )
    summary = ui_text(Bilingual("Wins by score", "各指标的胜负"))
    return f"""<details><summary>{summary}</summary>
<div class="wide"><table class="scores wins"><thead><tr>{head}</tr></thead><tbody>
{lines}
</tbody></table></div></details>"""


def _toolbar(rows: tuple[ComparedRow, ...]) -> str:
    """Sorting and filtering, hidden until the script runs. Options hold both languages, because the style cannot switch them."""
    if len(rows) < 2:
        return ""
    labelled = any(row.label for row in rows)
    choices = f"""<label>{ui_text(Bilingual("Show", "显示"))} <select id="filter">
<option value="all">all · 全部</option><option value="up">nearer · 更接近</option>
<option value="down">farther · 更远</option><option value="even">as near · 相同</option></select></label>
<label>{ui_text(Bilingual("Order", "排序"))} <select id="order">
<option value="file">as in the data · 原顺序</option><option value="gain">largest gain · 提升最大</option>
<option value="loss">largest loss · 下降最大</option></select></label>"""
    highlight_note = ui_text(Bilingual("<mark>Marked</mark>: words that the label has too.", "<mark>高亮</mark>：参考答案中也有的词语。"))
    return f"""<form class="tools" id="tools" hidden>
{choices if labelled else ""}
<label class="find">{ui_text(Bilingual("Find", "查找"))} <input type="search" id="find" autocomplete="off"></label>
<output id="count" for="{"filter order find" if labelled else "find"}"></output>
</form>
{f'<p class="note">{highlight_note}</p>' if labelled else ""}"""


def _row(number: int, row: ComparedRow) -> str:
    kind, gain = _kind(row), row.gain
    badge = f'<span class="gain {kind}">{_arrow(kind)}{escape(row.metric.upper())} {format_signed(gain, 1)}</span>' if row.label else ""
    return f"""<article class="row" id="row-{number}" data-index="{number}" data-kind="{kind}" data-gain="{gain:.4f}">
<div class="head"><h3><a href="#row-{number}">{number}</a></h3>{badge}</div>
{prompt_box(row.prompt)}
{label_box(row.label)}
<div class="pair">
{answer_box("base", row.base, row.label, row.base_scores, row.tuned_scores)}
{answer_box("tuned", row.tuned, row.label, row.tuned_scores, row.base_scores)}
</div>
</article>"""


def _kind(row: ComparedRow) -> str:
    """Whether the tuned answer is nearer to its label than the base's: "up", "down" or "even"."""
    return "up" if row.gain > 0 else "down" if row.gain < 0 else "even"


def _arrow(kind: str) -> str:
    return {"up": "▲ ", "down": "▼ ", "even": ""}[kind]
