"""The report of a run in a real browser: every width and scheme, and nothing that a model wrote runs."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pytest

from imprint.report.runpage import write_report
from tests.report.test_runpage import run_report

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    found = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)
    with playwright.sync_playwright() as running:
        if found is None and not Path(running.chromium.executable_path).exists():
            pytest.skip("no Chromium is installed")
        switches = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--disable-background-networking"]
        browser = running.chromium.launch(executable_path=found, args=switches)
        yield browser
        browser.close()


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (1280, "dark"), (390, "light"), (390, "dark")])
def test_the_report_fits_every_screen_and_runs_nothing(
    browser: "Browser", tmp_path: Path, width: int, scheme: Literal["light", "dark"]
) -> None:
    write_report(run_report(), tmp_path / "report.html")
    page = browser.new_page(viewport={"width": width, "height": 844}, color_scheme=scheme, locale="en-US")
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda asked: complaints.append(asked.url) if not asked.url.startswith(("file:", "data:")) else None)
    page.goto((tmp_path / "report.html").as_uri())
    page.set_default_timeout(5000)
    for language in ("#ui-en", "#ui-zh"):
        page.locator(language).check(force=True)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.get_by_text("原有能力：微调前后").is_visible()
    assert not page.get_by_text("What the base could, before and after").is_visible()
    for chart in page.locator(".chart polyline").all():
        assert chart.bounding_box() is not None
    page.get_by_text("保留（2）").click()
    assert page.get_by_text("✓ 仍然正确").is_visible()
    assert page.evaluate("window.broken") is None
    page.close()
    assert complaints == []
