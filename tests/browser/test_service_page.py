"""The service's page in a real browser, over a real server and store."""

import json
from dataclasses import replace

import pytest

from imprint.serve.generation.job import Statistics
from imprint.serve.generation.notes import note_of
from tests.browser.service import Visitor, Windows
from tests.serve.stores import PASSWORD
from tests.serve.web.scripted import MODELS

pytestmark = pytest.mark.browser
HOSTILE = "<script>window.broken=1</script><img src=x onerror=window.broken=1>"


def test_a_guest_chats_with_one_click_in_several_turns_and_in_single_ones(visitor: Visitor) -> None:
    page, jobs = visitor.be_guest().page, visitor.service.backend.jobs
    assert visitor.ask_whole("say 白色的上衣") == ["白色的上衣"]
    assert visitor.ask_whole("二") == ["echo: 二"]
    assert [message["content"] for message in jobs[-1].messages or ()] == ["say 白色的上衣", "白色的上衣", "二"]
    page.get_by_role("radio", name="Single-turn").check()
    assert visitor.ask_whole("三") == ["echo: 三"]
    assert visitor.ask_whole("四") == ["echo: 四"]
    assert [message["content"] for message in jobs[-1].messages or ()] == ["四"]
    assert page.locator(".chats li").all_inner_texts() == ["say 白色的上衣"]
    assert "Base: toy · Licence: MIT · For tests." in page.inner_text(".about")


def test_text_grows_goes_on_after_a_reload_and_stops_where_one_says_so(visitor: Visitor) -> None:
    page = visitor.be_guest().page
    visitor.ask("slow")
    before = visitor.grown(2)
    page.reload()
    assert visitor.grown(len(before) + 2).startswith(before)
    page.get_by_role("button", name="Stop").click()
    page.locator(".status", has_text="Stopped here.").first.wait_for()
    written = page.inner_text(".answer .text")
    assert set(written) == {"."}
    page.get_by_text("Again", exact=True).click()
    page.get_by_text("2 of 2").wait_for()
    page.get_by_role("button", name="Stop").click()
    page.get_by_role("button", name="Earlier version").click()
    assert page.inner_text(".answer .text") == written
    assert page.evaluate("document.activeElement.ariaLabel") == "Later version", "the focus is lost with the button that had it"


def test_a_single_turn_goes_on_after_a_reload_too(visitor: Visitor) -> None:
    page = visitor.be_guest().page
    page.get_by_role("radio", name="Single-turn").check()
    visitor.ask("slow")
    visitor.grown(1)
    page.reload()
    visitor.grown(3)
    page.get_by_role("button", name="Stop").click()
    page.locator(".status", has_text="Stopped here.").first.wait_for()
    assert page.inner_text(".question .text") == "slow"
    visitor.ask("slow")
    page.locator(".round").nth(1).wait_for()
    page.context.clear_cookies()
    page.reload()
    assert visitor.be_guest().page.locator(".round").count() == 0, "another visitor of this window sees what the one before asked"
    visitor.service.running.loop.call_soon_threadsafe(visitor.service.backend.generations[-1].cancel)


def test_base_and_tuned_answer_side_by_side_and_the_chat_goes_on_from_either(visitor: Visitor) -> None:
    page, jobs = visitor.be_guest().page, visitor.service.backend.jobs
    page.get_by_text("With the base").click()
    assert visitor.ask_whole("一", answers=2) == ["echo: 一", "echo: 一"]
    assert [job.model for job in jobs[-2:]] == ["base", "tuned"]
    page.get_by_role("button", name="Go on from this answer").click()
    page.get_by_text("With the base").click()
    visitor.ask_whole("二")
    page.reload()
    page.locator(".round").nth(1).wait_for()
    chosen = page.locator(".answer:has([aria-pressed=true])")
    assert chosen.locator("h2").inner_text() == "base"
    assert chosen.count() == 1


