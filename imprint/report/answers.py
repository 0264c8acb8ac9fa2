"""A prompt and an answer as they stand on every page."""

from collections.abc import Mapping
from html import escape

from imprint.report.comparison import attributes
from imprint.report.html import both, language
from imprint.report.marks import shared_runs


def prompt_box(prompt: str) -> str:
    """What was asked; the pairs of an attribute list stand beside each other."""
    pairs = attributes(prompt)
    if not pairs:
        return f'<div class="prompt"><h4>{both("prompt", "输入")}</h4><p{language(prompt)}>{escape(prompt)}</p></div>'
    chips = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in pairs)
    return f'<div class="prompt"><h4>{both("prompt", "输入")}</h4><dl class="chips"{language(prompt)}>{chips}</dl></div>'


def answer_box(who: str, text: str, label: str, own: Mapping[str, float], other: Mapping[str, float]) -> str:
    """What `base` or `tuned` (who) said, with what it shares with the label marked; no figures where there are no scores."""
    name = both("base", "底座") if who == "base" else both("tuned", "微调后")
    if text.strip():
        pieces = shared_runs(text, label)
        shown = "".join(f"<mark>{escape(piece)}</mark>" if shared else escape(piece) for piece, shared in pieces)
    else:
        shown = f"<em>{both('(empty)', '（空）')}</em>"
    scores = ""
    if label and own:
        scores = f'<dl class="figures">{_figures(own, other)}</dl>'
    return f'<section class="answer {who}"><h4><span class="who {who}">{name}</span></h4><p{language(text)}>{shown}</p>{scores}</section>'


def _figures(own: Mapping[str, float], other: Mapping[str, float]) -> str:
    cells = ""
    for metric, value in own.items():
        better = ' class="better"' if value > other[metric] else ""
        cells += f"<div{better}><dt>{metric.upper()}</dt><dd>{value:.1f}</dd></div>"
    return cells
