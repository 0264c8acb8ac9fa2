"""Several windows and answers at a time, in a real browser, which has six connections to a service."""

import time
from typing import TYPE_CHECKING

import pytest

from tests.browser.service import Visitor

if TYPE_CHECKING:
    from playwright.sync_api import Route

pytestmark = pytest.mark.browser


def test_windows_of_one_chat_leave_connections_for_another_window_and_for_the_button_that_stops(visitor: Visitor) -> None:
    page = visitor.be_guest().page
    page.get_by_text("With the base").click()
    visitor.ask("slow")
    page.locator(".answer[data-state=writing]").nth(1).wait_for()
    visitor.grown(2)
    others = [page.context.new_page() for _ in range(3)]
    for other in others:
        other.goto(page.url, timeout=5000)
        other.locator(".answer[data-state=writing]").nth(1).wait_for(timeout=5000)
    page.bring_to_front()
    for answer in range(2):
        before = len(page.locator(".answer .text").nth(answer).inner_text())
        for _ in range(300):
            if len(page.locator(".answer .text").nth(answer).inner_text()) > before:
                break
            page.wait_for_timeout(20)
        assert len(page.locator(".answer .text").nth(answer).inner_text()) > before, "an answer has no turn"
    page.get_by_role("button", name="Stop").click()
    for shown in (page, *others):
        shown.locator(".answer[data-state=writing]").first.wait_for(state="detached", timeout=8000)
        assert shown.locator(".status", has_text="Stopped here.").count() + shown.locator(".status", has_text="ended").count() == 2
    for other in others:
        other.close()


def test_more_windows_than_a_browser_has_connections_read_in_turns_and_leave_some_for_all_else(visitor: Visitor) -> None:
    page = visitor.be_guest().page
    visitor.ask("slow")
    visitor.grown(1)
    windows = [page, *(page.context.new_page() for _ in range(6))]
    for other in windows[1:]:
        other.goto(page.url, timeout=8000)
        other.locator(".answer[data-state=writing]").wait_for(timeout=8000)
    before = [len(shown.inner_text(".answer .text")) for shown in windows]
    late = page.context.new_page()
    late.goto(visitor.service.running.url, timeout=8000)
    late.locator("#question").wait_for(timeout=8000)
    for shown, length in zip(windows, before, strict=True):
        for _ in range(500):
            if len(shown.inner_text(".answer .text")) > length:
                break
            shown.wait_for_timeout(20)
        assert len(shown.inner_text(".answer .text")) > length, "a window has no turn"
    page.get_by_role("button", name="Stop").click()
    for shown in windows:
        shown.locator(".answer[data-state=writing]").wait_for(state="detached", timeout=15000)
    for other in (*windows[1:], late):
        other.close()


@pytest.mark.long
def test_more_answers_of_one_chat_than_are_read_at_a_time_all_go_on_and_end(visitor: Visitor) -> None:
    visitor.service.user("rich", concurrency=50)
    page = visitor.sign_in("rich").page
    visitor.ask("slow")
    visitor.grown(1)
    page.get_by_role("button", name="Stop").click()
    for _ in range(5):
        page.locator("[data-place=again]").click()
        page.locator(".answer[data-state=writing]").wait_for()
        while page.locator("[data-place^=earlier]:enabled").count():
            page.locator("[data-place^=earlier]").click()
    page.locator("[data-place^=later]").click()
    before = len(page.inner_text(".answer .text"))
    visitor.grown(before + 30)
    page.get_by_role("button", name="Stop").click()
    page.get_by_role("button", name="Send").wait_for()
    assert all(generation.ended for generation in visitor.service.backend.generations)


def test_what_two_windows_ask_in_one_chat_can_both_be_read_afterwards(visitor: Visitor) -> None:
    page = visitor.be_guest().page
    visitor.ask_whole("first")
    other = page.context.new_page()
    other.goto(page.url)
    other.locator(".answer").wait_for()
    visitor.ask_whole("of one window")
    assert Visitor(visitor.service, other).ask_whole("of another") == ["echo: of another"]
    other.close()
    page.reload()
    page.locator(".question .text", has_text="of another").wait_for()
    page.get_by_role("button", name="Earlier version").click()
    page.locator(".answer", has_text="echo: of one window").wait_for()
    assert page.evaluate("document.activeElement.ariaLabel") == "Later version"
    assert page.locator(".question .text").all_inner_texts() == ["first", "of one window"]
    assert visitor.ask_whole("next") == ["echo: next"]
    asked = visitor.service.backend.jobs[-1].messages or ()
    assert [message["content"] for message in asked if message["role"] == "user"] == ["first", "of one window", "next"]


def test_a_window_keeps_nothing_of_the_views_that_it_has_left(visitor: Visitor) -> None:
    visitor.service.user("views")
    page = visitor.sign_in("views").page
    page.wait_for_selector("#question")
    devtools = page.context.new_cdp_session(page)

    def nodes() -> float:
        for place, shown in (("password", "[name=old]"), ("", "#question")) * 3:
            page.evaluate("(place) => { location.hash = `#/${place}`; }", place)
            page.locator(shown).wait_for()
        for _ in range(3):
            devtools.send("HeapProfiler.collectGarbage")
            page.wait_for_timeout(50)
        return float(devtools.send("Memory.getDOMCounters")["nodes"])

    before = nodes()
    assert max(nodes(), nodes()) < before + 100
    devtools.detach()


@pytest.mark.parametrize("lost", ["connection", "gateway"])
def test_an_answer_is_read_when_a_service_that_was_away_for_long_is_back(visitor: Visitor, lost: str) -> None:
    page = (
        visitor.be_guest().page.context.new_page()
    )  # of its own: its time runs fast, and what the browser says of lost connections is no fault
    page.add_init_script("const wait = setTimeout; window.setTimeout = (call, ms) => wait(call, ms / 50);")
    other = Visitor(visitor.service, page).open()
    tries: list[Route] = []

    def away(route: "Route") -> None:
        tries.append(route)
        if lost == "connection":
            route.abort()
        else:
            route.fulfill(status=502, body="Bad Gateway")

    page.route("**/api/generations/**", away)
    other.ask("slow")
    until = time.monotonic() + 10
    while len(tries) < 20 and time.monotonic() < until:
        page.wait_for_timeout(20)
    assert len(tries) >= 20, "it was given up"
    page.unroute("**/api/generations/**")
    other.grown(30)
    page.close()


def test_a_dialog_of_a_chat_does_not_stay_open_over_another(visitor: Visitor) -> None:
    page = visitor.be_guest().page
    visitor.ask_whole("first")
    page.get_by_role("button", name="New chat").first.click()
    visitor.ask_whole("second")
    page.get_by_role("button", name="What to do with this chat").first.click()
    page.locator("dialog[open]").wait_for()
    page.go_back()
    page.locator(".question .text", has_text="first").wait_for()
    assert page.locator("dialog[open]").count() == 0
