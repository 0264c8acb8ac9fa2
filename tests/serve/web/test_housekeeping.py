import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any

import httpx2
import pytest
from anyio import to_thread

from imprint.messages import Bilingual
from imprint.serve.generation.job import Job
from imprint.serve.store import COMMAND_LINE, Limits
from imprint.serve.store.database import Outcome
from imprint.serve.store.errors import StoreError
from imprint.serve.store.principal import Principal
from imprint.serve.web import housekeeping
from imprint.serve.web.answers import AnswerSet
from imprint.serve.web.errors import ApiError
from imprint.serve.web.housekeeping import end_revoked, watching_rights
from imprint.serve.web.log import LOGGER
from imprint.serve.web.metrics import Metrics
from imprint.serve.web.services import Services, permission_of
from imprint.serve.web.settings import WebSettings
from imprint.terminal import say
from tests.serve.stores import PASSWORD, open_store, user
from tests.serve.web.page import Browser, page
from tests.serve.web.scripted import ScriptedBackend, ScriptedStore, principal, serving


def test_what_goes_on_ends_with_the_rights_to_it_and_nothing_else_does() -> None:
    async def revoke() -> list[bool]:
        backend, store = ScriptedBackend(), ScriptedStore()
        services = Services(backend, store.as_store(), WebSettings(), Metrics(backend))
        sets = []
        for name in ("ada", "bob"):
            sets.append(AnswerSet(services, principal(name, "user"), ""))
            await sets[-1].start([Job("base", name, text="slow")])
        store.unwanted = "bob"
        await end_revoked(services)
        ended = [answers.answers[0].generation.ended for answers in sets]
        sets[0].cancel()
        return ended

    assert asyncio.run(revoke()) == [False, True]


def test_the_rights_to_all_that_goes_on_are_asked_for_at_once_without_the_threads_of_requests() -> None:
    asked = list[list[Any]]()

    @dataclass(frozen=True, eq=False)
    class Going:
        principal: Principal
        cancel: Callable[[], None]

    class Asked(ScriptedStore):
        def batch(self, calls: Sequence[Callable[[], Any]], *, writes: bool) -> list[Outcome]:
            asked.append([*calls])
            return super().batch(calls, writes=writes)

    async def revoke() -> set[str]:
        backend, store, gone = ScriptedBackend(), Asked(), set[str]()
        services = Services(backend, store.as_store(), WebSettings(), Metrics(backend))
        people = [principal(name, "user") for name in ("ada", "bob", "eve")]
        services.live |= {Going(one, partial(gone.add, one.name)) for one in people * 50}
        store.unwanted = "bob"
        threads = to_thread.current_default_thread_limiter()
        threads.total_tokens, held = 1, threading.Event()
        request = asyncio.create_task(to_thread.run_sync(held.wait, 20))
        try:
            await asyncio.wait_for(end_revoked(services), 10)
        finally:
            held.set()
            await request
        return gone

    assert asyncio.run(revoke()) == {"bob"}
    assert [len(calls) for calls in asked] == [3]


def test_what_the_database_cannot_say_ends_nothing() -> None:
    class Broken(ScriptedStore):
        def is_valid(self, principal: Principal) -> bool:
            raise StoreError("unavailable", Bilingual("gone", "没有了"))

    async def revoke() -> bool:
        backend = ScriptedBackend()
        services = Services(backend, Broken().as_store(), WebSettings(), Metrics(backend))
        answers = AnswerSet(services, principal("ada", "user"), "")
        services.live.add(answers)
        with pytest.raises(StoreError, match="gone"):
            await end_revoked(services)
        return answers not in services.live

    assert not asyncio.run(revoke())


@contextmanager
def streaming(browser: httpx2.Client, method: str, path: str, **fields: Any) -> Iterator[Iterator[str]]:
    """The lines of a stream, of which the first has come."""
    with browser.stream(method, path, **fields) as stream:
        lines = stream.iter_lines()
        next(lines)
        yield lines


def begin(browser: Browser) -> str:
    """The events of an endless answer."""
    answer = browser.post("/api/generations", json={"models": ["base"], "text": "slow"})
    return f"/api/generations/{answer.json()['answers'][0]['generation']}/events"


