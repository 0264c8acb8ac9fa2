"""What is written into the fields of the service's page, and what others change meanwhile, in a real browser."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.browser.service import Visitor
from tests.serve.stores import PASSWORD

if TYPE_CHECKING:
    from playwright.sync_api import Page, Route

pytestmark = pytest.mark.browser


def hold(page: "Page", pattern: str) -> "list[Route]":
    """The requests to a place, which wait there until they are let go."""
    held: list[Route] = []
    page.route(pattern, lambda route: held.append(route))
    return held


def wait_for(page: "Page", held: "list[Route]") -> "Route":
    for _ in range(200):
        if held:
            break
        page.wait_for_timeout(20)
    return held.pop()


def test_an_admin_changes_only_what_he_changed_and_undoes_nothing_of_another(visitor: Visitor) -> None:
    service = visitor.service
    service.user("eve", role="admin")
    admin = service.admin()
    eve = next(one for one in admin.get("/api/admin/users").json()["users"] if one["name"] == "eve")
    path = f"/api/admin/users/{eve['id']}"
    page = visitor.sign_in("admin").page
    page.wait_for_selector("#question")
    visitor.open("admin/users")
    row = page.locator("tr", has_text="eve")
    row.wait_for()
    admin.patch(path, json={"role": "user", "models": ["base"], "tokens_a_day": 5})
    row.get_by_role("button", name="Change").click()
    dialog = page.locator("dialog")
    assert dialog.get_by_label("Tokens a day").input_value() == "5", "the dialog shows the account as it was when the list was read"
    admin.patch(path, json={"tokens_a_day": 4})
    dialog.get_by_label("Answers at a time").fill("3")
    dialog.get_by_role("button", name="Save").click()
    page.get_by_text("Saved.").wait_for()
    changed = next(one for one in admin.get("/api/admin/users").json()["users"] if one["name"] == "eve")
    assert {name: changed[name] for name in ("role", "models", "tokens_a_day", "concurrency")} == {
        "role": "user",
        "models": ["base"],
        "tokens_a_day": 4,
        "concurrency": 3,
    }


def test_a_guests_setting_that_was_refused_is_shown_as_the_service_has_it(visitor: Visitor) -> None:
    visitor.service.admin()
    page = visitor.sign_in("admin").page
    page.wait_for_selector("#question")
    visitor.open("admin/service")
    guests = page.get_by_label("Guests")
    before = guests.input_value()
    refusal = {"error": {"code": "busy", "message": "Not now."}}
    page.route("**/api/admin/settings", lambda route: route.fulfill(status=409, json=refusal))
    try:
        guests.select_option("off" if before != "off" else "everywhere")
        page.locator(".card .problem", has_text="Not now.").wait_for()
    finally:
        page.unroute("**/api/admin/settings")
    assert guests.input_value() == before


def test_a_question_that_is_refused_stands_before_what_was_written_since(visitor: Visitor) -> None:
    page = visitor.be_guest().page
    held = hold(page, "**/api/chats/*/messages")
    visitor.ask("full")
    refused = wait_for(page, held)
    page.keyboard.type("next")
    page.keyboard.press("ArrowLeft")
    refused.continue_()
    page.get_by_text("Too many wait.").wait_for()
    page.keyboard.type("!")
    assert page.input_value("#question") == "full\nnex!t"
    keyboard = page.context.new_cdp_session(page)
    page.fill("#question", "full")
    page.press("#question", "Enter")
    refused = wait_for(page, held)
    keyboard.send("Input.imeSetComposition", {"text": "ni hao", "selectionStart": 6, "selectionEnd": 6})
    refused.continue_()
    page.get_by_text("Too many wait.").wait_for()
    keyboard.send("Input.insertText", {"text": "你好"})
    assert page.input_value("#question") == "full\n你好"
    page.unroute("**/api/chats/*/messages")


def test_a_question_that_was_not_sent_is_there_again_after_other_views_and_ended_sessions(visitor: Visitor) -> None:
    page = visitor.be_guest().page
    for place in ("ask", "signin"):
        page.fill("#question", f"draft {place}")
        page.locator(f".account a[href='#/{place}']").first.click()
        page.get_by_role("link", name="Back").click()
        page.wait_for_selector("#question")
        assert page.input_value("#question") == f"draft {place}"
    page.context.clear_cookies()
    page.press("#question", "Enter")
    page.get_by_text("The session has ended").wait_for()
    page.get_by_role("button", name="Try it as a guest").click()
    page.wait_for_selector("#question")
    assert page.input_value("#question") == "draft signin"
    page.get_by_role("button", name="Sign out").click()
    page.get_by_role("button", name="Try it as a guest").click()
    page.wait_for_selector("#question")
    assert page.input_value("#question") == "", "whoever comes after a sign-out reads what was not sent"
    visitor.service.user("drafts")
    page.context.clear_cookies()
    visitor.sign_in("drafts", PASSWORD)
    page.locator(".person b", has_text="drafts").wait_for()
    page.fill("#question", "mine")
    page.get_by_role("link", name="Change password").click()
    page.get_by_role("link", name="Back").click()
    page.wait_for_selector("#question")
    assert page.input_value("#question") == "mine"


@pytest.mark.parametrize("mode", ["Single-turn", "Multi-turn"])
@pytest.mark.parametrize("late", [201, 401])
def test_a_question_that_is_on_its_way_at_the_sign_out_is_answered_to_nobody_who_comes_after(
    visitor: Visitor, mode: str, late: int
) -> None:
    page = visitor.be_guest().page
    page.get_by_role("radio", name=mode).check()
    place = "**/api/generations" if mode == "Single-turn" else "**/api/chats/*/messages"
    held = hold(page, place)
    visitor.ask("slow")
    asked = wait_for(page, held)
    answer = asked.fetch() if late == 201 else None
    page.get_by_role("button", name="Sign out").click()
    page.get_by_role("button", name="Try it as a guest").click()
    page.wait_for_selector("#question")
    if answer is None:
        asked.fulfill(status=401, json={"error": {"code": "invalid_session", "message": "This session has ended."}})
    else:
        asked.fulfill(response=answer)
    page.wait_for_timeout(200)
    page.unroute(place)
    assert page.locator("#question").count() == 1, "the session of who comes after ends with that of the one before"
    assert page.url.endswith("/#/"), "the address names the chat of the one before"
    page.reload()
    page.get_by_text("No chats yet").wait_for()
    assert page.locator(".question").count() == 0, "who comes after reads the question of the one before"
    assert page.locator(".notice").count() == 0
    for generation in visitor.service.backend.generations:
        visitor.service.running.loop.call_soon_threadsafe(generation.cancel)


def test_a_browser_that_keeps_nothing_is_told_so_and_not_that_a_session_has_ended(visitor: Visitor) -> None:
    page = visitor.page.context.new_page()
    page.add_init_script("""
        const deny = () => { throw new DOMException("denied", "SecurityError"); };
        for (const name of ["localStorage", "sessionStorage"]) Object.defineProperty(window, name, { get: deny });
        window.BroadcastChannel = class { constructor() { deny(); } };""")
    guest = Visitor(visitor.service, page)
    refusal = {"error": {"code": "missing_credentials", "message": "Sign in first."}}
    page.route("**/api/models", lambda route: route.fulfill(status=401, json=refusal))
    guest.open().page.get_by_role("button", name="Try it as a guest").click()
    page.get_by_text("This browser does not keep the cookie of the service").wait_for()
    page.unroute("**/api/models")
    assert guest.be_guest().ask_whole("say ok") == ["ok"]
    page.close()


def test_a_file_that_changes_while_it_is_imported_is_a_sentence_and_the_chats_before_it_are_shown(visitor: Visitor, tmp_path: Path) -> None:
    visitor.service.user("files")
    page = visitor.sign_in("files").page
    page.wait_for_selector("#question")
    chat = {"title": "taken", "messages": [{"id": "q", "parent_id": None, "role": "user", "content": "hello"}]}
    for name in ("1.json", "2.json"):
        (tmp_path / name).write_text(json.dumps(chat))
    held = hold(page, "**/api/chats/import")
    page.locator("input[type=file]").set_input_files([tmp_path / "1.json", tmp_path / "2.json"])
    first = wait_for(page, held)
    (tmp_path / "2.json").write_text(json.dumps(chat) + " " * 100)
    os.utime(tmp_path / "2.json", (1, 1))
    first.continue_()
    page.get_by_text("“2.json” cannot be read").wait_for()
    page.get_by_text("Before that, these were imported: 1").wait_for()
    page.locator(".chats a", has_text="taken").wait_for()
    assert page.locator(".chats li").count() == 1
    page.unroute("**/api/chats/import")
