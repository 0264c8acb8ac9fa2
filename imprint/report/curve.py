"""The curves of a run as a picture: loss, learning rate and memory over its steps; cheap enough to redraw during training."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from imprint.events import Event, values_by_step
from imprint.report.figure import BLUE, DOTS_PER_INCH, FAINT, GREEN, INK, PURPLE, VERMILION, fonts_for, save_figure

MAX_POINTS = 20_000
FloatArray = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Series:
    """One quantity over the steps at which it was logged; both arrays are (N,)."""

    steps: FloatArray
    """Increasing steps."""
    values: FloatArray
    """Finite values at these steps."""


def draw_curves(events: Sequence[Event], out: Path, *, title: str, rescues: Sequence[int] = ()) -> None:
    """Draw loss, learning rate and memory of a run as a PNG of 1080 x 660 pixels, written atomically.

    Steps without a finite value are left out; of a step logged twice the later value counts. `rescues` are steps at which the run
    restarted with a lower learning rate.
    """
    by_name = {name: _series(events, name) for name in ("loss", "eval_loss", "learning_rate", "memory_gib")}
    small_panels = [name for name in ("learning_rate", "memory_gib") if len(by_name[name].steps)]
    figure = Figure(figsize=(9, 5.5), dpi=DOTS_PER_INCH, facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1 + len(small_panels), 1, sharex=True, squeeze=False, height_ratios=[6] + [1] * len(small_panels))[:, 0]
    figure.subplots_adjust(left=0.085, right=0.975, top=0.91, bottom=0.095, hspace=0.36)
    fonts = fonts_for(title)
    figure.text(0.085, 0.945, title, fontsize=13, color=INK, family=fonts, fontweight="bold", parse_math=False)
    _draw_loss(axes[0], by_name["loss"], by_name["eval_loss"])
    for panel, name in zip(axes[1:], small_panels, strict=True):
        _draw_small_panel(panel, by_name[name], name)
    for step in rescues:
        axes[0].axvline(step, color=INK, linewidth=1, linestyle=":", label="rescue, lower learning rate" if step == rescues[0] else None)
    if rescues:
        axes[0].legend(loc="upper right", frameon=False, fontsize=9, labelcolor=INK)
    axes[-1].set_xlabel("step", color=INK, fontsize=9)
    axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[-1].set_xlim(0, 1.02 * max([1.0, *(float(series.steps[-1]) for series in by_name.values() if len(series.steps))]))
    save_figure(figure, out)


def _series(events: Sequence[Event], name: str) -> Series:
    values = values_by_step(events, name)
    return Series(np.array(list(values), dtype=np.float64), np.array(list(values.values()), dtype=np.float64))


def _draw_loss(panel: Axes, training: Series, evaluation: Series) -> None:
    _style(panel)
    panel.set_ylabel("loss", color=INK, fontsize=9)
    visible = []
    if len(training.steps):
        raw = _subsampled(training)
        smooth = _smoothed(training.values)
        panel.plot(raw.steps, raw.values, color=BLUE, linewidth=0.8, alpha=0.35, label="training loss")
        smoothed = _subsampled(Series(training.steps, smooth))
        panel.plot(
            smoothed.steps, smoothed.values, color=BLUE, linewidth=2.2, label=f"smoothed, last {smooth[-1]:.3f}", solid_capstyle="round"
        )
        panel.plot(*_point(smoothed, -1), color=BLUE, marker="o", markersize=4)
        # A spike may leave the picture at the top, so that it does not flatten the rest of the curve.
        visible += [training.values.min(), float(np.quantile(training.values, 0.98)), smooth.max()]
    if len(evaluation.steps):
        best = int(np.argmin(evaluation.values))
        label = f"evaluation loss, best {evaluation.values[best]:.3f} at step {evaluation.steps[best]:.0f}"
        panel.plot(evaluation.steps, evaluation.values, color=VERMILION, linewidth=1, marker="o", markersize=5, label=label, zorder=4)
        panel.plot(*_point(evaluation, best), marker="o", markersize=10, markerfacecolor="none", markeredgecolor=VERMILION, zorder=5)
        visible += [evaluation.values.min(), evaluation.values.max()]
    if not visible:
        panel.text(0.5, 0.5, "no loss has been logged yet", transform=panel.transAxes, ha="center", color=INK, fontsize=11)
        return
    margin = max(0.07 * (max(visible) - min(visible)), 0.02 * abs(max(visible)), 1e-6)
    panel.set_ylim(min(visible) - margin, max(visible) + margin)
    panel.legend(loc="upper right", frameon=False, fontsize=9, labelcolor=INK)


def _draw_small_panel(panel: Axes, series: Series, name: str) -> None:
    _style(panel)
    drawn = _subsampled(series)
    colour, text = (GREEN, "learning rate") if name == "learning_rate" else (PURPLE, "memory, GiB")
    panel.plot(drawn.steps, drawn.values, color=colour, linewidth=1.6)
    panel.fill_between(drawn.steps, drawn.values, color=colour, alpha=0.12, linewidth=0)
    top = max(float(series.values.max()), 1e-12)
    panel.set_ylim(0, top * 1.1)
    panel.set_yticks([0, top])
    panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
    panel.set_title(text, loc="left", fontsize=8.5, color=INK, pad=4)


def _style(panel: Axes) -> None:
    panel.spines[["top", "right"]].set_visible(False)
    panel.spines[["left", "bottom"]].set_color(FAINT)
    panel.tick_params(colors=INK, labelsize=8.5, length=3, color=FAINT)
    panel.grid(axis="y", color=FAINT, linewidth=0.6, alpha=0.7)
    panel.set_axisbelow(True)


def _smoothed(values: FloatArray) -> FloatArray:
    """A centred moving average over a fifteenth of the run; a shorter window at the start, where the loss falls."""
    half_window = max(2, len(values) // 30)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    indices = np.arange(len(values))
    widths = np.minimum(half_window, indices)
    first, last = indices - widths, np.minimum(indices + widths + 1, len(values))
    return np.asarray((sums[last] - sums[first]) / (last - first))


def _subsampled(series: Series) -> Series:
    """At most about `MAX_POINTS` points, including the last; more than the picture has pixels would not be visible."""
    stride = max(1, -(-len(series.steps) // MAX_POINTS))
    return Series(series.steps[::-1][::stride][::-1], series.values[::-1][::stride][::-1])


def _point(series: Series, index: int) -> tuple[list[float], list[float]]:
    return [float(series.steps[index])], [float(series.values[index])]