ENDS: dict[str, Callable[[Browser, Browser, int], httpx2.Response]] = {
    "disabled": lambda admin, _, number: admin.patch(f"/api/admin/users/{number}", json={"disabled": True}),
    "role": lambda admin, _, number: admin.patch(f"/api/admin/users/{number}", json={"role": "admin"}),
    "rights": lambda admin, _, number: admin.patch(f"/api/admin/users/{number}", json={"models": ["tuned"]}),
    "deleted": lambda admin, _, number: admin.delete(f"/api/admin/users/{number}"),
    "reset": lambda admin, _, number: admin.post(f"/api/admin/users/{number}/reset-password"),
    "signed-out": lambda _, user, __: user.delete("/api/session"),
    "password": lambda _, user, __: user.post("/api/me/password", json={"old": PASSWORD, "new": f"another {PASSWORD}"}),
}


def test_every_live_stream_ends_within_a_second_of_the_right_to_it(tmp_path: Path) -> None:
    with page(tmp_path) as shown, ExitStack() as stack:
        admin = shown.admin()
        users = {name: shown.user(name) for name in [*ENDS, "key", "viewer"]}
        numbers = {one["name"]: one["id"] for one in admin.get("/api/admin/users").json()["users"]}
        streams = {name: stack.enter_context(streaming(users[name], "GET", begin(users[name]))) for name in ENDS}
        made = users["key"].post("/api/me/keys", json={}).json()
        asked = {"model": "base", "stream": True, "messages": [{"role": "user", "content": "slow"}]}
        client = stack.enter_context(shown.running.client(made["key"]))
        streams["key"] = stack.enter_context(streaming(client, "POST", "/v1/chat/completions", json=asked))
        second = shown.browser()
        assert second.sign_in("viewer", PASSWORD).status_code == 200
        events = begin(users["viewer"])
        first, streams["viewer"] = (stack.enter_context(streaming(one, "GET", events)) for one in (users["viewer"], second))

        begun = time.monotonic()
        for name, end in ENDS.items():
            assert end(admin, users[name], numbers[name]).status_code == 200
        assert users["key"].delete(f"/api/me/keys/{made['id']}").status_code == 200
        assert second.delete("/api/session").status_code == 200
        until = begun + 20
        said = {name: "".join(takewhile(lambda _: time.monotonic() < until, lines)) for name, lines in streams.items()}
        assert time.monotonic() - begun < 15  # a second where nothing else runs; by the clock alone it takes CHECK_SECONDS
        assert "[DONE]" in said.pop("key")
        assert all(text.count("event: end") == 1 for text in said.values())
        assert '"finish":"cancelled"' in said["rights"]
        assert next(first)  # who asked goes on


def test_a_stream_ends_with_the_right_to_it_while_what_has_expired_is_removed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(housekeeping, "WATCH_SECONDS", 0.01)
    monkeypatch.setattr(housekeeping, "TIDY_SECONDS", 0.0)
    tidying, may_end = threading.Event(), threading.Event()

    def tidy() -> None:
        tidying.set()
        may_end.wait(30)

    with page(tmp_path) as shown, ExitStack() as stack:
        stack.callback(may_end.set)
        admin, ada = shown.admin(), shown.user("ada")
        (number,) = [one["id"] for one in admin.get("/api/admin/users").json()["users"] if one["name"] == "ada"]
        monkeypatch.setattr(shown.store, "tidy", tidy)
        assert tidying.wait(10)
        lines = stack.enter_context(streaming(ada, "GET", begin(ada)))
        assert ENDS["disabled"](admin, ada, number).status_code == 200
        until = time.monotonic() + 10
        assert "event: end" in "".join(takewhile(lambda _: time.monotonic() < until, lines))
        assert not may_end.is_set()


