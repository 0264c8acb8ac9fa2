"""The report of a run as one HTML file: what came of it, before and after, what was lost, the curves and the recipe."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, Final, Literal

from imprint.forgetting.filled import Filled, says_it
from imprint.forgetting.probes import holds
from imprint.forgetting.score import Asked, Forgetting
from imprint.report.answers import answer_box, prompt_box
from imprint.report.chart import chart, line_of
from imprint.report.html import both, language, masthead, shown, write_page

Examples = Literal["held-out", "learned", "watched"]
"""What examples are: rows that nobody learned from, rows that were learned, or prompts that were watched during the run."""
FATES: Final[Mapping[str, tuple[str, str, str]]] = {
    "lost": ("down", "✗ lost", "✗ 丢失"),
    "right": ("up", "✓ still right", "✓ 仍然正确"),
    "same": ("up", "✓ the same", "✓ 不变"),
    "never": ("even", "– the base had it wrong", "– 底座本就答错"),
}
"""What became of an answer -> its colour, and how it is marked."""
SHOWN: Final = 8
"""How many examples stand open."""


@dataclass(frozen=True)
class Example:
    """A row of the run's own data before and after."""

    prompt: str
    """What was asked."""
    label: str
    """What the data says; empty where there is no reference."""
    base: str
    """What the base answers."""
    tuned: str
    """What the tuned model answers."""


@dataclass(frozen=True)
class RunReport:
    """Everything that the report of a run shows."""

    title: str
    """The name of the run."""
    base_name: str
    """What the base is called."""
    method: str
    """How it was tuned: prefix, lora, full."""
    verdict: tuple[tuple[str, str], ...]
    """What was said at its end, in English and Chinese."""
    points: Sequence[Mapping[str, Any]]
    """The lines of its log."""
    examples: tuple[Example, ...]
    """Rows of its own data."""
    examples_are: Examples
    """What these are."""
    texts: tuple[str, ...]
    """What data.fill says: an answer with the one that its label has is right."""
    forgetting: Forgetting | None
    """What the base has forgotten, where it was measured."""
    recipe: str
    """The recipe, every knob."""


def write_report(report: RunReport, path: Path) -> None:
    """Write the report to `path`."""
    top = masthead(report.title, both("report of a run", "训练报告"), report.base_name, f"{report.title} ({report.method})")
    parts = [_glance(report), _curves(report), _examples(report), _forgotten(report), _recipe(report)]
    write_page(path, report.title, top, "\n".join(part for part in parts if part))


def _section(name: str, heading: str, content: str) -> str:
    return f'<section aria-labelledby="{name}">\n<h2 id="{name}">{heading}</h2>\n{content}\n</section>'


def _glance(report: RunReport) -> str:
    """The numbers that matter, and what was said of them."""
    tiles = "".join(f'<div class="tile"><dt>{name}</dt><dd>{value}</dd></div>' for name, value in _tiles(report))
    said = "".join(f"<p>{both(shown(english), shown(chinese))}</p>" for english, chinese in report.verdict)
    return _section("glance", both("At a glance", "概览"), f'<dl class="tiles">{tiles}</dl>\n<div class="verdict">{said}</div>')


def _tiles(report: RunReport) -> list[tuple[str, str]]:
    """(name, value) as HTML."""
    losses = [point["eval_loss"] for point in report.points if point.get("eval_loss") is not None]
    found = []
    if losses:
        found.append((both("evaluation loss", "评估损失"), f"{losses[0]:.3f} → <b>{min(losses):.3f}</b>"))
    if counted := Filled.of([(row.label, row.base, row.tuned) for row in report.examples], report.texts):
        found.append((both("answers with the new texts", "含新内容的回答"), f"{counted.before} → <b>{counted.after}</b> / {counted.rows}"))
    if report.forgetting is not None and report.forgetting.share is not None:
        kept = report.forgetting
        found.append((both("answers kept", "原有回答保留"), f"<b>{kept.share:.1%}</b> <small>{kept.kept} / {kept.counted}</small>"))
    if report.forgetting is not None and report.forgetting.kl is not None:
        found.append((both("KL, nats a token", "每词元 KL 散度"), f"<b>{report.forgetting.kl:.4f}</b>"))
    steps = [point for point in report.points if point.get("seconds") is not None]
    if steps:
        found.append((both("steps, time", "步数与用时"), f"<b>{steps[-1]['step']}</b> <small>{_clock(steps[-1]['seconds'])}</small>"))
        peak = max(point.get("memory_gib") or 0.0 for point in steps)
        found.append((both("peak memory", "内存峰值"), f"<b>{peak:.2f}</b> <small>GiB</small>"))
    return found


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _curves(report: RunReport) -> str:
    points = report.points
    drawn = [
        chart(
            "Loss",
            "损失",
            [
                line_of(points, "loss", "training", "训练", "base"),
                line_of(points, "eval_loss", "evaluation", "评估", "tuned", dots=True),
            ],
            lambda value: f"{value:.3f}",
        ),
        chart(
            "Memory",
            "内存",
            [line_of(points, "memory_gib", "peak so far", "至此峰值", "up")],
            lambda value: f"{value:.2f} GiB",
            from_zero=True,
        ),
        chart(
            "Learning rate",
            "学习率",
            [line_of(points, "learning_rate", "learning rate", "学习率", "even")],
            lambda value: f"{value:.1e}" if value else "0",
            from_zero=True,
        ),
    ]
    charts = "\n".join(one for one in drawn if one)
    return _section("curves", both("Curves", "曲线"), f'<div class="charts">{charts}</div>') if charts else ""


