"""The report of a run as one HTML file: results, curves, examples before and after, forgetting and the recipe."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from imprint.events import Event, Step, values_by_step
from imprint.forgetting.fill_recall import FillRecall, recalls_fill
from imprint.forgetting.probes import contains
from imprint.forgetting.score import Forgetting, ProbeResult
from imprint.messages import Bilingual
from imprint.report.answers import answer_box, label_box, prompt_box
from imprint.report.chart import chart, line_from_log
from imprint.report.html import escape, lang_attribute, page_header, ui_message, ui_text, write_page

ExampleKind = Literal["held-out", "learned", "watched"]
"""Held-out rows, rows that were trained on, or prompts that were sampled during the run."""
FATES: Final[Mapping[str, tuple[str, Bilingual]]] = {
    "lost": ("down", Bilingual("✗ lost", "✗ 丢失")),
    "right": ("up", Bilingual("✓ still right", "✓ 仍然正确")),
    "same": ("up", Bilingual("✓ the same", "✓ 不变")),
    "never": ("even", Bilingual("– the base had it wrong", "– 底座本就答错")),
}
"""Fate of an answer -> CSS class and badge."""
OPEN_EXAMPLES: Final = 8
"""How many examples are not folded."""


@dataclass(frozen=True)
class Example:
    """A row of the run's own data before and after."""

    prompt: str
    """The prompt."""
    label: str
    """The reference answer; empty if there is none."""
    base: str
    """The base's answer."""
    tuned: str
    """The tuned model's answer."""


@dataclass(frozen=True)
class RunReport:
    """The data of a run's report."""

    title: str
    """The name of the run."""
    base_name: str
    """The name of the base."""
    method: str
    """How it was tuned: prefix, lora, full."""
    summary: tuple[Bilingual, ...]
    """The messages at its end."""
    events: Sequence[Event]
    """Its log."""
    examples: tuple[Example, ...]
    """Rows of its own data."""
    example_kind: ExampleKind
    """Where the examples come from."""
    fill_texts: tuple[str, ...]
    """The texts of data.fill; an answer with those of its label is correct."""
    forgetting: Forgetting | None
    """The measured forgetting; None if it was not measured."""
    recipe: str
    """The recipe with every knob."""


def write_report(report: RunReport, path: Path) -> None:
    """Write the report to `path`."""
    header = page_header(
        report.title, ui_text(Bilingual("training report", "训练报告")), report.base_name, f"{report.title} ({report.method})"
    )
    parts = [_overview(report), _curves(report), _examples(report), _forgetting(report), _recipe(report)]
    write_page(path, report.title, header, "\n".join(part for part in parts if part))


def _section(name: str, heading: str, content: str) -> str:
    return f'<section aria-labelledby="{name}">\n<h2 id="{name}">{heading}</h2>\n{content}\n</section>'


def _overview(report: RunReport) -> str:
    """The main figures and the messages at the end of the run."""
    tiles = "".join(f'<div class="tile"><dt>{name}</dt><dd>{value}</dd></div>' for name, value in _tiles(report))
    messages = "".join(f"<p>{ui_message(message)}</p>" for message in report.summary)
    return _section(
        "glance", ui_text(Bilingual("At a glance", "概览")), f'<dl class="tiles">{tiles}</dl>\n<div class="verdict">{messages}</div>'
    )