def test_a_visitor_asks_for_an_account_and_gets_one_that_has_its_only_model(visitor: Visitor) -> None:
    page = visitor.open("ask").page
    for name, text in (("name", "小林"), ("contact", HOSTILE), ("reason", HOSTILE)):
        page.fill(f"[name={name}]", text)
    page.get_by_role("button", name="Send the request").click()
    page.get_by_text("Your request has been sent.").wait_for()

    visitor.service.admin()
    visitor.sign_in("admin").page.wait_for_selector("#question")
    visitor.open("admin").page.get_by_role("button", name="Approve").click()
    assert page.locator("blockquote").inner_text() == HOSTILE
    dialog = page.locator("dialog")
    dialog.get_by_label("Models").select_option("some")
    dialog.get_by_label("tuned").check()
    dialog.get_by_label("Tokens a day").fill("5000")
    dialog.get_by_role("button", name="Approve").click()
    password = page.locator("dialog .secret").input_value()
    page.get_by_role("button", name="Close").last.click()
    page.get_by_text("Nobody waits for an account.").wait_for()

    page.get_by_role("button", name="Sign out").click()
    page.get_by_role("button", name="Try it as a guest").wait_for()
    visitor.sign_in("小林", password).page.get_by_text("You signed in with a one-time password.").wait_for()
    visitor.choose_password()
    assert page.locator("#model option").all_inner_texts() == ["tuned · tuned"]
    assert "of 5,000 tokens left today" in page.inner_text(".usage")
    assert page.get_by_role("link", name="Administration").count() == 0


def test_nothing_that_anybody_writes_becomes_markup(visitor: Visitor) -> None:
    page = visitor.be_guest().page
    assert visitor.ask_whole(f"say {HOSTILE}") == [HOSTILE]
    assert page.locator(".question .text").inner_text() == f"say {HOSTILE}"
    assert page.locator(".chats a").inner_text() == f"say {HOSTILE}"[:60]
    page.reload()
    page.locator(".answer").wait_for()
    page.get_by_role("button", name="What to do with this chat").click()
    assert page.evaluate("document.querySelectorAll('img, body script, iframe').length") == 0


def test_enter_sends_but_never_while_an_input_method_composes(visitor: Visitor) -> None:
    page, jobs = visitor.be_guest().page, visitor.service.backend.jobs
    asked = len(jobs)
    keyboard = page.context.new_cdp_session(page)

    def compose() -> None:
        page.focus("#question")
        keyboard.send("Input.imeSetComposition", {"text": "ni hao", "selectionStart": 6, "selectionEnd": 6})

    def enter(code: int) -> None:
        for kind in ("rawKeyDown", "keyUp"):
            keyboard.send("Input.dispatchKeyEvent", {"type": kind, "key": "Enter", "code": "Enter", "windowsVirtualKeyCode": code})

    compose()
    enter(229)  # Chrome: the key first, then the end of the composition
    keyboard.send("Input.insertText", {"text": "你好"})
    compose()
    keyboard.send("Input.insertText", {"text": "世界"})
    enter(229)  # Safari: the end of the composition first, then the key
    compose()
    enter(13)  # a method that leaves the key its code
    keyboard.send("Input.insertText", {"text": "！"})
    page.press("#question", "Shift+Enter")
    page.keyboard.type("再见")
    assert page.input_value("#question") == "你好世界！\n再见"
    assert len(jobs) == asked
    page.press("#question", "Enter")
    page.locator(".answer:not([data-state=writing])").wait_for()
    assert [job.messages for job in jobs[asked:]] == [({"role": "user", "content": "你好世界！\n再见"},)]


def test_nothing_is_wider_than_a_small_phone_and_all_controls_have_names_in_either_language(
    windows: Windows, monkeypatch: pytest.MonkeyPatch
) -> None:
    windows.service.user("窄屏")
    with windows.visit(width=360) as visitor:
        page, wide = visitor.page, list[str]()
        for place in ("", "signin", "ask"):
            visitor.open(place).page.wait_for_selector(".card")
            wide += visitor.faults(place)
        glm = "chatglm-6b"
        models = (replace(MODELS[0], licence=glm, note=note_of(glm)), replace(MODELS[1], id="a-run-of-" + "long-" * 12 + "name"))
        with monkeypatch.context() as patch:
            patch.setattr(windows.service.backend, "models", lambda: models)
            visitor.sign_in("窄屏").page.wait_for_selector("#question")
            wide += visitor.faults("a long name")
            note = page.get_by_text("For research only: the licence of the base allows no other use").bounding_box()
            assert note is not None
            assert note["y"] + note["height"] < 800
        page.reload()
        page.get_by_text("With the base").click()
        visitor.ask_whole("say " + "W" * 100, answers=2)
        wide += visitor.faults("chat")
        page.set_viewport_size({"width": 320, "height": 256})
        visitor.ask_whole("say low", answers=2)
        last = page.locator(".answer .text").last.bounding_box()
        assert last is not None
        assert 0 < last["y"] < 256, "at 400 % nothing of an answer is seen"
        wide += visitor.faults("400 % zoom")
        page.set_viewport_size({"width": 360, "height": 740})
        page.get_by_role("button", name="Menu").click()
        page.get_by_role("button", name="Language / 语言").click()
        page.get_by_text("新对话").first.wait_for()
        wide += visitor.faults("menu")
        page.get_by_role("link", name="API 密钥").click()
        page.get_by_role("heading", name="API 密钥").wait_for()
        wide += visitor.faults("keys")
        page.get_by_role("button", name="退出登录").wait_for(state="hidden")
        windows.context.clear_cookies()
        visitor.service.admin()
        visitor.sign_in("admin").page.wait_for_selector("#question")
        for tab in ("requests", "users", "service", "audit"):
            visitor.open(f"admin/{tab}").page.locator(".tab > :not(.nothing), .tab > .nothing").first.wait_for()
            wide += visitor.faults(tab)
        assert wide == []


