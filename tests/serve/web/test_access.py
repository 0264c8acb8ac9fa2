import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any, Final

import pytest
from starlette.requests import Request

from imprint.serve.store import COMMAND_LINE, Principal
from imprint.serve.store.tables import ACCOUNTS, AUDIT, CHATS, KEYS, MESSAGES, REQUESTS, SETTINGS
from imprint.serve.web import access
from imprint.serve.web.access import SAFE_METHODS, GuardedRoute, check_same_site, cookie_name, credential_of, is_local
from imprint.serve.web.body_parser import MAX_PARSED_AT_ONCE
from imprint.serve.web.errors import ApiError
from imprint.serve.web.openai_bodies import ChatBody
from imprint.serve.web.request_body import parse_json
from imprint.serve.web.routes import openai
from imprint.serve.web.settings import WebSettings
from tests.serve.stores import PASSWORD
from tests.serve.web.page import Page, page
from tests.serve.web.scripted import ADMIN_KEY, KEY, serving

BODIES: Final[dict[tuple[str, str], Any]] = {
    ("DELETE", "/api/session"): None,
    ("POST", "/api/me/password"): {"old": PASSWORD, "new": "other words than before"},
    ("POST", "/api/me/keys"): {"name": "spy"},
    ("DELETE", "/api/me/keys/{key_id}"): None,
    ("DELETE", "/api/me/sessions/{session_id}"): None,
    ("POST", "/api/chats"): {},
    ("DELETE", "/api/chats"): None,
    ("PATCH", "/api/chats/{chat_id}"): {"title": "spied"},
    ("DELETE", "/api/chats/{chat_id}"): None,
    ("POST", "/api/chats/{chat_id}/messages"): {"models": ["base"], "text": "hi"},
    ("POST", "/api/chats/import"): {"messages": [{"id": "1", "role": "user", "content": "hi"}]},
    ("POST", "/api/generations"): {"models": ["base"], "text": "hi"},
    ("POST", "/api/admin/users"): {"name": "backdoor", "role": "admin"},
    ("PATCH", "/api/admin/users/{account_id}"): {"role": "admin"},
    ("DELETE", "/api/admin/users/{account_id}"): None,
    ("POST", "/api/admin/users/{account_id}/reset-password"): None,
    ("POST", "/api/admin/users/{account_id}/end-sessions"): None,
    ("POST", "/api/admin/requests/{request_id}/approve"): {},
    ("POST", "/api/admin/requests/{request_id}/decline"): None,
    ("PUT", "/api/admin/settings"): {"guests": "everywhere"},
    ("POST", "/api/admin/backup"): None,
}
"""The body of every request of the page that changes what is kept; a new one needs its line here."""
KEEPS_NOTHING: Final = ("POST", "/api/generations/{generation_id}/cancel")


@pytest.fixture(scope="module")
def walked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with page(tmp_path_factory.mktemp("revoked")) as made:
        yield made


def changing(made: Page) -> set[tuple[str, str]]:
    """Method and path of all routes that a session may call to change something."""
    routes = [route for route in made.running.app.routes if isinstance(route, GuardedRoute)]
    return {
        (method, route.path)
        for route in routes
        if route.access.credential == "session"
        for method in (route.methods or set()) - SAFE_METHODS
    }


def kept(made: Page) -> list[Any]:
    """All that a request could change, without what signing in and out leaves."""
    with vars(made.store)["_database"].reading() as connection:
        tables = [connection.execute(table.select()).all() for table in (ACCOUNTS, KEYS, CHATS, MESSAGES, REQUESTS, SETTINGS)]
        audit = connection.execute(AUDIT.select().where(AUDIT.c.action.not_in(("login", "sessions_ended")))).all()
    return [*tables, audit, sorted(file.name for file in (made.store.folder).glob("backups/*"))]


