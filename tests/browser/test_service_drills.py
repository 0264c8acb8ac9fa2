"""The page of the service under attack, and under every order of the keys of an input method."""

from dataclasses import replace

import pytest

from imprint.messages import Bilingual
from imprint.serve.generation.job import Ended, Generation, Job, RefusedError, TextDelta
from imprint.serve.store import accounts
from imprint.serve.store.names import MAX_NAME, name_key
from tests.browser.hostile_texts import MARKUP, SCRIPTS
from tests.browser.service import Visitor
from tests.serve.web.scripted import MODELS, ScriptedBackend, token

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


def play_hostile_errors(backend: ScriptedBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """`refuse N` is refused with a text of an attacker, and `break N` ends with it as an error in the middle."""
    begin = backend._begin

    def begin_hostile(generation: Generation, job: Job, text: str) -> None:
        kind, _, number = text.partition(" ")
        if kind not in {"refuse", "break"}:
            return begin(generation, job, text)
        said = Bilingual(MARKUP[int(number)], MARKUP[int(number)])
        if kind == "refuse":
            raise RefusedError("invalid", said)
        generation.push(TextDelta(said.english, (token("x", None),)))
        generation.push(Ended("error", len(text), 1, said))
        return None

    monkeypatch.setattr(backend, "_begin", begin_hostile)


def test_no_name_of_a_user_or_a_model_and_no_error_runs_loads_or_leaves(visitor: Visitor, monkeypatch: pytest.MonkeyPatch) -> None:
    service, page = visitor.service, visitor.page
    admin = service.admin()
    refused = admin.post("/api/admin/users", json={"name": MARKUP[1]})
    assert (refused.status_code, repr(MARKUP[1]) in refused.json()["error"]["message"]) == (400, True)
    monkeypatch.setattr(accounts, "account_name", str)  # as if it were allowed
    names = [text for text in dict.fromkeys(MARKUP) if len(text) <= MAX_NAME and name_key(text) == text]
    for name in names:
        service.user(name)
    models = [replace(model, id=text, base_name=text, licence=text, note=Bilingual(text, text)) for text in MARKUP for model in MODELS[:1]]
    monkeypatch.setattr(service.backend, "models", lambda: models)
    play_hostile_errors(service.backend, monkeypatch)
    visitor.sign_in(names[0]).page.wait_for_selector("#question")
    assert page.locator("#side b", has_text=names[0]).count() == 1
    assert len(page.locator("#model option").all_inner_texts()) == len(MARKUP)
    for number, text in enumerate(MARKUP):
        visitor.ask(f"refuse {number}")
        page.wait_for_function("(text) => document.querySelector('.composer .problem').textContent.includes(text)", arg=text)
        visitor.ask(f"break {number}")
        page.wait_for_function(
            "([text, count]) => document.querySelectorAll('.answer .status')[count]?.textContent.includes(text)", arg=[text, number]
        )
    page.get_by_role("button", name="Sign out").click()
    page.get_by_role("button", name="Try it as a guest").wait_for()
    visitor.sign_in("admin").page.wait_for_selector("#question")
    visitor.open("admin/users").page.locator("tbody th", has_text=names[0]).first.wait_for()
    assert {*names} <= {*page.locator("tbody th").evaluate_all("(all) => all.map((one) => one.firstChild.textContent)")}
    visitor.open("admin/service").page.locator(".models li").nth(len(MARKUP) - 1).wait_for()
    assert page.evaluate("document.querySelectorAll('img, iframe, object, embed, base, body script, video, form[action]').length") == 0
    assert page.url.startswith(service.running.url)
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
