"""The report of a run as one HTML file: results, curves, examples before and after, forgetting and the recipe."""

import math
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from types import MappingProxyType
from typing import Final

from imprint.events import Finished, Rescued, Step, evaluation_losses
from imprint.forgetting.fill_recall import recalls_fill
from imprint.forgetting.probes import contains
from imprint.forgetting.result import ProbeResult
from imprint.messages import Bilingual
from imprint.report.answers import answer_box, label_box, prompt_box
from imprint.report.chart import Mark, chart, line_from_log
from imprint.report.facts import run_facts
from imprint.report.headline import Level, headline
from imprint.report.html import escape, lang_attribute, page_header, section, ui_message, ui_text, write_page
from imprint.report.run_report import Example, RunReport
from imprint.report.run_scores import before_and_after

LEVELS: Final[Mapping[Level, Bilingual]] = MappingProxyType(
    {"good": Bilingual("✓ good", "✓ 良好"), "fair": Bilingual("! take a look", "! 请留意"), "bad": Bilingual("✗ not good", "✗ 不理想")}
)
"""How good a run is -> badge; the CSS class is the same word."""
FATES: Final[Mapping[str, tuple[str, Bilingual]]] = {
    "lost": ("down", Bilingual("✗ lost", "✗ 丢失")),
    "right": ("up", Bilingual("✓ still right", "✓ 仍然正确")),
    "same": ("up", Bilingual("✓ the same", "✓ 不变")),
    "never": ("even", Bilingual("– the base had it wrong", "– 底座本就答错")),
}
"""Fate of an answer -> CSS class and badge."""
OPEN_EXAMPLES: Final = 8
"""How many examples are not folded."""
MARKED_CHARACTERS: Final = 300_000
"""Most characters of answers and labels whose words are compared: it takes seconds."""
OPEN_LOST: Final = 10
"""How many lost answers are not folded."""


def write_report(report: RunReport, path: Path) -> None:
    """Write the report to `path`."""
    header = page_header(
        report.title, ui_text(Bilingual("training report", "训练报告")), report.base_name, f"{report.title} ({report.method})"
    )
    parts = [_overview(report), _curves(report), _examples(report), _forgetting(report), run_facts(report), _recipe(report)]
    write_page(path, report.title, header, "\n".join(part for part in parts if part))


def _overview(report: RunReport) -> str:
    """What was learned and what it cost, in a sentence; the main figures, and the messages at the end of the run."""
    found = headline(report)
    cures = "".join(f"<p>{ui_message(cure)}</p>" for cure in found.cures)
    badge = f'<b class="badge">{ui_text(LEVELS[found.level])}</b>'
    box = f'<div class="headline {found.level}"><p>{badge} <strong>{ui_message(found.sentence)}</strong></p>{cures}</div>'
    tiles = "".join(f'<div class="tile"><dt>{name}</dt><dd>{value}</dd></div>' for name, value in _tiles(report))
    messages = "".join(f"<p>{ui_message(message)}</p>" for message in report.verdict)
    return section(
        "glance", ui_text(Bilingual("At a glance", "概览")), f'{box}\n<dl class="tiles">{tiles}</dl>\n<div class="verdict">{messages}</div>'
    )


def _tiles(report: RunReport) -> list[tuple[str, str]]:
    """(name, value) as HTML."""
    losses = evaluation_losses(report.events)
    tiles = []
    if losses:
        before = f"{losses[0]:.3f} → " if 0 in losses else ""
        tiles.append((ui_text(Bilingual("evaluation loss", "评估损失")), f"{before}<b>{min(losses.values()):.3f}</b>"))
    if counted := report.filled:
        name = ui_text(Bilingual("answers with the new texts", "含新内容的回答"))
        tiles.append((name, f"{counted.before} → <b>{counted.after}</b> / {counted.rows}"))
    tiles += _score_tiles(report)
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


def _score_tiles(report: RunReport) -> list[tuple[str, str]]:
    """The scores of the largest evaluation."""
    for base, tuned in before_and_after(list(report.scores))[:1]:
        olds = base.means if base is not None and base.rows == tuned.rows else {}
        return [
            (
                escape(metric.upper()),
                f"{f'{olds[metric]:.2f} → ' if metric in olds else ''}<b>{value:.2f}</b> <small>{escape(tuned.name)}</small>",
            )
            for metric, value in tuned.means.items()
        ]
    return []


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds) if math.isfinite(seconds) else 0, 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _curves(report: RunReport) -> str:
    events = report.events
    figures = [
        chart(
            Bilingual("Loss", "损失"),
            [
                line_from_log(events, "loss", Bilingual("training", "训练"), css_class="base"),
                line_from_log(events, "eval_loss", Bilingual("evaluation", "评估"), css_class="tuned", dots=True),
            ],
            lambda value: f"{value:.3f}",
            marks=_marks(report),
        ),
        chart(
            Bilingual("Memory", "内存"),
            [line_from_log(events, "memory_gib", Bilingual("peak so far", "至此峰值"), css_class="up")],
            lambda value: f"{value:.2f} GiB",
            from_zero=True,
        ),
        chart(
            Bilingual("Learning rate", "学习率"),
            [line_from_log(events, "learning_rate", Bilingual("learning rate", "学习率"), css_class="even")],
            lambda value: f"{value:.1e}" if value else "0",
            from_zero=True,
        ),
    ]
    charts = "\n".join(figure for figure in figures if figure)
    if not charts:
        return ""
    legend = Bilingual(
        "The numbers at the names are the last values, those at the axis the highest and the lowest. A dot is an evaluation; a loss is in "
        "nats a token, and step 0 is before tuning.",
        "名称旁的数字是最后的值，轴旁的是最高与最低值。圆点是一次评估；损失单位为 nat/词元，第 0 步是微调之前。",
    )
    content = f'<div class="charts">{charts}</div><p class="note">{ui_message(legend)}</p>'
    return section("curves", ui_text(Bilingual("Curves", "曲线")), content)


