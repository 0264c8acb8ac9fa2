"""Random requests to every route of the document: `python -m tests.serve.web.fuzz 10000` sends so many to each that takes a parameter.

The others get 250 at most. `python -m tests.serve.web.fuzz 10000 1/2` sends them to every second route, from the first on, `2/2` to the
others.
"""

import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.core.result import Ok

from imprint.serve.store import COMMAND_LINE, Limits
from imprint.serve.web.settings import WebSettings
from imprint.terminal import say
from tests.serve.stores import PASSWORD
from tests.serve.web.page import Browser, Page, page

OPEN_ROUTES = {
    ("GET", "/"),
    ("GET", "/page/{name}"),
    ("GET", "/health/live"),
    ("GET", "/health/ready"),
    ("GET", "/openapi.json"),
    ("GET", "/api/session"),
    ("POST", "/api/session"),
    ("POST", "/api/session/guest"),
    ("POST", "/api/requests"),
}
SETTINGS = WebSettings(legacy=True, hosts=("chat.example",), guest=True, grace=0.5)


MANY: Final = 10**9
UNBOUNDED: Final = Limits(
    admin_tokens_a_day=10**12, sessions_an_account=20, keys_an_account=MANY, guests_an_hour=MANY, failures_a_minute=MANY,
    address_failures_a_minute=MANY, network_failures_a_minute=MANY, all_failures_a_minute=MANY, logins_a_minute=MANY,
    account_requests_a_day=MANY, open_account_requests=MANY,
)  # fmt: skip
"""So that requests are not refused before they are looked at; chats stay bounded, since they are exported."""
SAME: Final = 250
"""Random requests to a route without a parameter: they differ in nothing that it reads."""


class Targets:
    """What is there for a random request to change: an id of each kind, made again where it is gone."""

    def __init__(self, made: Page) -> None:
        self._made = made
        self._browser = made.admin()
        self._ids: dict[str, str | int] = {"model": "base", "name": "app.js"}

    def forget(self) -> None:
        self._ids = {"model": "base", "name": "app.js"}

    def of(self, name: str) -> str | int:
        if name not in self._ids:
            self._ids[name] = self._make(name)
        return self._ids[name]

    def _make(self, name: str) -> str | int:
        browser, store = self._browser, self._made.store
        if name == "generation_id":
            return str(browser.ask(browser.new_chat(), "hi")["answers"][0]["generation"])
        if name == "chat_id":
            browser.delete("/api/chats")
            chat = browser.new_chat()
            browser.ask(chat, "hi")
            return chat
        if name == "key_id":
            return str(browser.post("/api/me/keys", json={}).json()["id"])
        if name == "session_id":
            with Browser(self._made.running) as other:
                other.sign_in("admin", PASSWORD)
                return str(other.get("/api/me/sessions").json()["sessions"][0]["id"])
        number = time.monotonic_ns()
        if name == "account_id":
            return store.accounts.create(f"user-{number}", actor=COMMAND_LINE).account.id
        assert name == "request_id"
        assert browser.post("/api/requests", json={"name": f"asks-{number}", "contact": "x", "reason": "y"}).status_code == 202
        return store.requests.list()[-1].id


def send_random(made: Page, operation: Any, key: str, cases: int) -> tuple[Counter[int], list[str]]:
    """Send random requests to a route, as an admin; every second one names what is there.

    The statuses of all answers (a route without a parameter has few different requests), and the requests that were answered with an
    error of ours, or as to a stranger.
    """
    wrong: list[str] = []
    statuses = Counter[int]()
    route = (operation.method.upper(), operation.path)
    signed_in = route not in OPEN_ROUTES | {("DELETE", "/api/session")}  # else the admin were signed out
    known = signed_in and route[1] != "/api/me/password"  # which answers a wrong old one with 401
    admin, targets = made.admin(), Targets(made)
    targets.of("chat_id")

    def send(case: Any) -> None:
        aimed = statuses.total() % 2
        if isinstance(case.body, dict) and len(case.body) % 2:
            case.body.update({name: value for name, value in {"model": "base", "models": ["base"]}.items() if name in case.body})
        if case.path_parameters.get("account_id", 9) < 9:  # not the admin that asks
            case.path_parameters["account_id"] += 9
        if aimed:
            case.path_parameters.update({name: targets.of(name) for name in case.path_parameters})
        headers, cookies = {**admin.headers, "Authorization": f"Bearer {key}"}, dict(admin.cookies) if signed_in else {}
        with suppress(requests.exceptions.InvalidHeader):  # which no client can send
            answer = case.call(base_url=made.running.url, headers=headers, cookies=cookies, session=session, timeout=20)
            statuses[answer.status_code] += 1
            if answer.status_code >= 500 or (known and answer.status_code == 401):
                wrong.append(f"{answer.status_code} {case.as_curl_command()[:500]}")
            if aimed and (answer.status_code == 404 or route[0] == "DELETE" or "/requests/" in route[1]):
                targets.forget()
            if answer.status_code == 409 and route[1].startswith("/api/chats"):  # as many chats as there may be
                admin.delete("/api/chats")
        session.cookies.clear()

    calm = settings(max_examples=cases, database=None, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    with requests.Session() as session:
        session.trust_env = False  # no proxy, and no look for a .netrc before each request
        calm(given(case=operation.as_strategy())(send))()
    return statuses, wrong


def takes_parameter(operation: Any) -> bool:
    """Whether requests to a route can differ: in its path, its query or its body."""
    return bool(operation.path_parameters or operation.query or operation.body)


def fuzz(made: Page, cases: int, part: int = 1, parts: int = 1, *, tell: bool = False) -> tuple[int, list[str]]:
    """Send random requests to the routes of the document: how many were answered, and what went wrong."""
    admin = made.admin()
    key = made.store.keys.create(made.store.accounts.named("admin").id, actor=COMMAND_LINE).key
    document = schemathesis.openapi.from_dict(admin.get("/openapi.json").json())
    operations = [found.ok() for found in document.get_all_operations() if isinstance(found, Ok)]
    total, wrong = 0, list[str]()
    for operation in operations[part - 1 :: parts]:
        begun = time.monotonic()
        statuses, found = send_random(made, operation, key, cases if takes_parameter(operation) else min(cases, SAME))
        total, wrong = total + statuses.total(), wrong + found
        if tell:
            seconds = time.monotonic() - begun
            say(f"{operation.method.upper()} {operation.path}: {dict(sorted(statuses.items()))} in {seconds:.0f} s, {len(found)} wrong")
    return total, wrong


def main(cases: int, part: int = 1, parts: int = 1) -> int:
    """Print how many were sent and went wrong, and the first of them."""
    with tempfile.TemporaryDirectory() as folder, page(Path(folder), SETTINGS, UNBOUNDED) as made:
        sent, wrong = fuzz(made, cases, part, parts, tell=True)
    say(f"random requests: {sent:,}, {len(wrong)} wrong", *wrong[:10])
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), *(int(word) for word in (sys.argv[2] if len(sys.argv) > 2 else "1/1").split("/"))))
