"""The picture of a forecast: samples a second against memory, of all settings, as an HTML page."""

from pathlib import Path

from imprint.forecast.cards import CARDS, Card
from imprint.forecast.choices import changed_knobs
from imprint.forecast.estimate import Estimate
from imprint.forecast.run import RunForecast
from imprint.messages import Bilingual
from imprint.progress import clock
from imprint.report.html import escape, page_header, section, ui_text, write_page
from imprint.report.scatter import Limit, Point, scatter
from imprint.training.fit_lines import AS_IT_IS, GIB, milliseconds, size

OWN, FITS, TOO_LARGE = "tuned", "up", "base"
"""Colours of the pages' style: see Point.css_class of report/scatter.py."""


def write_forecast(forecast: RunForecast, card: Card, path: Path) -> None:
    """Write the page of a forecast for a card."""
    overline = ui_text(Bilingual("forecast", "预测"))
    header = page_header(forecast.name, overline, forecast.base, card.name)
    picture = section("picture", ui_text(Bilingual("Speed and memory", "速度与显存")), _picture(forecast, card))
    memory = section("memory", ui_text(Bilingual("Memory of the recipe", "配方所需显存")), _terms(forecast))
    settings = section("settings", ui_text(Bilingual("All settings", "全部设置")), _settings(forecast, card))
    write_page(path, f"{forecast.name}: {card.name}", header, f"{picture}\n{memory}\n{settings}")


def _picture(forecast: RunForecast, card: Card) -> str:
    points = [
        Point(
            estimate.needed_bytes(card) / GIB,
            forecast.samples_per_second(estimate, card),
            f"{_name(forecast, estimate)}: {size(estimate.needed_bytes(card))}, {forecast.samples_per_second(estimate, card):.3g}/s",
            OWN if estimate is forecast.own else FITS if estimate.fits(card) else TOO_LARGE,
        )
        for estimate in reversed(forecast.estimates)
    ]
    largest = max(point.x for point in points)
    sizes = sorted({other.memory_gib for other in CARDS if other.memory_gib <= largest} | {card.memory_gib})
    groups = {
        OWN: Bilingual("the recipe", "配方"),
        FITS: Bilingual(f"fits on {card.name}", f"{card.name} 放得下"),
        TOO_LARGE: Bilingual("does not fit", "放不下"),
    }
    return scatter(
        Bilingual(f"samples a second on {card.name}", f"{card.name} 上每秒样本数"),
        points,
        x_name=Bilingual("memory, GiB", "显存 GiB"),
        y_name=Bilingual("samples a second", "每秒样本数"),
        groups=groups,
        limits=[Limit(gib, f"{gib:.4g} GiB") for gib in sizes],
    )


def _name(forecast: RunForecast, estimate: Estimate) -> str:
    return " ".join(changed_knobs(forecast.own.choice, estimate.choice)) or AS_IT_IS.line


def _terms(forecast: RunForecast) -> str:
    rows = "".join(
        f"<tr><th>{ui_text(Bilingual(escape(term.name.english), escape(term.name.chinese)))}</th><td>{escape(size(term.nbytes))}</td></tr>"
        for term in forecast.own.terms
    )
    return f'<table class="asked">{rows}</table>'


def _settings(forecast: RunForecast, card: Card) -> str:
    rows = "".join(
        f"<tr><td><code>{escape(_name(forecast, estimate))}</code></td><td>{escape(size(estimate.needed_bytes(card)))}</td>"
        f"<td>{escape(milliseconds(estimate.step_seconds(card)))}</td><td>{escape(clock(forecast.seconds(estimate, card)))}</td></tr>"
        for estimate in sorted(forecast.estimates, key=lambda estimate: estimate.step_seconds(card))
    )
    names = (Bilingual("knobs", "选项"), Bilingual("memory", "显存"), Bilingual("a step", "每步"), Bilingual("the run", "全程"))
    header = "".join(f'<th scope="col">{ui_text(name)}</th>' for name in names)
    return f'<div class="wide"><table class="asked"><thead><tr>{header}</tr></thead><tbody>{rows}</tbody></table></div>'
