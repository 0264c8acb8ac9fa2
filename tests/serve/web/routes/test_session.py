import sqlite3
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import ColumnElement

from imprint.serve.store import COMMAND_LINE, Limits, Store, deletion
from imprint.serve.store.database import FILE_NAME, Database
from imprint.serve.web import services
from imprint.serve.web.access import GuardedRoute
from imprint.serve.web.request_body import SMALL_BODY_BYTES
from imprint.serve.web.settings import WebSettings
from imprint.terminal import say
from tests.serve.stores import PASSWORD
from tests.serve.web.page import Browser, Page, cookies_of, page
from tests.serve.web.scripted import serving


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with page(tmp_path_factory.mktemp("session")) as made:
        yield made


def test_a_guest_comes_with_one_click_on_this_machine_and_each_is_an_owner_of_its_own(shown: Page) -> None:
    browser = shown.browser()
    assert browser.get("/api/session").json()["guests"] is True
    assert browser.get("/api/session").json()["me"] is None
    first, second = browser.be_guest(), shown.guest()
    assert first.get("/api/me").json()["role"] == "guest"
    chat = first.new_chat()
    assert [one["id"] for one in first.get("/api/chats").json()["chats"]] == [chat]
    assert second.get("/api/chats").json()["chats"] == []
    assert second.get(f"/api/chats/{chat}").status_code == 404


def test_nobody_holds_the_memory_by_bodies_that_are_still_on_their_way(shown: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "MAX_LARGE_BODIES", 1)
    login = {"name": "x", "password": "x" * SMALL_BODY_BYTES}
    assert shown.browser().post("/api/session", json=login).status_code == 413
    guests = [shown.guest(), shown.guest()]
    text = {"text": "x" * 150_000, "models": ["base"]}
    counts = shown.running.app.state.services.large_body_counts
    with shown.running.connect() as slow:
        cookie = "; ".join(f"{name}={value}" for name, value in guests[0].cookies.items())
        head = f"POST /api/generations HTTP/1.1\r\nHost: localhost\r\nX-Requested-With: x\r\nCookie: {cookie}\r\n"
        slow.sendall(f"{head}Content-Type: application/json\r\nContent-Length: 200000\r\n\r\n".encode() + b" " * 150_000)
        deadline = time.monotonic() + 5
        while not counts:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert list(counts.items()) == [("127.0.0.1", 1)]
        assert [one.post("/api/generations", json=text).status_code for one in guests] == [429, 429]
        assert "context_length_exceeded" in shown.user("large").post("/api/generations", json=text).text
    while counts:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert "context_length_exceeded" in guests[1].post("/api/generations", json=text).text


def test_guests_and_those_who_have_not_signed_in_send_few_values(shown: Page) -> None:
    many = {"name": "x", "password": "x", "text": "x", "models": [[]] * 100}
    for browser, path in ((shown.browser(), "/api/session"), (shown.browser(), "/api/requests"), (shown.guest(), "/api/generations")):
        answer = browser.post(path, json=many)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_json")
        assert "more than 64 values" in answer.text
    assert "more than 64 values" not in shown.user("values").post("/api/generations", json=many).text


def test_a_session_begins_anew_at_every_login_and_ends_at_logout(shown: Page) -> None:
    browser = shown.user("fixation")
    old = dict(browser.cookies)
    assert browser.sign_in("fixation", PASSWORD).status_code == 200
    assert dict(browser.cookies) != old
    stale = shown.browser()
    stale.cookies.update(old)
    assert stale.get("/api/me").status_code == 401
    kept = dict(browser.cookies)
    assert browser.delete("/api/session").status_code == 200
    stale.cookies.update(kept)
    assert stale.get("/api/me").json()["error"]["code"] == "invalid_session"


@pytest.mark.long
def test_200_wrong_passwords_each_do_not_tell_which_of_two_names_there_is(tmp_path: Path) -> None:
    """At the costs of a real service, over HTTP, each try from another address."""
    limits = Limits(all_failures_a_minute=10**6)
    settings = WebSettings(proxies=("127.0.0.1",), hosts=("chat.example",), grace=0.5)
    processor: dict[str, list[float]] = {"present": [], "missing": []}
    clock: dict[str, list[float]] = {"present": [], "missing": []}
    said = set()
    with Store.open(tmp_path, limits=limits) as store, serving(store=store, settings=settings) as running, Browser(running) as browser:
        store.accounts.create("present", actor=COMMAND_LINE)
        for number in range(200):
            for name in processor:
                browser.headers["X-Forwarded-For"] = f"10.{name == 'present':d}.0.{number}"
                begun = time.process_time(), time.perf_counter()
                answer = browser.sign_in(name, "wrong")
                processor[name].append(time.process_time() - begun[0])
                clock[name].append(time.perf_counter() - begun[1])
                error = answer.json()["error"]
                said.add((answer.status_code, str({**error, "request_id": bool(error["request_id"])})))
    ((status, _),) = said
    ratios = {}
    for what, times in (("processor", processor), ("clock", clock)):
        present, missing = (statistics.median(times[name]) for name in processor)
        ratios[what] = max(present, missing) / min(present, missing)
        say(f"{what}: {1000 * present:.1f} ms for a name that is there, {1000 * missing:.1f} ms for another, ratio {ratios[what]:.3f}")
    assert status == 401
    assert ratios["processor"] <= 1.1  # and by the clock, where nothing else runs


