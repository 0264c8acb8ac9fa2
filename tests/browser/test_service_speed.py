"""How long the service's page stands still, whatever text it shows: no text may take more than a moment to lay out."""

from typing import Any

import pytest

from tests.browser.hostile_texts import RUNS
from tests.browser.service import Visitor
from tests.serve.web.page import Browser

pytestmark = pytest.mark.browser

SHOWN = """async ([place, selector, characters]) => {
    const began = performance.now();
    location.hash = place;
    const isThere = () => [...document.querySelectorAll(selector)].some((one) => one.textContent.length === characters);
    while (!isThere()) await new Promise((resolve) => setTimeout(resolve, 5));
    document.getElementById("app").offsetHeight;
    return performance.now() - began;
}"""
"""Milliseconds from a change of the address until an element with as many characters is there and laid out."""
NARROWED = """() => {
    const began = performance.now();
    document.body.style.width = "1000px";
    document.getElementById("app").offsetHeight;
    document.body.style.width = "";
    return performance.now() - began;
}"""
"""Milliseconds that a change of the window's width takes."""


def run_of(unit: str, characters: int) -> str:
    """A text repeated up to a number of characters as a browser counts them (UTF-16), cut between its repetitions."""
    return unit * (characters // (len(unit.encode("utf-16-le")) // 2))


def chat_with(user: Browser, text: str, **changes: Any) -> str:
    """A chat with the text as its answer; its id."""
    question = {"id": "q", "parent_id": None, "role": "user", "content": "hi"}
    answer = {"id": "a", "parent_id": "q", "role": "assistant", "content": text, "model": "base"}
    made = user.post("/api/chats/import", json={"title": "t", "messages": [question, answer], **changes})
    assert made.status_code == 201, made.text
    return str(made.json()["id"])


def seconds_to_open(visitor: Visitor, chat: str, text: str) -> float:
    """How long it takes until a chat is shown, from the click on."""
    length = len(text.encode("utf-16-le")) // 2
    return float(visitor.page.evaluate(SHOWN, [f"#/chat/{chat}", ".answer .text", length])) / 1000


def test_runs_of_punctuation_are_shown_as_fast_as_other_text(visitor: Visitor) -> None:
    user = visitor.service.user("punctuation")
    visitor.sign_in("punctuation").page.wait_for_selector("#question")
    for unit in ("。", "（", "「」"):
        text = unit * 8000
        chat = chat_with(user, text[:8000], title=text[:200])
        assert seconds_to_open(visitor, chat, text[:8000]) < 1.5, unit
        visitor.page.fill("#question", text[:8000])
    assert visitor.page.evaluate(NARROWED) < 1500


def ask_for_accounts(visitor: Visitor, reason: str, visitors: int) -> tuple[float, float]:
    """How long an admin waits for the list of requests after so many were made, and after a change of the window's width; seconds."""
    anybody = visitor.service.browser()
    for number in range(visitors):
        body = {"name": f"a{number}", "contact": reason[:200], "reason": reason}
        assert anybody.post("/api/requests", json=body).status_code == 202
    shown = float(visitor.page.evaluate(SHOWN, ["#/admin/requests", "blockquote", len(reason.encode("utf-16-le")) // 2]))
    return shown / 1000, float(visitor.page.evaluate(NARROWED)) / 1000


def test_requests_for_accounts_are_shown_at_once_to_an_admin_whatever_their_reasons_are(visitor: Visitor) -> None:
    admin = visitor.service.admin()
    visitor.sign_in("admin").page.wait_for_selector("#question")
    assert max(ask_for_accounts(visitor, "。" * 2000, visitors=50)) < 1.5
    for request in admin.get("/api/admin/requests").json()["requests"]:
        assert admin.post(f"/api/admin/requests/{request['id']}/decline", json={}).status_code == 200


@pytest.mark.long
def test_no_run_of_any_text_holds_the_page(visitor: Visitor) -> None:
    user = visitor.service.user("runs")
    visitor.sign_in("runs").page.wait_for_selector("#question")
    slow = {}
    for unit in RUNS:
        text = run_of(unit, 16_000)
        taken = seconds_to_open(visitor, chat_with(user, text, title=run_of(unit, 200)), text)
        if taken > 2:
            slow[unit] = taken
        visitor.open()
    assert slow == {}
