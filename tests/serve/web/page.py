"""Browsers of a page over a real store: an admin, a user, guests."""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2

from imprint.serve.store import Limits, Store
from imprint.serve.web.settings import WebSettings
from tests.serve.stores import PASSWORD, open_store
from tests.serve.web.scripted import Running, ScriptedBackend, serving

LIMITS = Limits(failures_a_minute=5, guests_an_hour=10_000, account_requests_a_day=10_000)


class Browser(httpx2.Client):
    """A browser that shows the service's own page."""

    def __init__(self, running: Running) -> None:
        headers = {"X-Requested-With": "imprint", "Origin": running.url, "Sec-Fetch-Site": "same-origin"}
        super().__init__(base_url=running.url, headers=headers, verify=False, timeout=20)

    def sign_in(self, name: str, password: str) -> httpx2.Response:
        return self.post("/api/session", json={"name": name, "password": password})

    def change_password(self, old: str, new: str = PASSWORD) -> None:
        assert self.post("/api/me/password", json={"old": old, "new": new}).status_code == 200

    def be_guest(self) -> "Browser":
        assert self.post("/api/session/guest").status_code == 200
        return self

    def new_chat(self) -> str:
        return str(self.post("/api/chats", json={}).json()["id"])

    def ask(self, chat: str, text: str | None, **fields: Any) -> dict[str, Any]:
        answer = self.post(f"/api/chats/{chat}/messages", json={"models": ["base"], "text": text, **fields})
        assert answer.status_code == 201, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def events(self, generation: str, after: int = 0) -> list[tuple[str, Any]]:
        headers = {"Last-Event-ID": str(after)} if after else {}
        return read_events(self.get(f"/api/generations/{generation}/events", headers=headers).text)

    def messages(self, chat: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.get(f"/api/chats/{chat}/messages").json()["messages"]
        return found


def read_events(text: str) -> list[tuple[str, Any]]:
    """Name and data of the events of a stream."""
    events = []
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if "event" in fields:
            events.append((fields["event"], json.loads(fields["data"])))
    return events


def said(events: list[tuple[str, Any]]) -> str:
    """The text of an answer."""
    return "".join(data["text"] for name, data in events if name == "text")


class Page:
    """A service with a store."""

    def __init__(self, running: Running, store: Store) -> None:
        self.running = running
        self.store = store
        self.browsers: list[Browser] = []

    @property
    def backend(self) -> ScriptedBackend:
        backend = self.running.app.state.services.backend
        assert isinstance(backend, ScriptedBackend)
        return backend

    def browser(self) -> Browser:
        self.browsers.append(Browser(self.running))
        return self.browsers[-1]

    def guest(self) -> Browser:
        return self.browser().be_guest()

    def admin(self) -> Browser:
        """The first admin, who has changed the one-time password."""
        browser = self.browser()
        if browser.sign_in("admin", PASSWORD).status_code != 200:
            assert self.store.first_password is not None
            assert browser.sign_in("admin", self.store.first_password).status_code == 200
            browser.change_password(self.store.first_password)
        return browser

    def user(self, name: str, **rights: Any) -> Browser:
        """A new user, signed in."""
        made = self.admin().post("/api/admin/users", json={"name": name, **rights})
        assert made.status_code == 201, made.text
        browser = self.browser()
        assert browser.sign_in(name, made.json()["password"]).status_code == 200
        browser.change_password(made.json()["password"])
        return browser

    def second_admin(self, name: str) -> Browser:
        """Another admin, signed in."""
        return self.user(name, role="admin")


@contextmanager
def page(folder: Path, settings: WebSettings | None = None, limits: Limits = LIMITS, **changes: Any) -> Iterator[Page]:
    """A page over a new store in a folder."""
    with open_store(folder, now=time.time, limits=limits) as store, serving(store=store, settings=settings, **changes) as running:
        made = Page(running, store)
        try:
            yield made
        finally:
            for browser in made.browsers:
                browser.close()


def cookies_of(answer: httpx2.Response) -> Mapping[str, str]:
    """The parts of the cookie that an answer sets."""
    parts = [part.strip().partition("=") for part in answer.headers["set-cookie"].split(";")]
    return {name.lower(): value for name, _, value in parts}