def test_the_cookie_is_out_of_reach_of_scripts_and_other_sites(shown: Page) -> None:
    parts = cookies_of(shown.browser().post("/api/session/guest"))
    assert {"imprint_session", "httponly", "path"} <= parts.keys()
    assert (parts["samesite"].lower(), parts["path"]) == ("lax", "/")
    assert "secure" not in parts


def test_behind_a_proxy_with_tls_the_cookie_is_bound_to_this_host(tmp_path: Path) -> None:
    settings = WebSettings(proxies=("127.0.0.1",), hosts=("chat.example",), guest=True, grace=0.5)
    headers = {"Host": "chat.example", "Origin": "https://chat.example", "X-Forwarded-Proto": "https", "X-Forwarded-For": "192.0.2.9"}
    with page(tmp_path, settings) as behind:
        answer = behind.browser().post("/api/session/guest", headers=headers)
        assert answer.headers["strict-transport-security"]
        parts = cookies_of(answer)
        assert {"__host-imprint_session", "secure", "httponly"} <= parts.keys()
        assert (parts["path"], "domain" in parts) == ("/", False)
        cookie = {"Cookie": f"__Host-imprint_session={parts['__host-imprint_session']}"}
        sessions = behind.browser().get("/api/me/sessions", headers={**headers, **cookie}).json()["sessions"]
        assert [session["address"] for session in sessions] == ["192.0.2.9"]
        plain = {**headers, "X-Forwarded-Proto": "http", "Origin": "http://chat.example"}
        assert behind.browser().get("/api/me", headers={**plain, **cookie}).status_code == 401


def test_an_address_that_a_stranger_claims_is_not_believed(shown: Page) -> None:
    shown.user("stranger")
    browser = shown.browser()
    browser.headers["X-Forwarded-For"] = "192.0.2.9"
    assert browser.sign_in("stranger", PASSWORD).status_code == 200
    assert {session["address"] for session in browser.get("/api/me/sessions").json()["sessions"]} == {"127.0.0.1"}


@pytest.mark.parametrize("way", ["sign out", "sign in", "guests off"])
def test_nobody_waits_until_the_chats_of_guests_are_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    may_delete, delete = threading.Event(), deletion.delete_chats

    def wait(database: Database, condition: ColumnElement[bool]) -> int:
        assert may_delete.wait(20)
        return delete(database, condition)

    with page(tmp_path) as shown:
        admin, guest = shown.admin(), shown.guest()
        guest.new_chat()
        monkeypatch.setattr(deletion, "delete_chats", wait)
        try:
            guest.timeout = admin.timeout = 5
            token = guest.cookies["imprint_session"]
            if way == "sign out":
                assert guest.delete("/api/session").status_code == 200
            elif way == "sign in":
                assert guest.sign_in("admin", PASSWORD).status_code == 200
            else:
                assert admin.put("/api/admin/settings", json={"guests": "off"}).status_code == 200
            assert shown.store.sessions.of(token) is None
            assert count_of(tmp_path, "chats") == 1
        finally:
            may_delete.set()
        deadline = time.monotonic() + 10
        while count_of(tmp_path, "chats") or count_of(tmp_path, "sessions WHERE owner LIKE 'guest:%'"):
            assert time.monotonic() < deadline
            time.sleep(0.01)


def count_of(folder: Path, rows: str) -> int:
    """How many of these rows the database of a folder has."""
    with closing(sqlite3.connect(folder / FILE_NAME)) as connection:
        return int(connection.execute(f"SELECT count(*) FROM {rows}").fetchone()[0])


def test_whom_a_proxy_leads_here_is_no_guest_of_this_machine(shown: Page) -> None:
    browser = shown.browser()
    browser.headers["X-Forwarded-For"] = "192.0.2.9"
    assert browser.get("/api/session").json()["guests"] is False
    assert browser.post("/api/session/guest").status_code == 403
    inside = shown.guest()
    assert inside.get("/api/me").status_code == 200
    assert inside.get("/api/me", headers={"Via": "1.1 proxy"}).status_code == 401


def test_guests_of_this_machine_are_none_once_the_service_is_public(tmp_path: Path) -> None:
    with page(tmp_path) as private:
        token = private.guest().cookies["imprint_session"]
    with page(tmp_path, WebSettings(hosts=("chat.example",), grace=0.5)) as public:
        browser = public.browser()
        browser.cookies["imprint_session"] = token
        assert browser.get("/api/session").json()["me"] is None
        assert browser.get("/api/me").status_code == 401
        public.store.settings.set_guests("everywhere", COMMAND_LINE)
        assert browser.get("/api/me").status_code == 200


