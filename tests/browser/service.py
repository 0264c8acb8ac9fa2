"""The service's page in a browser: what a visitor does, and nothing that the browser may complain of."""

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tests.serve.stores import PASSWORD
from tests.serve.web.page import Page as Service

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

WATCH = """
addEventListener("securitypolicyviolation", (event) => console.error("policy", event.effectiveDirective, event.blockedURI));
"""
FAULTS = """() => {
    const name = (one) => one.getAttribute("aria-label") || one.labels?.[0]?.textContent || (one.matches("a, button") && one.textContent);
    const controls = [...document.querySelectorAll("a, button, input, select, textarea")].filter((one) => one.checkVisibility());
    const nameless = controls.filter((one) => !name(one)?.trim()).map((one) => one.outerHTML);
    const isCut = (one) => one.getBoundingClientRect().right > innerWidth + 1 && !one.closest("nav, pre, .skip, .table, #side");
    const cut = controls.filter(isCut).map((one) => `cut: ${one.outerHTML}`);
    const parts = ["main", "h1"].filter((one) => document.querySelectorAll(one).length !== 1).map((one) => `not one ${one}`);
    return [document.documentElement.scrollWidth > innerWidth ? ["too wide"] : [], parts, cut, nameless].flat();
}"""
ANSWERED = re.compile(r"Failed to load resource: the server responded with a status of 4\d\d")
"""What a browser says of an answer that the page tells in a sentence."""


class Visitor:
    """Somebody who looks at the page."""

    def __init__(self, service: Service, page: "Page") -> None:
        self.service = service
        self.page = page

    def open(self, place: str = "") -> "Visitor":
        self.page.goto(f"{self.service.running.url}/#/{place}")
        return self

    def be_guest(self) -> "Visitor":
        self.open().page.get_by_role("button", name="Try it as a guest").click()
        self.page.wait_for_selector("#question")
        return self

    def sign_in(self, name: str, password: str = PASSWORD) -> "Visitor":
        self.open("signin")
        self.page.fill("[name=name]", name)
        self.page.fill("[name=password]", password)
        self.page.keyboard.press("Enter")
        return self

    def choose_password(self) -> "Visitor":
        self.page.fill("[name=new]", PASSWORD)
        self.page.fill("[name=again]", PASSWORD)
        self.page.keyboard.press("Enter")
        self.page.wait_for_selector("#question")
        return self

    def ask(self, text: str) -> None:
        self.page.fill("#question", text)
        self.page.press("#question", "Enter")

    def ask_whole(self, text: str, answers: int = 1) -> list[str]:
        """Ask, and wait until all answers to the question have ended; their texts."""
        before = self.page.locator(".round").count()
        self.ask(text)
        last = self.page.locator(".round").nth(before)
        last.locator(".answer:not([data-state=writing])").nth(answers - 1).wait_for()
        return last.locator(".answer .text").all_inner_texts()

    def grown(self, characters: int) -> str:
        """The text of the first answer, once it has more than as many characters. The policy lets no browser poll by itself."""
        until = time.monotonic() + 15
        while len(text := self.page.inner_text(".answer .text")) <= characters and time.monotonic() < until:
            self.page.wait_for_timeout(20)
        assert len(text) > characters
        return text

    def faults(self, place: str) -> list[str]:
        """What is wrong with the view: it scrolls sideways, or has controls that are cut or that a screen reader cannot name."""
        return [f"{place}: {fault}" for fault in self.page.evaluate(FAULTS)]


class Windows:
    """One window for all tests of a file: to open one takes most of a second."""

    def __init__(self, browser: "Browser", service: Service) -> None:
        self.service = service
        self.context: BrowserContext = browser.new_context(
            locale="en-US",
            viewport={"width": 1280, "height": 800},
            reduced_motion="reduce",  # to draw what moves takes most of the browser's time
        )
        self.context.set_default_timeout(15_000)
        self.context.add_init_script(WATCH)
        self.page = self.context.new_page()
        self.complaints: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on(
            "request",
            lambda asked: None if asked.url.startswith((service.running.url, "about:", "blob:")) else self.complaints.append(asked.url),
        )

    @contextmanager
    def visit(self, width: int = 1280) -> Iterator[Visitor]:
        """A visitor who was never here before; nothing may break the policy, and nothing may be loaded from elsewhere."""
        self.context.clear_cookies()
        self.page.set_viewport_size({"width": width, "height": 800})
        self.page.goto(self.service.running.url)
        self.page.evaluate("() => { localStorage.clear(); sessionStorage.clear(); }")
        self.page.goto("about:blank")
        self.complaints.clear()
        yield Visitor(self.service, self.page)
        assert self.page.evaluate("window.broken") is None
        self.page.goto("about:blank")  # after which no complaint is on its way
        assert [text for text in self.complaints if not ANSWERED.match(text)] == []