def _marks(report: RunReport) -> list[Mark]:
    """The best step, whose weights are kept, and the rescues."""
    losses = evaluation_losses(report.events)
    finished = [event for event in report.events if isinstance(event, Finished)]
    best = finished[-1].best_step if finished else min(losses, key=losses.__getitem__, default=0)
    marks = []
    if best in losses:
        name = Bilingual(f"best: step {best}, whose weights are kept", f"最好：第 {best} 步，保留其权重")
        marks.append(Mark(best, losses[best], "best", name))
    for event in report.events:
        if isinstance(event, Rescued):
            name = Bilingual(
                f"rescue: after step {event.step} back to step {event.back_to}, learning rate × {event.rate_scale:.3g}",
                f"救回：第 {event.step} 步之后退回第 {event.back_to} 步，学习率 × {event.rate_scale:.3g}",
            )
            marks.append(Mark(event.back_to, None, "rescue", name))
    return marks


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
    marked = _marked_count([row for _number, row in numbered])
    rows = [_example(number, row, report.fill_texts, marked=index < marked) for index, (number, row) in enumerate(numbered)]
    legend = ""
    if report.filled is not None:
        texts = Bilingual(
            "✓ new: the tuned answer has the texts of data.fill that its label has. ✗ not learned: it lacks one; those come first.",
            "✓ 新内容：微调后的回答含有参考答案中 data.fill 的内容。✗ 未学会：缺少其中之一，排在最前。",
        )
        legend = f'<p class="note">{ui_message(texts)}</p>'
    if marked and any(row.label for row in report.examples):
        few, few_chinese = ("", "") if marked == len(rows) else (f"; only in the first {marked} examples", f"（仅前 {marked} 条）")
        words = Bilingual(
            f"<mark>Marked</mark>: words that the label has too{few}.", f"<mark>高亮</mark>：参考答案中也有的词语{few_chinese}。"
        )
        legend += f'<p class="note">{ui_text(words)}</p>'
    visible, more = rows[:OPEN_EXAMPLES], rows[OPEN_EXAMPLES:]
    folded = (
        f"<details><summary>{ui_text(Bilingual(f'{len(more)} more', f'其余 {len(more)} 条'))}</summary>{''.join(more)}</details>"
        if more
        else ""
    )
    return section(
        "own",
        ui_text(Bilingual("Your data, before and after", "自己的数据：微调前后")),
        f'<p class="note">{note}</p>{legend}{"".join(visible)}{folded}',
    )


def _marked_count(rows: Sequence[Example]) -> int:
    """In how many of the examples, from the first on, shared words are marked."""
    sums = accumulate(len(row.base) + len(row.tuned) + 2 * len(row.label) for row in rows)
    return sum(characters <= MARKED_CHARACTERS for characters in sums)


def _has_fill_texts(row: Example, texts: Sequence[str]) -> bool | None:
    """Whether the tuned answer has the fill texts of the label; None if the label has none."""
    return recalls_fill(row.label, row.tuned, texts) if any(contains(row.label, text) for text in texts) else None


def _example(number: int, row: Example, texts: Sequence[str], *, marked: bool) -> str:
    badge = ""
    if (correct := _has_fill_texts(row, texts)) is not None:
        text = Bilingual("✓ new", "✓ 新内容") if correct else Bilingual("✗ not learned", "✗ 未学会")
        badge = f'<span class="gain {"up" if correct else "down"}">{ui_text(text)}</span>'
    boxes = (("base", row.base), ("tuned", row.tuned))
    answers = "\n".join(answer_box(model, text, row.label, {}, {}, marked=marked) for model, text in boxes)
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
        command = f"`imprint forgetting {report.path}`"
        note = ui_message(Bilingual(f"Not measured. {command} does.", f"未评估；可运行 {command}。"))
        return section("kept", ui_text(Bilingual("Abilities of the base", "原有能力")), f'<p class="note">{note}</p>')
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
    legend = Bilingual(
        "✓ the same: word for word as before. ✓ still right: in other words, with the expected answer. ✗ lost: right before, or without an "
        "expected answer, and now another. – not counted: the base had it wrong.",
        "✓ 不变：与之前一字不差。✓ 仍然正确：换了说法，仍含预期答案。"
        "✗ 丢失：之前答对（或没有预期答案），现在不同。– 不计入：底座本就答错。",
    )
    more = len(lost) - OPEN_LOST
    tables = [
        _probe_table(lost[:OPEN_LOST], ui_text(Bilingual(f"Lost ({len(lost)})", f"丢失（{len(lost)}）")), is_open=True),
        _probe_table(lost[OPEN_LOST:], ui_text(Bilingual(f"{more} more lost", f"其余 {more} 条丢失")), is_open=False),
        _probe_table(kept, ui_text(Bilingual(f"Kept ({len(kept)})", f"保留（{len(kept)}）")), is_open=False),
        _probe_table(never, ui_text(Bilingual(f"Not counted ({len(never)})", f"不计入（{len(never)}）")), is_open=False),
    ]
    notes = f'<p class="note">{note}</p><p class="note">{ui_message(legend)}</p>'
    content = f"<p>{ui_text(Bilingual(english, chinese))}</p>{bar}{notes}\n{''.join(tables)}"
    return section("kept", ui_text(Bilingual("Abilities of the base, before and after", "原有能力：微调前后")), content)


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
    return section("recipe", ui_text(Bilingual("Recipe", "配方")), content)