def test_a_key_is_seen_once_works_and_is_revoked(visitor: Visitor) -> None:
    visitor.service.user("keys")
    page = visitor.sign_in("keys").page
    page.get_by_role("link", name="API keys").click()
    page.get_by_label("What it is for").fill("<img src=x onerror=window.broken=1>")
    page.get_by_role("button", name="Make a key").click()
    key = page.locator("dialog .secret").input_value()
    page.get_by_role("button", name="Close").last.click()
    page.locator("dialog").wait_for(state="detached")
    assert key not in page.content()
    with visitor.service.running.client(key) as client:
        assert client.get("/v1/models").status_code == 200
        page.get_by_role("button", name="Revoke").click()
        page.locator("dialog").get_by_role("button", name="Revoke").click()
        page.get_by_text("revoked", exact=True).wait_for()
        assert client.get("/v1/models").status_code == 401


def test_chats_are_searched_renamed_exported_and_deleted(visitor: Visitor) -> None:
    visitor.service.user("chats")
    page = visitor.sign_in("chats").page
    for text in ("门票多少钱", "say 天气"):
        page.get_by_role("button", name="New chat").click()
        visitor.ask_whole(text)
    page.get_by_label("Search chats").fill("门票")
    page.locator(".chats li", has_text="天气").wait_for(state="detached")
    page.locator(".chats a").click()
    page.locator(".question .text", has_text="门票多少钱").wait_for()
    page.get_by_role("button", name="What to do with this chat").click()
    with page.expect_download() as saved:
        page.get_by_text("JSON (all versions)").click()
    assert "门票多少钱" in json.dumps(json.loads(saved.value.path().read_bytes()), ensure_ascii=False)
    page.get_by_label("Title").fill("门票价格")
    page.get_by_role("button", name="Save").click()
    page.locator(".chats a", has_text="门票价格").wait_for()
    page.get_by_role("button", name="What to do with this chat").click()
    page.get_by_role("button", name="Delete this chat").click()
    page.get_by_role("button", name="Delete", exact=True).click()
    page.get_by_text("No chat has these words").wait_for()
    assert page.locator(".round").count() == 0
    page.get_by_label("Search chats").fill("")
    with page.expect_download() as saved:
        page.get_by_text("Export all chats").click()
    page.locator("input[type=file]").set_input_files(saved.value.path())
    page.get_by_text("Imported: 1").wait_for()
    page.locator(".answer", has_text="天气").wait_for()
    assert page.locator(".chats li").all_inner_texts() == ["say 天气", "say 天气"]
    orphan = b'{"messages": [{"id": "1", "parent_id": "2", "role": "user", "content": ""}]}'
    for content, said in ((b"[]", "holds no exported chats"), (orphan, "its id must be new, and its parent_id null")):
        page.locator("input[type=file]").set_input_files({"name": "x.json", "mimeType": "application/json", "buffer": content})
        page.get_by_text(said).wait_for()


def test_a_session_that_ends_leaves_a_sentence_the_sign_in_and_the_question_that_was_not_sent(visitor: Visitor) -> None:
    service = visitor.service
    service.user("ended")
    admin = service.admin()
    path = next(f"/api/admin/users/{one['id']}" for one in admin.get("/api/admin/users").json()["users"] if one["name"] == "ended")
    page = visitor.sign_in("ended").page
    visitor.ask("slow")
    visitor.grown(1)
    admin.patch(path, json={"models": ["base"]})
    page.locator(".status", has_text="the right to this model was taken away").wait_for()
    page.locator("#model option", has_text="tuned").wait_for(state="detached")
    page.fill("#question", "yet to be sent")
    place = page.url
    admin.patch(path, json={"disabled": True})
    page.get_by_role("button", name="New chat").click()
    page.get_by_role("link", name="slow").click()
    page.get_by_text("Your session has ended").wait_for()
    assert page.input_value("[name=name]") == "ended"
    admin.patch(path, json={"disabled": False})
    page.fill("[name=password]", PASSWORD)
    page.keyboard.press("Enter")
    page.locator(".question .text", has_text="slow").wait_for()
    assert (page.url, page.input_value("#question")) == (place, "yet to be sent")
    other = page.context.new_page()
    Visitor(service, other).open().page.get_by_role("button", name="Sign out").click()
    page.get_by_role("button", name="Try it as a guest").wait_for()
    other.close()
    visitor.be_guest()
    page.context.clear_cookies()
    page.get_by_role("radio", name="Single-turn").check()
    visitor.ask("hi")
    page.get_by_text("The session has ended, and its chats with it.").wait_for()
    assert page.get_by_role("button", name="Try it as a guest").is_enabled()


