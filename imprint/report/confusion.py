"""The picture of a classification: which label was said for which, for one classifier or several side by side.

Legend: L labels; counts are (L, L + 1), a line for each right label, a column for each label said, the last for answers that are none.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from imprint.report.curve import BLUE, DOTS_PER_INCH, FAINT, INK, drawable, family, save

MOST_NAMED: Final = 30
"""With more labels than this, neither names nor numbers can be read: the colours tell."""
LONGEST: Final = 14
"""Most characters of a label that are shown."""
DARK: Final = 0.55
"""From this share of its line on, a cell is so dark that its number is white."""


@dataclass(frozen=True)
class Panel:
    """One classifier."""

    title: str
    """What it is called."""
    counts: list[list[int]]
    """(L, L + 1) how often each label was said for each."""


def confusion_picture(panels: Sequence[Panel], labels: Sequence[str], out: Path) -> None:
    """Draw the matrices as a PNG; a reader of `out` sees the old picture or the new one.

    Each cell has its count, and the colour of its share of the line. Where no installed font has a label's characters, the labels are
    numbered in their order.
    """
    named = len(labels) <= MOST_NAMED
    names = [label[:LONGEST] for label in labels] if all(map(drawable, labels)) else [str(place + 1) for place in range(len(labels))]
    side = max(2.6, min(0.52 * len(labels) + 1.2, 9.0))
    figure = Figure(figsize=(side * len(panels) + 0.6, side + 0.7), dpi=DOTS_PER_INCH, facecolor="white")
    FigureCanvasAgg(figure)
    for panel, axes in zip(panels, figure.subplots(1, len(panels), squeeze=False)[0], strict=True):
        _draw(axes, panel, names if named else [])
    figure.tight_layout()
    save(figure, out)


def _draw(axes: Axes, panel: Panel, names: Sequence[str]) -> None:
    counts = np.array(panel.counts)
    strange = bool(counts[:, -1].any())
    counts = counts if strange else counts[:, :-1]
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    axes.imshow(shares, cmap=LinearSegmentedColormap.from_list("counts", ["white", BLUE]), vmin=0, vmax=1)
    fonts = family("".join([*names, panel.title]))
    axes.set_title(panel.title, fontsize=10, color=INK, family=fonts, fontweight="bold", parse_math=False)
    axes.set_xlabel("said", fontsize=9, color=INK)
    axes.set_ylabel("right", fontsize=9, color=INK)
    axes.spines[:].set_color(FAINT)
    axes.tick_params(length=0, labelsize=8.5, colors=INK)
    if not names:
        axes.set_xticks([])
        axes.set_yticks([])
        return
    columns = [*names, "other"] if strange else list(names)
    turn = 0 if max(map(len, columns)) <= 3 else 45
    axes.set_xticks(range(len(columns)), columns, family=fonts, rotation=turn, ha="right" if turn else "center", parse_math=False)
    axes.set_yticks(range(len(names)), names, family=fonts, parse_math=False)
    for line, column in np.ndindex(*counts.shape):
        if counts[line, column]:
            colour = "white" if shares[line, column] > DARK else INK
            axes.text(column, line, f"{counts[line, column]:,}", ha="center", va="center", fontsize=8, color=colour)
