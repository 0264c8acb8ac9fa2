"""A page in the browser, of which nothing may be complained while it is open."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


@contextmanager
def opened_page(browser: "Browser", file: Path, width: int, scheme: Literal["light", "dark"]) -> "Iterator[Page]":
    """Open a file as a browser of that width and colour scheme shows it; nothing may be loaded from elsewhere."""
    page = browser.new_page(viewport={"width": width, "height": 844}, color_scheme=scheme, locale="en-US")
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda asked: complaints.append(asked.url) if not asked.url.startswith(("file:", "data:")) else None)
    page.goto(file.as_uri())
    yield page
    page.close()
    assert complaints == []
