"""Confusion matrices as a picture, for one classifier or several side by side.

Legend: L labels; counts are (L, L + 1): a row for each true label, a column for each predicted label, the last for other answers.
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

from imprint.report.figure import BLUE, DOTS_PER_INCH, FAINT, INK, fonts_for, has_glyphs, save_figure

MAX_NAMED_LABELS: Final = 30
"""With more labels, names and counts would be illegible and are not drawn."""
MAX_LABEL_CHARACTERS: Final = 14
"""Longer labels are truncated."""
DARK_SHARE: Final = 0.55
"""A cell with a larger share of its row has a white number."""


@dataclass(frozen=True)
class Panel:
    """One classifier."""

    title: str
    """Its name."""
    counts: list[list[int]]
    """(L, L + 1) confusion matrix."""


def draw_confusion_matrices(panels: Sequence[Panel], labels: Sequence[str], out: Path) -> None:
    """Draw the matrices as a PNG, written atomically.

    Each cell shows its count, coloured by its share of the row. If no installed font has a label's characters, labels are numbered.
    """
    show_names = len(labels) <= MAX_NAMED_LABELS
    names = (
        [label[:MAX_LABEL_CHARACTERS] for label in labels]
        if all(map(has_glyphs, labels))
        else [str(index + 1) for index in range(len(labels))]
    )
    side = max(2.6, min(0.52 * len(labels) + 1.2, 9.0))
    figure = Figure(figsize=(side * len(panels) + 0.6, side + 0.7), dpi=DOTS_PER_INCH, facecolor="white")
    FigureCanvasAgg(figure)
    for panel, axes in zip(panels, figure.subplots(1, len(panels), squeeze=False)[0], strict=True):
        _draw(axes, panel, names if show_names else [])
    figure.tight_layout()
    save_figure(figure, out)


def _draw(axes: Axes, panel: Panel, names: Sequence[str]) -> None:
    counts = np.array(panel.counts)
    has_other = bool(counts[:, -1].any())
    counts = counts if has_other else counts[:, :-1]
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    axes.imshow(shares, cmap=LinearSegmentedColormap.from_list("counts", ["white", BLUE]), vmin=0, vmax=1)
    fonts = fonts_for("".join([*names, panel.title]))
    axes.set_title(panel.title, fontsize=10, color=INK, family=fonts, fontweight="bold", parse_math=False)
    axes.set_xlabel("predicted", fontsize=9, color=INK)
    axes.set_ylabel("true", fontsize=9, color=INK)
    axes.spines[:].set_color(FAINT)
    axes.tick_params(length=0, labelsize=8.5, colors=INK)
    if not names:
        axes.set_xticks([])
        axes.set_yticks([])
        return
    columns = [*names, "other"] if has_other else list(names)
    rotation = 0 if max(map(len, columns)) <= 3 else 45
    axes.set_xticks(range(len(columns)), columns, family=fonts, rotation=rotation, ha="right" if rotation else "center", parse_math=False)
    axes.set_yticks(range(len(names)), names, family=fonts, parse_math=False)
    for row, column in np.ndindex(*counts.shape):
        if counts[row, column]:
            colour = "white" if shares[row, column] > DARK_SHARE else INK
            axes.text(column, row, f"{counts[row, column]:,}", ha="center", va="center", fontsize=8, color=colour)
