import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import pytest
from sqlalchemy import true

from imprint.serve.store import COMMAND_LINE, Principal, Store, deletion, restore
from imprint.serve.store.chat_import import ImportedMessage
from imprint.serve.store.deletion import delete_chats
from imprint.serve.store.errors import StoreError
from tests.serve.stores import HOME, Clock, user

LENGTH = 1100
"""Messages of one branch: more than the 1,000 levels of a cascade that SQLite allows."""


def branch(length: int = LENGTH) -> list[ImportedMessage]:
    """A conversation of one branch."""
    return [
        ImportedMessage(str(number), str(number - 1) if number else None, "user", "a", None, "done", None, 0, 0) for number in range(length)
    ]


@pytest.mark.parametrize(
    "delete",
    [
        lambda store, me, chat: store.chats.delete(me, chat),
        lambda store, me, chat: store.chats.delete_all(me),
        lambda store, me, chat: store.accounts.delete(me.account_id, COMMAND_LINE),
    ],
    ids=["the chat", "all chats", "the account"],
)
def test_a_chat_goes_however_long_its_branches_are(store: Store, delete: Callable[[Store, Principal, str], None]) -> None:
    me = user(store)
    chat = store.chat_import.one(me, "", branch())
    delete(store, me, chat.id)
    with pytest.raises(StoreError, match="there is no such chat"):
        store.chats.messages(me, chat.id)


@pytest.mark.parametrize("end", ["logout", "tidy", "guests off", "next start", "restore"])
def test_a_guests_chat_goes_with_its_session_however_long_its_branches_are(store: Store, clock: Clock, end: str) -> None:
    guest = store.sessions.guest(HOME)
    chat = store.chat_import.one(guest.principal, "", branch())
    clock.now += 13 * 3600
    if end == "restore":
        store.backup(store.folder / "backup.db")
        restore(store.folder / "backup.db", store.folder / "new")
        with Store.open(store.folder / "new") as restored, pytest.raises(StoreError, match="there is no such chat"):
            restored.chats.get(guest.principal, chat.id)
        return
    ways: dict[str, Callable[[], None]] = {
        "logout": lambda: store.sessions.end(guest.token),
        "tidy": store.tidy,
        "guests off": lambda: store.settings.set_guests("off", COMMAND_LINE),
        "next start": store.start_serving,
    }
    ways[end]()
    with pytest.raises(StoreError, match="there is no such chat"):
        store.chats.get(guest.principal, chat.id)


@contextmanager
def writing_meanwhile(store: Store, principal: Principal) -> Iterator[list[float]]:
    """Write again and again in another thread; the seconds that each took."""
    seconds: list[float] = []
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            began = time.monotonic()
            store.chats.create(principal)
            seconds.append(time.monotonic() - began)
            stop.wait(0.001)  # else it may take the lock again and again before the other gets it

    writer = threading.Thread(target=write)
    writer.start()
    yield seconds
    stop.set()
    writer.join()


@pytest.mark.parametrize("whose", ["an account's", "an ended guest's"])
def test_others_write_while_very_many_chats_are_deleted(store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch, whose: str) -> None:
    monkeypatch.setattr(deletion, "SECONDS_AT_ONCE", 0.0)
    other = user(store, "other")
    me = user(store) if whose == "an account's" else store.sessions.guest(HOME).principal
    for _ in range(30):
        store.chat_import.one(me, "", branch(3))
    delete_all: Callable[[], object] = partial(store.chats.delete_all, me) if whose == "an account's" else store.tidy
    clock.now += 13 * 3600
    with writing_meanwhile(store, other) as seconds:
        delete_all()
        written = len(seconds)
    assert written > 5
    assert store.chats.list(me).chats == ()
    assert store.chats.list(other).chats


def test_chats_that_begin_meanwhile_stay(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    me = user(store)
    for _ in range(2):
        store.chats.create(me)
    monkeypatch.setattr(deletion, "CHATS_AT_ONCE", 1)
    monkeypatch.setattr(time, "sleep", lambda _: store.chats.create(me, "new"))
    assert delete_chats(store._database, true()) == 2
    assert {chat.title for chat in store.chats.list(me).chats} == {"new"}


def test_an_account_whose_chats_are_being_deleted_does_nothing_more(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    me = user(store)
    key = store.keys.create(me.account_id, actor=COMMAND_LINE).key
    store.chats.create(me)
    seen = []
    monkeypatch.setattr(time, "sleep", lambda _: seen.append((store.keys.of(key), store.is_valid(me))))
    store.accounts.delete(me.account_id, COMMAND_LINE)
    assert seen == [(None, False)]
