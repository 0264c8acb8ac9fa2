"""A prompt and an answer as HTML, for every page."""

from collections.abc import Mapping

from imprint.messages import Bilingual
from imprint.report.comparison import parse_attributes
from imprint.report.highlight import shared_spans
from imprint.report.html import escape, lang_attribute, ui_text


def prompt_box(prompt: str) -> str:
    """The prompt; the pairs of an attribute list are shown side by side."""
    pairs = parse_attributes(prompt)
    if not pairs:
        return f'<div class="prompt"><h4>{ui_text(Bilingual("prompt", "输入"))}</h4><p{lang_attribute(prompt)}>{escape(prompt)}</p></div>'
    chips = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in pairs)
    return (
        f'<div class="prompt"><h4>{ui_text(Bilingual("prompt", "输入"))}</h4><dl class="chips"{lang_attribute(prompt)}>{chips}</dl></div>'
    )


def label_box(label: str) -> str:
    """The reference answer; empty if there is none."""
    if not label:
        return ""
    return f'<div class="label"><h4>{ui_text(Bilingual("label", "参考答案"))}</h4><p{lang_attribute(label)}>{escape(label)}</p></div>'


def answer_box(model: str, text: str, label: str, own: Mapping[str, float], other: Mapping[str, float], *, marked: bool = True) -> str:
    """The answer of `base` or `tuned` (`model`) with its scores if there are any; `marked`: mark the words that the label has too."""
    name = ui_text(Bilingual("base", "底座")) if model == "base" else ui_text(Bilingual("tuned", "微调后"))
    if text.strip():
        spans = shared_spans(text, label) if marked else [(text, False)]
        content = "".join(f"<mark>{escape(span)}</mark>" if shared else escape(span) for span, shared in spans)
    else:
        content = f"<em>{ui_text(Bilingual('(empty)', '（空）'))}</em>"
    scores = ""
    if label and own:
        scores = f'<dl class="figures">{_figures(own, other)}</dl>'
    heading = f'<h4><span class="who {model}">{name}</span></h4>'
    return f'<section class="answer {model}">{heading}<p{lang_attribute(text)}>{content}</p>{scores}</section>'


def _figures(own: Mapping[str, float], other: Mapping[str, float]) -> str:
    cells = ""
    for metric, value in own.items():
        better = ' class="better"' if value > other[metric] else ""
        cells += f"<div{better}><dt>{escape(metric.upper())}</dt><dd>{value:.1f}</dd></div>"
    return cells