def test_a_log_that_grows_is_emptied_before_it_is_tidied(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(housekeeping, "WATCH_SECONDS", 0.01)
    monkeypatch.setattr(housekeeping, "SHORTEN_SECONDS", 0.0)
    monkeypatch.setattr(housekeeping, "MAX_LOG_BYTES", 10_000)
    with page(tmp_path) as shown:
        shown.user("ada")
        until = time.monotonic() + 10
        while shown.store.log_bytes() > 10_000 and time.monotonic() < until:
            time.sleep(0.05)
        assert shown.store.log_bytes() <= 10_000


def test_where_the_right_to_a_model_ends_the_answers_of_others_go_on(tmp_path: Path) -> None:
    async def narrow() -> list[bool]:
        with open_store(tmp_path, now=time.time) as store:
            ada, backend = user(store, "ada"), ScriptedBackend()
            services = Services(backend, store, WebSettings(), Metrics(backend))
            sets = [AnswerSet(services, ada, "") for _ in range(2)]
            for answers, model in zip(sets, ("base", "tuned"), strict=True):
                await answers.start([Job(model, ada.owner, text="slow")])
            store.accounts.change(ada.account_id, actor=COMMAND_LINE, models=frozenset({"base"}))
            await end_revoked(services)
            ended = [answers.answers[0].generation.ended for answers in sets]
            sets[0].cancel()
            services.refuse_ended(ada.needing(["base"]))
            permission = permission_of(services, ada)
            assert permission is not None
            permission.demand()  # of what needs no model, as an export
            with pytest.raises(ApiError, match="has just ended"):
                services.refuse_ended(ada)
            return ended

    assert asyncio.run(narrow()) == [False, True]


def test_the_stream_of_a_guest_whom_a_proxy_led_here_ends_where_guests_are_of_this_machine_again(tmp_path: Path) -> None:
    with page(tmp_path) as shown, ExitStack() as stack:
        admin, passed_on = shown.admin(), shown.browser()
        passed_on.headers["X-Forwarded-For"] = "203.0.113.9"
        assert admin.put("/api/admin/settings", json={"guests": "everywhere"}).status_code == 200
        guests = [passed_on.be_guest(), shown.guest()]
        streams = [stack.enter_context(streaming(guest, "GET", begin(guest))) for guest in guests]
        assert admin.put("/api/admin/settings", json={"guests": "loopback"}).status_code == 200
        until = time.monotonic() + 10
        assert "event: end" in "".join(takewhile(lambda _: time.monotonic() < until, streams[0]))
        assert [guest.get("/api/me").status_code for guest in guests] == [401, 200]
        assert next(streams[1])


ENDS_SESSIONS = {
    **{name: ENDS[name] for name in ("signed-out", "password", "disabled")},
    "demoted": lambda admin, _, number: admin.patch(f"/api/admin/users/{number}", json={"role": "user"}),
}
ROUNDS = 5
BUSY_SECONDS = 1.0
"""What a machine that others use may add to the second in which a stream ends."""


def seconds_to_end(stack: ExitStack, browsers: list[Browser], end: Callable[[], httpx2.Response]) -> tuple[float, float]:
    """Begin an endless answer in each browser and end their sessions: the seconds until the last session and the last stream have ended."""
    streams = [stack.enter_context(streaming(browser, "GET", begin(browser))) for browser in browsers]
    sessions = [dict(browser.cookies) for browser in browsers]
    said: list[str] = []

    def read(lines: Iterator[str]) -> None:
        said.append("".join(lines))

    readers = [threading.Thread(target=read, args=(lines,)) for lines in streams]
    for reader in readers:
        reader.start()
    begun = time.monotonic()
    assert end().status_code == 200
    for cookies in sessions:
        browsers[0].cookies.clear()
        browsers[0].cookies.update(cookies)
        assert browsers[0].get("/api/me").status_code == 401
    ended = time.monotonic()
    for reader in readers:
        reader.join(20)
    assert [text.count("event: end") for text in said] == [1] * len(browsers)
    return ended - begun, time.monotonic() - begun


@pytest.mark.long
@pytest.mark.parametrize("name", ENDS_SESSIONS)
def test_each_of_these_ends_all_sessions_and_streams_of_an_account_within_a_second(tmp_path: Path, name: str) -> None:
    found = []
    with page(tmp_path, limits=Limits(logins_a_minute=1000)) as shown, ExitStack() as stack:
        admin = shown.admin()
        for number in range(ROUNDS):
            user = shown.user(f"user-{number}", role="admin" if name == "demoted" else "user")
            account = next(one["id"] for one in admin.get("/api/admin/users").json()["users"] if one["name"] == f"user-{number}")
            browsers = [user, shown.browser()]
            assert browsers[1].sign_in(f"user-{number}", PASSWORD).status_code == 200
            assert browsers[0].cookies != browsers[1].cookies
            concerned = browsers[: 1 if name == "signed-out" else 2]  # other sessions go on
            found.append(seconds_to_end(stack, concerned, partial(ENDS_SESSIONS[name], admin, user, account)))
            assert name != "signed-out" or browsers[1].get("/api/me").status_code == 200
    sessions, streams = (max(times) for times in zip(*found, strict=True))
    say(f"{name}: of {ROUNDS}, sessions end within {sessions:.2f} s, streams within {streams:.2f} s")
    assert streams <= 1 + BUSY_SECONDS


def test_an_answer_whose_right_ends_while_it_begins_never_runs(tmp_path: Path) -> None:
    with open_store(tmp_path, now=time.time) as store:
        ada, backend = user(store, "ada"), ScriptedBackend()
        services = Services(backend, store, WebSettings(), Metrics(backend))
        store.accounts.disable(ada.account_id, COMMAND_LINE)  # after the route has asked who asks, and before the watch knows the answer
        with pytest.raises(ApiError, match="has just ended"):
            asyncio.run(AnswerSet(services, ada, "").start([Job("base", ada.owner, text="slow")]))
        assert (services.live, backend.generations) == (set(), [])


def test_an_admin_who_is_demoted_while_a_body_comes_is_none(tmp_path: Path) -> None:
    body = b'{"name": "backdoor", "role": "admin"}'
    with page(tmp_path) as shown:
        evil = shown.second_admin("evil")
        head = f"POST /api/admin/users HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        cookie = f"X-Requested-With: x\r\nCookie: imprint_session={evil.cookies['imprint_session']}\r\n\r\n"
        with shown.running.connect() as connection:
            connection.sendall((head + cookie).encode() + body[:9])
            time.sleep(0.25)
            shown.store.accounts.disable(shown.store.accounts.named("evil").id, COMMAND_LINE)
            connection.sendall(body[9:])
            assert connection.recv(1000).startswith(b"HTTP/1.1 401 ")
        assert "backdoor" not in {one.name for one in shown.store.accounts.list()}


def test_the_watch_goes_on_after_any_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(housekeeping, "WATCH_SECONDS", 0.001)
    asked = 0

    class Broken(ScriptedStore):
        def revocations(self) -> int:
            nonlocal asked
            asked += 1
            raise ZeroDivisionError

    async def watch() -> None:
        backend = ScriptedBackend()
        async with watching_rights(Services(backend, Broken().as_store(), WebSettings(), Metrics(backend))):
            while asked < 3:
                await asyncio.sleep(0.001)

    asyncio.run(asyncio.wait_for(watch(), 5))
    assert asked >= 3


def test_a_settlement_that_keeps_failing_is_logged_once_and_holds_up_no_tidying(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(housekeeping, "WATCH_SECONDS", 0.001)
    monkeypatch.setattr(housekeeping, "TIDY_SECONDS", 0.0)
    tried, tidied = 0, 0

    def settle(*_: object) -> None:
        nonlocal tried
        tried += 1
        raise ZeroDivisionError

    def tidy() -> None:
        nonlocal tidied
        tidied += 1

    async def watch() -> None:
        backend, store = ScriptedBackend(), ScriptedStore()
        services = Services(backend, store.as_store(), WebSettings(), Metrics(backend))
        monkeypatch.setattr(store.quota, "settle", settle)
        monkeypatch.setattr(store, "tidy", tidy, raising=False)
        services.unsettled.append((store.quota.reserve(principal("ada", "user"), "", 9), 7))
        async with watching_rights(services):
            while tried < 3 or tidied < 3:
                await asyncio.sleep(0.001)

    with caplog.at_level("ERROR", logger=LOGGER):
        monkeypatch.setattr(logging.getLogger(LOGGER), "propagate", True)
        asyncio.run(asyncio.wait_for(watch(), 5))
    assert [record.message for record in caplog.records] == ["watch"]


def test_a_service_without_its_database_is_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(housekeeping, "WATCH_SECONDS", 0.002)

    async def watch() -> list[bool]:
        backend, store, found = ScriptedBackend(), ScriptedStore(), list[bool]()
        services = Services(backend, store.as_store(), WebSettings(), Metrics(backend))
        async with watching_rights(services):
            for problem in (None, StoreError("unavailable", Bilingual("gone", "没有了")), None):
                monkeypatch.setattr(store, "revocations", lambda problem=problem: _revocations(problem))
                until = time.monotonic() + 5
                while services.ready is not (problem is None) and time.monotonic() < until:
                    await asyncio.sleep(0.002)
                found.append(services.ready)
        return found

    assert asyncio.run(watch()) == [True, False, True]


def _revocations(problem: StoreError | None) -> int:
    if problem is not None:
        raise problem
    return 0


def test_what_a_full_disk_could_not_count_is_counted_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(housekeeping, "WATCH_SECONDS", 0.002)

    def refuse(*_: object) -> None:
        raise StoreError("unavailable", Bilingual("no space", "没有空间"))

    async def answer() -> tuple[str, int]:
        backend, store = ScriptedBackend(), ScriptedStore()
        services = Services(backend, store.as_store(), WebSettings(), Metrics(backend))
        answers = AnswerSet(services, principal("ada", "user"), "")
        await answers.start([Job("base", "ada", text="hi")])
        with monkeypatch.context() as patched:
            patched.setattr(store.quota, "settle", refuse)
            await answers.collect()
        reserved = store.quota.reserved
        async with watching_rights(services):
            while services.unsettled:
                await asyncio.sleep(0.002)
        assert store.quota.settled == [10]
        assert store.quota.reserved == 0
        return answers.answers[0].text, reserved

    text, reserved = asyncio.run(asyncio.wait_for(answer(), 5))
    assert text == "echo: hi"
    assert reserved > 0


def test_an_answer_whose_key_ends_by_the_clock_alone_ends_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(housekeeping, "WATCH_SECONDS", 0.002)
    monkeypatch.setattr(housekeeping, "CHECK_SECONDS", 0.0)

    async def answer() -> None:
        backend, store = ScriptedBackend(), ScriptedStore()
        services = Services(backend, store.as_store(), WebSettings(), Metrics(backend))
        answers = AnswerSet(services, principal("ada", "user"), "")
        await answers.start([Job("base", "ada", text="slow")])
        async with watching_rights(services):
            await asyncio.sleep(0.01)
            assert not backend.generations[0].ended
            store.unwanted = "ada"  # without a revocation, as a key that expires
            while not backend.generations[0].ended:
                await asyncio.sleep(0.002)

    asyncio.run(asyncio.wait_for(answer(), 20))


def test_a_stream_ends_within_a_second_of_the_moment_at_which_its_key_or_session_expires(tmp_path: Path) -> None:
    limits = Limits(session_seconds=3.0)
    with open_store(tmp_path, now=time.time, limits=limits) as store, serving(store=store) as running, running.client("") as client:
        ada, backend = user(store, "ada"), running.app.state.services.backend
        assert ada.expires_at is not None
        key = store.keys.create(ada.account_id, actor=COMMAND_LINE, expires_at=ada.expires_at)
        session = AnswerSet(running.app.state.services, ada, "")
        asyncio.run_coroutine_threadsafe(session.start([Job("base", ada.owner, text="slow")]), running.loop).result(5)
        asked = {"model": "base", "messages": [{"role": "user", "content": "slow"}], "stream": True}
        with client.stream("POST", "/v1/chat/completions", json=asked, headers={"Authorization": f"Bearer {key.key}"}) as answer:
            assert answer.status_code == 200
            while not all(one.ended for one in backend.generations):
                assert time.time() < ada.expires_at + 1.0
                time.sleep(0.01)
        assert len(backend.generations) == 2
        assert time.time() >= ada.expires_at