def test_what_goes_wrong_is_a_sentence_in_the_language_that_is_chosen(visitor: Visitor) -> None:
    page = visitor.sign_in("nobody", "wrong").page
    page.locator(".problem:not([hidden])").wait_for()
    visitor.be_guest().ask("full")
    page.get_by_text("Too many wait. Try again in 3 seconds.").wait_for()
    assert page.input_value("#question") == "full"
    assert page.locator(".chats li").count() == 0
    page.get_by_role("button", name="Language / 语言").click()
    page.get_by_text("排队已满。请在3秒钟后重试。").wait_for()
    visitor.ask("fail")
    page.locator(".status", has_text="数值不是有限的。").wait_for()
    visitor.ask_whole("queue")
    assert page.evaluate("document.documentElement.lang") == "zh-CN"


def test_queue_and_quota_are_sentences_too(visitor: Visitor) -> None:
    visitor.service.user("quota", tokens_a_day=12, models=["base"])
    page = visitor.sign_in("quota").page
    page.get_by_text("12 of 12 tokens left today").wait_for()
    visitor.ask_whole("say ok")
    page.get_by_text("4 of 12 tokens left today").wait_for()
    visitor.ask("more than that")
    page.get_by_text("4 of the 12 tokens a day of this account are left").wait_for()
    shown = page.evaluate("""async () => {
        const { Answer } = await import("/page/answer.js");
        const answer = new Answer({ id: "1", model: "base", text: "", state: "writing", generation: "g" }, false);
        return [3, 1].map((position) => { answer.on({ name: "queue", data: { position } }); return answer.status.textContent; });
    }""")
    assert shown == ["In the queue: 2 before you", "In the queue: yours is next"]


def test_an_admin_is_told_what_to_do_about_long_waits(visitor: Visitor, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = visitor.service.running.app.state.services.backend
    monkeypatch.setattr(backend, "statistics", lambda: Statistics(wait_p95_seconds=20.0, servers=2))
    visitor.service.admin()
    visitor.sign_in("admin").page.wait_for_selector("#question")
    visitor.open("admin/service").page.get_by_text("waited 20 seconds or longer").wait_for()
    assert visitor.page.get_by_text("Servers that answer").count() == 1


def test_an_answer_goes_on_while_another_chat_is_open(visitor: Visitor) -> None:
    page = visitor.be_guest().page
    visitor.ask("slow")
    before = visitor.grown(1)
    page.get_by_role("button", name="New chat").click()
    assert visitor.ask_whole("hi") == ["echo: hi"]
    page.get_by_role("link", name="slow").click()
    page.locator(".question .text", has_text="slow").wait_for()
    assert visitor.grown(len(before) + 1).startswith(before)
    page.get_by_role("button", name="Stop").click()
    page.locator(".status", has_text="Stopped here.").first.wait_for()
    assert all(generation.ended for generation in visitor.service.backend.generations)


def test_a_link_on_another_site_leads_to_ones_own_chats_and_to_nothing_behind_the_page(visitor: Visitor) -> None:
    page = visitor.be_guest().page
    visitor.ask_whole("say 白色的上衣")
    chat, base = page.evaluate("location.hash"), visitor.service.running.url
    for place in ("/", f"/{chat}"):
        page.goto(f"data:text/html,<a href='{base}{place.replace('#', '%23')}'>there</a>")
        page.get_by_text("there").click()
        page.locator(".chats li", has_text="say 白色的上衣").wait_for()
        page.reload()
        page.locator(".chats li", has_text="say 白色的上衣").wait_for()
    page.goto(f"data:text/html,<a href='{base}/api/chats'>there</a>")
    page.get_by_text("there").click()
    page.wait_for_url("**/api/chats")
    assert "cross_site_request" in page.inner_text("body")
