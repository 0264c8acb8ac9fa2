"""Curves inside a page, drawn as SVG so that they follow the page's width, colours and language."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from imprint.events import Event, values_by_step
from imprint.messages import Bilingual
from imprint.report.html import escape, ui_text

WIDTH: Final = 1000
HEIGHT: Final = 240
MAX_MARKS: Final = 12
"""Most marks that the legend explains one by one."""
MAX_POINTS: Final = 500
"""Most points of a line; more than the page has pixels would not be visible."""


@dataclass(frozen=True)
class Line:
    """One quantity over the steps."""

    name: Bilingual
    """Its name in the legend."""
    css_class: str
    """Its colour: the class `base`, `tuned`, `up` ... of the pages' style."""
    points: tuple[tuple[int, float], ...]
    """(step, value) pairs; steps increase, values are finite."""
    dots: bool = False
    """Whether each point is drawn as a dot, for lines of few points."""


@dataclass(frozen=True)
class Mark:
    """A step that is marked in a chart: a ring around a value, or a line over the whole height."""

    step: int
    """The step."""
    value: float | None
    """The value that the ring is around; None draws a line."""
    css_class: str
    """Its class in the pages' style: `best`, `rescue`."""
    name: Bilingual
    """What it means, for the legend; plain text."""


def line_from_log(events: Sequence[Event], field: str, name: Bilingual, css_class: str, *, dots: bool = False) -> Line:
    """One quantity of a run log, by the name of its field; steps without a finite value are left out."""
    points = list(values_by_step(events, field).items())
    stride = max(1, -(-len(points) // MAX_POINTS))
    return Line(name, css_class, tuple(points[::-1][::stride][::-1]), dots)


def chart(
    title: Bilingual, lines: Sequence[Line], format_value: Callable[[float], str], *, from_zero: bool = False, marks: Sequence[Mark] = ()
) -> str:
    """An HTML figure with a legend of its marks; empty if there is nothing to draw."""
    drawn = [line for line in lines if line.points]
    if not drawn:
        return ""
    last_step = max(1, max(line.points[-1][0] for line in drawn), *(mark.step for mark in marks))
    values = [value for line in drawn for _step, value in line.points] + [mark.value for mark in marks if mark.value is not None]
    top, low = max(values), 0.0 if from_zero else min(values)
    span = (top - low) or abs(top) or 1.0
    shapes = "".join(_polyline(line, last_step, low, span) for line in drawn)
    shapes += "".join(_mark(mark, last_step, low, span) for mark in marks)
    names = "".join(f'<li class="{mark.css_class}">{_escaped(mark.name)}</li>' for mark in marks[:MAX_MARKS])
    explained = f'<ul class="marks">{names}</ul>' if names else ""
    legend = "".join(
        f'<li class="{line.css_class}">{_escaped(line.name)} <b>{escape(format_value(line.points[-1][1]))}</b></li>' for line in drawn
    )
    return f"""<figure class="chart">
<figcaption><b>{_escaped(title)}</b><ul>{legend}</ul></figcaption>
<div class="canvas"><span class="high">{escape(format_value(top))}</span><span class="low">{escape(format_value(low))}</span>
<svg viewBox="0 0 {WIDTH} {HEIGHT}" preserveAspectRatio="none" role="img" aria-label="{escape(title.english)}">{shapes}</svg></div>
<div class="ends"><span>0</span><span>{_escaped(Bilingual(f"step {last_step}", f"第 {last_step} 步"))}</span></div>
{explained}</figure>"""


def _escaped(text: Bilingual) -> str:
    return ui_text(Bilingual(escape(text.english), escape(text.chinese)))


def _polyline(line: Line, last_step: int, low: float, span: float) -> str:
    coordinates = [(WIDTH * step / last_step, HEIGHT * (1 - (value - low) / span)) for step, value in line.points]
    path = f'<polyline class="{line.css_class}" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in coordinates)}"/>'
    if line.dots or len(coordinates) == 1:  # a zero-length line with round caps is a dot that keeps its shape at any width
        path += "".join(f'<line class="dot {line.css_class}" x1="{x:.1f}" y1="{y:.1f}" x2="{x:.1f}" y2="{y:.1f}"/>' for x, y in coordinates)
    return path


def _mark(mark: Mark, last_step: int, low: float, span: float) -> str:
    """A dashed line, or a ring: a large dot of its colour with a smaller one of the background in it."""
    x = f"{WIDTH * mark.step / last_step:.1f}"
    if mark.value is None:
        return f'<line class="{mark.css_class}" x1="{x}" x2="{x}" y1="0" y2="{HEIGHT}"/>'
    y = f"{HEIGHT * (1 - (mark.value - low) / span):.1f}"
    return "".join(f'<line class="{kind}" x1="{x}" y1="{y}" x2="{x}" y2="{y}"/>' for kind in (f"ring {mark.css_class}", "hole"))
