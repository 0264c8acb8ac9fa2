"""The page of the service under attack, and under every order of the keys of an input method."""

import pytest

from tests.browser.hostile_texts import MARKUP, SCRIPTS
from tests.browser.service import Visitor

pytestmark = [pytest.mark.browser, pytest.mark.long]


def test_no_text_of_an_attacker_runs_loads_or_leaves(visitor: Visitor) -> None:
    user = visitor.service.user("attacked")
    messages = [
        {
            "id": str(number),
            "parent_id": str(number - 1) if number else None,
            "role": ("user", "assistant")[number % 2],
            "content": text,
            "model": "tuned" if number % 2 else None,
        }
        for number, text in enumerate(text for text in MARKUP for _ in range(2))
    ]
    for text in MARKUP:
        assert user.post("/api/chats/import", json={"title": text, "messages": []}).status_code == 201
        assert user.post("/api/me/keys", json={"name": text[:64]}).status_code in {201, 400}
    chat = user.post("/api/chats/import", json={"title": MARKUP[1], "messages": messages}).json()["id"]
    page = visitor.sign_in("attacked").page
    page.wait_for_selector("#question")
    page.goto(f"{visitor.service.running.url}/#/chat/{chat}")
    page.locator(".chats a").first.wait_for()
    page.locator(".chats a").first.click()
    page.locator(".round").nth(len(MARKUP) - 1).wait_for()
    written = page.evaluate("[...document.querySelectorAll('.question .text, .answer .text')].map((one) => one.textContent)")
    assert written == [message["content"] for message in messages]
    titles = page.evaluate("[...document.querySelectorAll('.chats a')].map((one) => one.textContent)")
    assert {text[:20].strip() for text in MARKUP if "\n" not in text} <= {title[:20].strip() for title in titles}
    page.get_by_role("link", name="API keys").click()
    page.get_by_role("heading", name="API keys").wait_for()
    page.wait_for_timeout(500)
    assert page.evaluate("document.querySelectorAll('img, iframe, object, embed, base, body script, video, form[action]').length") == 0
    assert page.url.startswith(visitor.service.running.url)
    assert len(page.context.pages) == 1


def test_no_order_of_keys_sends_what_is_still_composed_and_a_click_sends_all_of_it(visitor: Visitor) -> None:
    page, jobs = visitor.be_guest().page, visitor.service.backend.jobs
    asked = len(jobs)
    keyboard = page.context.new_cdp_session(page)

    def compose(text: str) -> None:
        page.focus("#question")
        keyboard.send("Input.imeSetComposition", {"text": text, "selectionStart": len(text), "selectionEnd": len(text)})

    def press(key: str, code: int) -> None:
        for kind in ("rawKeyDown", "keyUp"):
            keyboard.send("Input.dispatchKeyEvent", {"type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code})

    for code in (229, 13):  # as Chrome sends it, and a method that leaves the key its code
        compose("ni")
        press("Enter", code)
        keyboard.send("Input.insertText", {"text": "你"})
    compose("hao")
    keyboard.send("Input.insertText", {"text": "好"})
    press("Enter", 229)  # as Safari sends it
    compose("bu")
    press("Escape", 229)
    compose("")  # the composition is given up
    compose("zai")
    page.evaluate("document.querySelector('#question').blur()")  # another window, or another input method
    assert len(jobs) == asked
    assert page.input_value("#question").startswith("你你好")
    page.fill("#question", "")
    compose("zaijian")
    page.locator("button.send").click()
    page.locator(".answer:not([data-state=writing])").wait_for()
    assert [job.messages for job in jobs[asked:]] == [({"role": "user", "content": "zaijian"},)]
    assert page.input_value("#question") == ""


def test_every_script_comes_back_as_it_was_typed(visitor: Visitor) -> None:
    page = visitor.be_guest().page
    page.get_by_role("radio", name="Single-turn").check()
    assert len(SCRIPTS) == 31
    for number, text in enumerate(SCRIPTS):
        page.focus("#question")
        page.keyboard.insert_text(text)
        page.keyboard.press("Enter")
        last = page.locator(".round").nth(number)
        last.locator(".answer:not([data-state=writing])").wait_for()
        shown = last.locator(".text").evaluate_all("(texts) => texts.map((one) => one.textContent)")
        assert shown == [text, f"echo: {text}"]