def _examples(report: RunReport) -> str:
    """Your own data before and after, what is not learned yet on top."""
    if not report.examples:
        return ""
    what = {
        "held-out": both("Rows that were held out: nobody learned from them.", "留出的数据，训练中没有用到。"),
        "learned": both("No row was held out; these were learned from.", "没有留出数据；以下各行参与了训练。"),
        "watched": both("What was watched: the first answer and the last.", "训练中观察的提示：最初与最后的回答。"),
    }[report.examples_are]
    numbered = sorted(enumerate(report.examples, start=1), key=lambda one: _says_new(one[1], report.texts) is not False)
    rows = [_example(number, row, report.texts) for number, row in numbered]
    few, more = rows[:SHOWN], rows[SHOWN:]
    folded = f"<details><summary>{both(f'{len(more)} more', f'其余 {len(more)} 条')}</summary>{''.join(more)}</details>" if more else ""
    return _section("own", both("Your data, before and after", "自己的数据：微调前后"), f'<p class="note">{what}</p>{"".join(few)}{folded}')


def _says_new(row: Example, texts: Sequence[str]) -> bool | None:
    """Whether the tuned answer has the texts that the label has; None where it has none of them."""
    return says_it(row.label, row.tuned, texts) if any(holds(row.label, text) for text in texts) else None


def _example(number: int, row: Example, texts: Sequence[str]) -> str:
    badge = ""
    if (right := _says_new(row, texts)) is not None:
        badge = (
            f'<span class="gain {"up" if right else "down"}">{both("✓ new", "✓ 新内容") if right else both("✗ not yet", "✗ 未学会")}</span>'
        )
    label = ""
    if row.label:
        label = f'<div class="label"><h4>{both("label", "参考答案")}</h4><p{language(row.label)}>{escape(row.label)}</p></div>'
    answers = f"{answer_box('base', row.base, row.label, {}, {})}\n{answer_box('tuned', row.tuned, row.label, {}, {})}"
    return f"""<article class="row" id="row-{number}">
<div class="head"><h3><a href="#row-{number}">{number}</a></h3>{badge}</div>
{prompt_box(row.prompt)}
{label}
<div class="pair">
{answers}
</div>
</article>"""


def _forgotten(report: RunReport) -> str:
    """What the base could before, and what became of it: lost answers open, the others folded."""
    found = report.forgetting
    if found is None:
        told = both("Not measured. `imprint forgetting RUN` does.", "未评估；可运行 `imprint forgetting RUN`。")
        return _section("kept", both("What the base could", "原有能力"), f'<p class="note">{told}</p>'.replace("`", ""))
    lost = [row for row in found.rows if row.fate == "lost"]
    kept = [row for row in found.rows if row.fate in ("same", "right")]
    never = [row for row in found.rows if row.fate == "never"]
    if found.share is None:
        english = f"The base answers none of {len(found.rows)} questions rightly, so there was nothing to keep."
        chinese, bar = f"底座没有答对 {len(found.rows)} 个问题中的任何一个，没有可保留的回答。", ""
    else:
        english = f"{found.kept} of {found.counted} answers are kept: the same as before, or right in other words. {len(lost)} are lost."
        chinese = f"{found.counted} 个回答中保留 {found.kept} 个（与之前相同，或换了说法仍正确），丢失 {len(lost)} 个。"
        width = f"{100 * found.share:.2f}%"
        rest = f'<rect class="down" x="{width}" width="{100 - 100 * found.share:.2f}%" height="10"/>'
        bar = f'<svg class="share" width="100%" height="10" aria-hidden="true"><rect class="up" width="{width}" height="10"/>{rest}</svg>'
    note = both(
        f"Questions: {escape(found.probes_from)}. KL over {found.tokens} tokens of {escape(found.text_from)}. Not counted: what the base "
        "itself gets wrong.",
        f"探测问题：{escape(found.probes_from)}；KL 在 {escape(found.text_from)} 的 {found.tokens} 个词元上计算。底座本就答错的不计入。",
    )
    tables = [
        _asked_table(lost, both("Lost", "丢失"), is_open=True),
        _asked_table(kept, both(f"Kept ({len(kept)})", f"保留（{len(kept)}）"), is_open=False),
        _asked_table(never, both(f"Not counted ({len(never)})", f"不计入（{len(never)}）"), is_open=False),
    ]
    content = f'<p>{both(english, chinese)}</p>{bar}<p class="note">{note}</p>\n{"".join(tables)}'
    return _section("kept", both("What the base could, before and after", "原有能力：微调前后"), content)


def _asked_table(rows: Sequence[Asked], name: str, *, is_open: bool) -> str:
    if not rows:
        return ""
    lines = "\n".join(_asked_line(row) for row in rows)
    head = "".join(
        f'<th scope="col">{both(*names)}</th>'
        for names in (("question", "问题"), ("base", "底座"), ("tuned", "微调后"), ("what became of it", "结果"))
    )
    opened = " open" if is_open else ""
    return f"""<details{opened}><summary>{name}</summary>
<table class="asked"><thead><tr>{head}</tr></thead><tbody>
{lines}
</tbody></table></details>"""


def _asked_line(row: Asked) -> str:
    kind, english, chinese = FATES[row.fate]
    cells = "".join(f"<td{language(text)}>{escape(text) or '–'}</td>" for text in (row.question, row.base, row.tuned))
    return f'<tr>{cells}<td><span class="gain {kind}">{both(english, chinese)}</span></td></tr>'


def _recipe(report: RunReport) -> str:
    summary = both("every knob with its value", "全部选项")
    content = f"<details><summary>{summary}</summary><pre>{escape(report.recipe)}</pre></details>"
    return _section("recipe", both("Recipe", "配方"), content)
