"""Pages in a browser, of which nothing may be complained while they are open."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


class Window:
    """A window of the browser, which shows one file after another: to open a new one for each takes a second."""

    def __init__(self, browser: "Browser") -> None:
        self.page = browser.new_page(locale="en-US")
        self.complaints: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on(
            "request", lambda asked: None if asked.url.startswith(("file:", "data:", "about:")) else self.complaints.append(asked.url)
        )

    @contextmanager
    def showing(self, file: Path, width: int, scheme: Literal["light", "dark"]) -> "Iterator[Page]":
        """The page of a file as a browser of that width and colour scheme shows it; nothing may be loaded from elsewhere."""
        self.complaints.clear()
        self.page.set_viewport_size({"width": width, "height": 844})
        self.page.emulate_media(media="screen", color_scheme=scheme)
        self.page.goto(file.as_uri())
        yield self.page
        self.page.goto("about:blank")  # after which no complaint is on its way
        assert self.complaints == []
