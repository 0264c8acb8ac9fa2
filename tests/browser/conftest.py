import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.browser.pages import Window

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from tests.browser.service import Visitor, Windows


@pytest.fixture(scope="session")
def browser() -> "Iterator[Browser]":
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    found = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)
    with playwright.sync_playwright() as running:
        if found is None and not Path(running.chromium.executable_path).exists():
            pytest.skip("no Chromium is installed")
        switches = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--disable-background-networking"]
        browser = running.chromium.launch(executable_path=found, args=switches)
        loop = asyncio.get_running_loop()
        yield browser
        asyncio._set_running_loop(loop)  # the last test may be one that did not see it
        browser.close()


@pytest.fixture(scope="session")
def window(browser: "Browser") -> Window:
    return Window(browser)


@pytest.fixture(scope="module")
def windows(browser: "Browser", tmp_path_factory: pytest.TempPathFactory) -> "Iterator[Windows]":
    from tests.browser.service import Windows
    from tests.serve.web.page import page as serve

    with serve(tmp_path_factory.mktemp("service")) as service:
        made = Windows(browser, service)
        yield made
        made.context.close()


@pytest.fixture
def visitor(windows: "Windows") -> "Iterator[Visitor]":
    with windows.visit() as made:
        yield made
