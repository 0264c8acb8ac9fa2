"""Points in a plane inside a page, drawn as SVG, with vertical lines as marks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from imprint.messages import Bilingual
from imprint.report.chart import HEIGHT, WIDTH
from imprint.report.html import escape, ui_text

MARGIN: Final = 1.08
"""The axes reach this much further than the largest point."""


@dataclass(frozen=True)
class Point:
    """A point with a name."""

    x: float
    """At or above 0."""
    y: float
    """At or above 0."""
    name: str
    """Shown where the mouse rests on it."""
    css_class: str
    """Its colour: the class `base`, `tuned`, `up` of the pages' style."""


@dataclass(frozen=True)
class Limit:
    """A vertical line."""

    x: float
    """Where."""
    name: str
    """What it means."""


def scatter(
    title: Bilingual,
    points: Sequence[Point],
    *,
    x_name: Bilingual,
    y_name: Bilingual,
    groups: dict[str, Bilingual],
    limits: Sequence[Limit],
) -> str:
    """An HTML figure; `groups` names the classes of the points for the legend. Both axes begin at 0."""
    right = max([*(point.x for point in points), *(limit.x for limit in limits)], default=1.0) * MARGIN
    top = max((point.y for point in points), default=1.0) * MARGIN
    shapes = "".join(_limit(limit, right) for limit in limits) + "".join(_point(point, right, top) for point in points)
    legend = "".join(f'<li class="{name}">{_escaped(text)}</li>' for name, text in groups.items())
    named = ", ".join(f"{limit.name}" for limit in limits)
    lines = f'<ul class="marks"><li class="rescue">{escape(named)}</li></ul>' if limits else ""
    return f"""<figure class="chart">
<figcaption><b>{_escaped(title)}</b><ul>{legend}</ul></figcaption>
<div class="canvas"><span class="high">{top:.3g}</span><span class="low">0</span>
<svg viewBox="0 0 {WIDTH} {HEIGHT}" preserveAspectRatio="none" role="img" aria-label="{escape(title.english)}">{shapes}</svg></div>
<div class="ends"><span>0</span><span>{_escaped(y_name)} ↑ · {_escaped(x_name)} →</span><span>{right:.3g}</span></div>
{lines}</figure>"""


def _escaped(text: Bilingual) -> str:
    return ui_text(Bilingual(escape(text.english), escape(text.chinese)))


def _point(point: Point, right: float, top: float) -> str:
    """A line without length, whose round ends are a dot that keeps its shape at any width."""
    x, y = f"{WIDTH * point.x / right:.1f}", f"{HEIGHT * (1 - point.y / top):.1f}"
    return f'<line class="dot {point.css_class}" x1="{x}" y1="{y}" x2="{x}" y2="{y}"><title>{escape(point.name)}</title></line>'


def _limit(limit: Limit, right: float) -> str:
    x = f"{WIDTH * limit.x / right:.1f}"
    return f'<line class="rescue" x1="{x}" x2="{x}" y1="0" y2="{HEIGHT}"><title>{escape(limit.name)}</title></line>'