def _tiles(report: RunReport) -> list[tuple[str, str]]:
    """(name, value) as HTML."""
    losses = list(values_by_step(report.events, "eval_loss").values())
    tiles = []
    if losses:
        tiles.append((ui_text(Bilingual("evaluation loss", "评估损失")), f"{losses[0]:.3f} → <b>{min(losses):.3f}</b>"))
    if counted := FillRecall.count([(row.label, row.base, row.tuned) for row in report.examples], report.fill_texts):
        tiles.append(
            (
                ui_text(Bilingual("answers with the new texts", "含新内容的回答")),
                f"{counted.before} → <b>{counted.after}</b> / {counted.rows}",
            )
        )
    if report.forgetting is not None and report.forgetting.share is not None:
        forgetting = report.forgetting
        tiles.append(
            (
                ui_text(Bilingual("answers kept", "原有回答保留")),
                f"<b>{forgetting.share:.1%}</b> <small>{forgetting.kept} / {forgetting.counted}</small>",
            )
        )
    if report.forgetting is not None and report.forgetting.kl is not None:
        tiles.append((ui_text(Bilingual("KL, nats a token", "每词元 KL 散度")), f"<b>{report.forgetting.kl:.4f}</b>"))
    steps = [event for event in report.events if isinstance(event, Step)]
    if steps:
        tiles.append(
            (
                ui_text(Bilingual("steps, time", "步数与用时")),
                f"<b>{escape(steps[-1].step)}</b> <small>{_duration(steps[-1].seconds)}</small>",
            )
        )
        peak = max(event.memory_gib for event in steps)
        tiles.append((ui_text(Bilingual("peak memory", "内存峰值")), f"<b>{peak:.2f}</b> <small>GiB</small>"))
    return tiles


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds) if math.isfinite(seconds) else 0, 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _curves(report: RunReport) -> str:
    events = report.events
    figures = [
        chart(
            Bilingual("Loss", "损失"),
            [
                line_from_log(events, "loss", Bilingual("training", "训练"), "base"),
                line_from_log(events, "eval_loss", Bilingual("evaluation", "评估"), "tuned", dots=True),
            ],
            lambda value: f"{value:.3f}",
        ),
        chart(
            Bilingual("Memory", "内存"),
            [line_from_log(events, "memory_gib", Bilingual("peak so far", "至此峰值"), "up")],
            lambda value: f"{value:.2f} GiB",
            from_zero=True,
        ),
        chart(
            Bilingual("Learning rate", "学习率"),
            [line_from_log(events, "learning_rate", Bilingual("learning rate", "学习率"), "even")],
            lambda value: f"{value:.1e}" if value else "0",
            from_zero=True,
        ),
    ]
    charts = "\n".join(figure for figure in figures if figure)
    return _section("curves", ui_text(Bilingual("Curves", "曲线")), f'<div class="charts">{charts}</div>') if charts else ""


def _examples(report: RunReport) -> str:
    """Examples of the run's own data before and after; those not learned come first."""
    if not report.examples:
        return ""
    note = {
        "held-out": ui_text(Bilingual("Held-out rows: they were not trained on.", "留出的数据，训练中没有用到。")),
        "learned": ui_text(Bilingual("No row was held out; these were trained on.", "没有留出数据；以下各行参与了训练。")),
        "watched": ui_text(Bilingual("Watched prompts: the first answer and the last.", "训练中观察的提示：最初与最后的回答。")),
    }[report.example_kind]
    numbered = sorted(enumerate(report.examples, start=1), key=lambda item: _has_fill_texts(item[1], report.fill_texts) is not False)
    rows = [_example(number, row, report.fill_texts) for number, row in numbered]
    visible, more = rows[:OPEN_EXAMPLES], rows[OPEN_EXAMPLES:]
    folded = (
        f"<details><summary>{ui_text(Bilingual(f'{len(more)} more', f'其余 {len(more)} 条'))}</summary>{''.join(more)}</details>"
        if more
        else ""
    )
    return _section(
        "own",
        ui_text(Bilingual("Your data, before and after", "自己的数据：微调前后")),
        f'<p class="note">{note}</p>{"".join(visible)}{folded}',
    )


def _has_fill_texts(row: Example, texts: Sequence[str]) -> bool | None:
    """Whether the tuned answer has the fill texts of the label; None if the label has none."""
    return recalls_fill(row.label, row.tuned, texts) if any(contains(row.label, text) for text in texts) else None


def _example(number: int, row: Example, texts: Sequence[str]) -> str:
    badge = ""
    if (correct := _has_fill_texts(row, texts)) is not None:
        text = Bilingual("✓ new", "✓ 新内容") if correct else Bilingual("✗ not learned", "✗ 未学会")
        badge = f'<span class="gain {"up" if correct else "down"}">{ui_text(text)}</span>'
    answers = f"{answer_box('base', row.base, row.label, {}, {})}\n{answer_box('tuned', row.tuned, row.label, {}, {})}"
    return f"""<article class="row" id="row-{number}">
<div class="head"><h3><a href="#row-{number}">{number}</a></h3>{badge}</div>
{prompt_box(row.prompt)}
{label_box(row.label)}
<div class="pair">
{answers}
</div>
</article>"""


