"""The report of a run in a real browser."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from imprint.report.runpage import write_report
from tests.browser.pages import Window
from tests.report.made import run_report

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser


@pytest.fixture(params=[1280, 390])
def page(window: Window, tmp_path: Path, request: pytest.FixtureRequest) -> "Iterator[Page]":
    write_report(run_report(), tmp_path / "report.html")
    with window.showing(tmp_path / "report.html", request.param, "light") as page:
        yield page


def test_it_never_scrolls_sideways_and_nothing_that_a_model_wrote_runs(page: "Page") -> None:
    for opened in ("details", "none"):
        page.evaluate("name => document.querySelectorAll(name).forEach((part) => { part.open = true; })", opened)
        assert page.evaluate("document.documentElement.scrollWidth") <= page.evaluate("window.innerWidth")
    assert page.evaluate("window.broken") is None


def test_no_number_of_a_chart_lies_on_its_curve(page: "Page") -> None:
    for canvas in page.locator(".canvas").all():
        curve = canvas.locator("svg").bounding_box()
        assert curve is not None
        for label in canvas.locator("span.high, span.low").all():
            box = label.bounding_box()
            assert box is not None
            assert box["x"] + box["width"] <= curve["x"]
