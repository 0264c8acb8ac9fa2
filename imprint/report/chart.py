"""Curves inside a page: drawn as SVG, so that they follow the page's width, its colours and both languages."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Final

from imprint.report.html import both

WIDTH: Final = 1000
HEIGHT: Final = 240
POINTS: Final = 500
"""Most points of a line: more than the page has pixels show nothing."""


@dataclass(frozen=True)
class Line:
    """One quantity over the steps."""

    english: str
    """What it is."""
    chinese: str
    """The same in Chinese."""
    kind: str
    """What the style knows it by: `base`, `tuned`, `up`, ..."""
    points: tuple[tuple[int, float], ...]
    """(step, value), the steps rising and the values finite."""
    dots: bool = False
    """Whether each point is marked: where there are few."""


def line_of(points: Sequence[Mapping[str, Any]], name: str, english: str, chinese: str, kind: str, *, dots: bool = False) -> Line:
    """A quantity of a log's lines; of a step that was logged twice the later one counts, null and what is not finite is left out."""
    found = {int(point["step"]): float(point[name]) for point in points if point.get(name) is not None}
    kept = [(step, value) for step, value in sorted(found.items()) if math.isfinite(value)]
    every = max(1, -(-len(kept) // POINTS))
    return Line(english, chinese, kind, tuple(kept[::-1][::every][::-1]), dots)


def chart(english: str, chinese: str, lines: Sequence[Line], tell: Callable[[float], str], *, from_zero: bool = False) -> str:
    """A figure of HTML; empty where there is nothing to draw. `tell` writes a value for a person."""
    drawn = [line for line in lines if line.points]
    if not drawn:
        return ""
    last = max(1, max(line.points[-1][0] for line in drawn))
    values = [value for line in drawn for _step, value in line.points]
    top, low = max(values), 0.0 if from_zero else min(values)
    span = (top - low) or abs(top) or 1.0
    shapes = "".join(_shape(line, last, low, span) for line in drawn)
    legend = "".join(
        f'<li class="{line.kind}">{both(escape(line.english), escape(line.chinese))} <b>{escape(tell(line.points[-1][1]))}</b></li>'
        for line in drawn
    )
    return f"""<figure class="chart">
<figcaption><b>{both(escape(english), escape(chinese))}</b><ul>{legend}</ul></figcaption>
<div class="canvas"><span class="high">{escape(tell(top))}</span><span class="low">{escape(tell(low))}</span>
<svg viewBox="0 0 {WIDTH} {HEIGHT}" preserveAspectRatio="none" role="img" aria-label="{escape(english)}">{shapes}</svg></div>
<div class="ends"><span>0</span><span>{both(f"step {last}", f"第 {last} 步")}</span></div>
</figure>"""


def _shape(line: Line, last: int, low: float, span: float) -> str:
    places = [(WIDTH * step / last, HEIGHT * (1 - (value - low) / span)) for step, value in line.points]
    path = f'<polyline class="{line.kind}" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in places)}"/>'
    if line.dots or len(places) == 1:  # a line of no length: its round end is a dot that keeps its shape at any width
        path += "".join(f'<line class="dot {line.kind}" x1="{x:.1f}" y1="{y:.1f}" x2="{x:.1f}" y2="{y:.1f}"/>' for x, y in places)
    return path