def _forgetting(report: RunReport) -> str:
    """The base's answers before and after: lost ones visible, the others folded."""
    forgetting = report.forgetting
    if forgetting is None:
        note = ui_text(Bilingual("Not measured. `imprint forgetting RUN` does.", "未评估；可运行 `imprint forgetting RUN`。"))
        return _section("kept", ui_text(Bilingual("Abilities of the base", "原有能力")), f'<p class="note">{note}</p>'.replace("`", ""))
    lost = [row for row in forgetting.rows if row.fate == "lost"]
    kept = [row for row in forgetting.rows if row.fate in ("same", "right")]
    never = [row for row in forgetting.rows if row.fate == "never"]
    if forgetting.share is None:
        english = f"The base answers none of {len(forgetting.rows)} questions correctly, so there was nothing to keep."
        chinese, bar = f"底座没有答对 {len(forgetting.rows)} 个问题中的任何一个，没有可保留的回答。", ""
    else:
        kept_count = f"{forgetting.kept} of {forgetting.counted} answers are kept"
        english = f"{kept_count}: the same as before, or right in other words. {len(lost)} are lost."
        chinese = f"{forgetting.counted} 个回答中保留 {forgetting.kept} 个（与之前相同，或换了说法仍正确），丢失 {len(lost)} 个。"
        width = f"{100 * forgetting.share:.2f}%"
        rest = f'<rect class="down" x="{width}" width="{100 - 100 * forgetting.share:.2f}%" height="10"/>'
        bar = f'<svg class="share" width="100%" height="10" aria-hidden="true"><rect class="up" width="{width}" height="10"/>{rest}</svg>'
    probes, text, tokens = escape(forgetting.probes_from), escape(forgetting.text_from), escape(forgetting.tokens)
    note = ui_text(
        Bilingual(
            f"Questions: {probes}. KL over {tokens} tokens of {text}. Not counted: what the base itself gets wrong.",
            f"探测问题：{probes}；KL 在 {text} 的 {tokens} 个词元上计算。底座本就答错的不计入。",
        )
    )
    tables = [
        _probe_table(lost, ui_text(Bilingual("Lost", "丢失")), is_open=True),
        _probe_table(kept, ui_text(Bilingual(f"Kept ({len(kept)})", f"保留（{len(kept)}）")), is_open=False),
        _probe_table(never, ui_text(Bilingual(f"Not counted ({len(never)})", f"不计入（{len(never)}）")), is_open=False),
    ]
    content = f'<p>{ui_text(Bilingual(english, chinese))}</p>{bar}<p class="note">{note}</p>\n{"".join(tables)}'
    return _section("kept", ui_text(Bilingual("Abilities of the base, before and after", "原有能力：微调前后")), content)


def _probe_table(rows: Sequence[ProbeResult], name: str, *, is_open: bool) -> str:
    if not rows:
        return ""
    lines = "\n".join(_probe_row(row) for row in rows)
    head = "".join(
        f'<th scope="col">{ui_text(name)}</th>'
        for name in (
            *(Bilingual("question", "问题"), Bilingual("base", "底座")),
            *(Bilingual("tuned", "微调后"), Bilingual("result", "结果")),
        )
    )
    opened = " open" if is_open else ""
    return f"""<details{opened}><summary>{name}</summary>
<table class="asked"><thead><tr>{head}</tr></thead><tbody>
{lines}
</tbody></table></details>"""


def _probe_row(row: ProbeResult) -> str:
    kind, badge = FATES[row.fate]
    cells = "".join(f"<td{lang_attribute(text)}>{escape(text) or '–'}</td>" for text in (row.question, row.base, row.tuned))
    return f'<tr>{cells}<td><span class="gain {kind}">{ui_text(badge)}</span></td></tr>'


def _recipe(report: RunReport) -> str:
    summary = ui_text(Bilingual("every knob with its value", "全部选项"))
    content = f"<details><summary>{summary}</summary><pre>{escape(report.recipe)}</pre></details>"
    return _section("recipe", ui_text(Bilingual("Recipe", "配方")), content)