def test_a_public_service_lets_no_guest_in_until_an_admin_says_so(tmp_path: Path) -> None:
    with page(tmp_path, WebSettings(hosts=("chat.example",), grace=0.5)) as public:
        assert public.browser().get("/api/session").json()["guests"] is False
        assert public.browser().post("/api/session/guest").status_code == 403
        admin = public.admin()
        assert admin.put("/api/admin/settings", json={"guests": "everywhere"}).json()["guests"] == "everywhere"
        guest = public.guest()
        assert admin.put("/api/admin/settings", json={"guests": "off"}).status_code == 200
        assert guest.get("/api/me").status_code == 401
        assert public.browser().post("/api/session/guest").status_code == 403


def test_wrong_names_and_passwords_are_answered_alike_and_then_throttled(shown: Page) -> None:
    shown.user("victim")
    browser = shown.browser()
    wrong, unknown = browser.sign_in("victim", "wrong words here"), browser.sign_in("nobody", "wrong words here")
    for answer in (wrong, unknown):
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "wrong_password")
    assert wrong.json()["error"]["message"] == unknown.json()["error"]["message"]
    answers = [browser.sign_in("victim", f"wrong {number}") for number in range(8)]
    assert answers[-1].status_code == 429
    assert int(answers[-1].headers["retry-after"]) > 0
    assert "127.0.0.1" not in answers[-1].text
    assert b"imprint_login_failures_total" in shown.running.app.state.services.metrics.text()


def test_whoever_has_no_account_can_ask_for_one_and_gets_its_rights_alone(shown: Page) -> None:
    visitor, admin = shown.browser(), shown.admin()
    body = {"name": "小红", "contact": "red@example.org", "reason": "<script>alert(1)</script>"}
    assert visitor.post("/api/requests", json=body).status_code == 202
    (wanted,) = [one for one in admin.get("/api/admin/requests").json()["requests"] if one["name"] == "小红"]
    assert wanted["reason"] == body["reason"]
    made = admin.post(f"/api/admin/requests/{wanted['id']}/approve", json={"models": ["tuned"], "tokens_a_day": 5000}).json()
    assert visitor.sign_in("小红", made["password"]).json()["me"]["must_change_password"] is True
    assert visitor.get("/api/models").json()["error"]["code"] == "password_change_required"
    visitor.change_password(made["password"])
    assert [model["id"] for model in visitor.get("/api/models").json()["models"]] == ["tuned"]
    refused = visitor.post("/api/generations", json={"models": ["base"], "text": "hi"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "model_not_found")
    assert admin.post(f"/api/admin/requests/{wanted['id']}/decline").status_code == 409


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"name=admin&password=x", "application/x-www-form-urlencoded"),
        (b'{"name": "admin", "password": "x"}', "text/plain"),
        (b'--x\r\nContent-Disposition: form-data; name="name"\r\n\r\nadmin\r\n--x--', "multipart/form-data; boundary=x"),
        (b'{"name": "admin", "password": "x"}', "application/json"),
    ],
)
def test_another_site_can_change_nothing(shown: Page, content: bytes, kind: str) -> None:
    guest = shown.guest()
    foreign = {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site", "Content-Type": kind}
    for method, path in (("POST", "/api/session"), ("POST", "/api/chats"), ("DELETE", "/api/chats"), ("POST", "/api/session/guest")):
        answer = guest.request(method, path, content=content, headers=foreign)
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "cross_site_request")
        assert not [name for name in answer.headers if name.startswith("access-control")]


@pytest.mark.parametrize(
    "foreign",
    [
        {"Origin": "http://localhost:3000", "Sec-Fetch-Site": "same-site"},  # what runs on another port of this machine
        {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "no-cors"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"},
    ],
)
def test_another_site_reads_nothing_and_cannot_tell_by_time_what_there_is(shown: Page, foreign: dict[str, str]) -> None:
    user = shown.user(f"searched-{len(foreign)}-{foreign.get('Sec-Fetch-Mode', 'none')}")
    paths = {route.path for route in shown.running.app.routes if isinstance(route, GuardedRoute) and route.access.page}
    assert {"/api/chats", "/api/export", "/api/session", "/api/generations/{generation_id}/events"} <= paths
    with shown.running.client("") as browser:
        browser.cookies.update(user.cookies)
        for path in paths:
            answer = browser.get(path.replace("{", "").replace("}", "") + "?q=x", headers=foreign)
            if answer.status_code != 405:  # what only changes something
                assert (answer.status_code, answer.json()["error"]["code"]) == (403, "cross_site_request"), path
        for path in ("/", "/page/app.js"):  # a link on another site leads to the page, in which is nothing of anybody
            assert browser.get(path, headers=foreign).status_code == 200
        assert browser.get("/api/chats?q=x").status_code == 200
    assert user.get("/api/chats?q=x").status_code == 200