def test_every_route_that_changes_something_is_refused_when_the_right_ends_while_it_waits(
    walked: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert changing(walked) == BODIES.keys() | {KEEPS_NOTHING}
    owner = walked.second_admin("owner")
    account = walked.store.accounts.named("owner")
    walked.user("victim")
    walked.browser().post("/api/requests", json={"name": "asker", "contact": "x"})
    ids = {
        "{chat_id}": owner.new_chat(),
        "{key_id}": walked.store.keys.create(account.id, actor=COMMAND_LINE).info.id,
        "{account_id}": str(walked.store.accounts.named("victim").id),
        "{request_id}": walked.store.requests.list()[0].id,
    }
    find = walked.store.sessions.of

    def find_and_end(token: str) -> Principal | None:
        """As if the request had waited since its right was looked at, and somebody had ended all sessions meanwhile."""
        found = find(token)
        walked.store.sessions.end_all(account.id, COMMAND_LINE)
        return found

    for (method, path), body in BODIES.items():
        thief = walked.browser()
        assert thief.sign_in("owner", PASSWORD).status_code == 200
        session = thief.get("/api/me/sessions").json()["sessions"][0]["id"]
        place = path
        for name, value in {**ids, "{session_id}": session}.items():
            place = place.replace(name, value)
        before = kept(walked)
        with monkeypatch.context() as patched:
            patched.setattr(walked.store.sessions, "of", find_and_end)
            answer = thief.request(method, place, json=body)
        assert (answer.status_code, method, path) == (401, method, path)
        assert answer.json()["error"]["code"] == "invalid_session"
        assert (kept(walked), method, path) == (before, method, path)


def test_an_admin_may_delete_the_own_account_and_all_of_it_goes(walked: Page) -> None:
    leaving = walked.second_admin("leaving")
    leaving.new_chat()
    number = walked.store.accounts.named("leaving").id
    assert leaving.delete(f"/api/admin/users/{number}").status_code == 200
    assert all(account.name != "leaving" for account in walked.store.accounts.list())


def request(headers: dict[str, str], scheme: str = "http", address: str = "127.0.0.1") -> Request:
    sent = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    return Request(
        {
            "type": "http",
            "method": "POST",
            "scheme": scheme,
            "headers": sent,
            "path": "/",
            "query_string": b"",
            "server": ("localhost", 80),
            "client": (address, 1),
        }
    )


OWN = {"Host": "localhost:8504", "X-Requested-With": "imprint"}


@pytest.mark.parametrize(
    "headers",
    [
        OWN,
        {**OWN, "Origin": "http://localhost:8504", "Sec-Fetch-Site": "same-origin"},
        {**OWN, "Host": "chat.example", "Origin": "http://chat.example:80"},
    ],
)
def test_the_pages_own_requests_pass(headers: dict[str, str]) -> None:
    check_same_site(request(headers))
    assert headers


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "localhost:8504"},
        {**OWN, "Origin": "https://evil.example"},
        {**OWN, "Origin": "null"},
        {**OWN, "Origin": "http://localhost:9999"},
        {**OWN, "Origin": "https://localhost:8504"},
        {**OWN, "Origin": "http://[broken"},
        {**OWN, "Sec-Fetch-Site": "cross-site"},
        {**OWN, "Sec-Fetch-Site": "same-site"},
    ],
)
def test_what_another_site_could_send_is_refused(headers: dict[str, str]) -> None:
    with pytest.raises(ApiError) as caught:
        check_same_site(request(headers))
    assert (caught.value.status, caught.value.code) == (403, "cross_site_request")


def test_the_cookie_has_a_name_that_no_other_host_can_set_over_tls() -> None:
    assert (cookie_name(request({})), cookie_name(request({}, "https"))) == ("imprint_session", "__Host-imprint_session")


def test_a_key_comes_as_a_bearer_and_a_session_as_a_cookie_and_neither_otherwise() -> None:
    both = request({"Authorization": "bearer  sk-1 ", "Cookie": "imprint_session=tok; x=y"})
    key, session = credential_of(both, "key"), credential_of(both, "session")
    assert key is not None
    assert session is not None
    assert (key.secret, session.secret) == ("sk-1", "tok")
    assert credential_of(request({"Authorization": "Basic x", "X-Api-Key": "sk-1"}), "key") is None
    assert credential_of(request({"Cookie": "imprint_session=tok"}, "https"), "session") is None


def test_a_proxy_on_this_machine_is_not_this_machine() -> None:
    for settings, address, here in (
        (WebSettings(), "127.0.0.1", True),
        (WebSettings(proxies=("127.0.0.1",)), "127.0.0.1", False),
        (WebSettings(host="0.0.0.0"), "127.0.0.1", False),
        (WebSettings(), "10.0.0.1", False),
    ):
        assert is_local(request({}, address=address), SimpleNamespace(settings=settings)) is here  # type: ignore[arg-type]


@pytest.mark.parametrize("header", [{"X-Forwarded-For": "192.0.2.1"}, {"Via": "1.1 x"}, {"Origin": "https://evil.example"}])
def test_what_a_proxy_or_another_site_sends_is_not_of_this_machine(header: dict[str, str]) -> None:
    services = SimpleNamespace(settings=WebSettings())
    assert is_local(request({"Host": "localhost"}), services)  # type: ignore[arg-type]
    assert not is_local(request({"Host": "localhost", **header}), services)  # type: ignore[arg-type]


def test_large_bodies_are_parsed_beside_all_other_requests_one_at_a_time_and_senders_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    may_go_on, now, most, order = threading.Event(), 0, 0, list[str]()

    def parse(body: bytes, most_values: int) -> Any:
        nonlocal now, most
        value = parse_json(body, most_values)
        if len(body) > MAX_PARSED_AT_ONCE:
            now += 1
            most = max(most, now)
            may_go_on.wait(20)
            order.append(value["prompt"])
            now -= 1
        return value

    def count(key: str, prompt: str, size: int) -> int:
        with running.client(key) as client:
            return client.post("/v1/tokenize", json={"model": "base", "prompt": prompt, "more": "x" * size}).status_code

    monkeypatch.setattr(access, "parse_json", parse)
    with serving() as running, ThreadPoolExecutor(8) as threads:
        turns, found = running.app.state.services.body_parser.turns, list[Future[int]]()
        try:
            for number, (key, prompt) in enumerate([(KEY, "ada")] * 4 + [(ADMIN_KEY, "root")], start=1):
                found.append(threads.submit(count, key, prompt, 100_000))
                until = time.monotonic() + 20
                while len(turns) < number and time.monotonic() < until:
                    time.sleep(0.002)
            assert len(turns) == 5
            assert count(KEY, "small", 10) == 200
        finally:
            may_go_on.set()
        assert [one.result(20) for one in found] == [200] * 5
        assert (order, most, len(turns)) == (["ada", "ada", "root", "ada", "ada"], 1, 0)


def test_a_body_that_is_validated_is_not_validated_again() -> None:
    body = ChatBody.model_validate({"model": "base", "messages": [{"role": "user", "content": "hi"}]})
    (route,) = (one for one in openai.routes() if one.path == "/v1/chat/completions")
    assert route.body_field is not None
    assert route.body_field.validate(body)[0] is body
