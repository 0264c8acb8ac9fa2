import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import pytest
from sqlalchemy import Connection, true

from imprint.messages import Bilingual
from imprint.serve.store import COMMAND_LINE, Principal, Store, deletion, restore
from imprint.serve.store.chat_import import ImportedMessage
from imprint.serve.store.database import Database
from imprint.serve.store.deletion import delete_chats
from imprint.serve.store.errors import StoreError
from imprint.serve.store.login import Login
from tests.serve.stores import HOME, PASSWORD, Clock, user

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


ENDS: dict[str, Callable[[Store, Login], object]] = {
    "sign out": lambda store, guest: store.sessions.end(guest.token),
    "revoke": lambda store, guest: store.sessions.revoke(guest.principal, str(guest.principal.session_id)),
    "sign in": lambda store, guest: store.sessions.login("other", PASSWORD, HOME, replaces=guest.token),
    "end all": lambda store, guest: store.sessions.end_all(guest.principal.account_id, COMMAND_LINE),
    "disable": lambda store, guest: store.accounts.disable(guest.principal.account_id, COMMAND_LINE),
    "guests off": lambda store, _: store.settings.set_guests("off", COMMAND_LINE),
}
"""What ends a guest's session."""


@pytest.mark.parametrize("way", ["delete all", "tidy", *ENDS])
def test_others_write_while_very_many_chats_are_deleted(store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    monkeypatch.setattr(deletion, "SECONDS_AT_ONCE", 0.0)
    other, guest = user(store, "other"), store.sessions.guest(HOME)
    me = user(store) if way == "delete all" else guest.principal
    for _ in range(30):
        store.chat_import.one(me, "", branch(3))
    ways: dict[str, Callable[[], object]] = {
        "delete all": partial(store.chats.delete_all, me),
        "tidy": store.tidy,
        **{name: partial(end, store, guest) for name, end in ENDS.items()},
    }
    if way == "tidy":
        clock.now += 13 * 3600
    with writing_meanwhile(store, other) as seconds:
        ways[way]()
        written = len(seconds)
    assert written > 5
    assert store.chats.list(me).chats == ()
    assert store.chats.list(other).chats


@pytest.mark.parametrize("way", ENDS)
def test_a_guest_whose_chats_are_being_deleted_is_nobody_any_more(store: Store, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    user(store, "other")
    guest, stays = store.sessions.guest(HOME), store.sessions.guest(HOME)
    store.chats.create(guest.principal)
    seen = []

    def pause(_: float) -> None:
        with pytest.raises(StoreError, match="has ended"):
            store.chats.create(guest.principal)
        seen.append((store.sessions.of(guest.token), store.is_valid(guest.principal), store.sessions.list(guest.principal)))

    monkeypatch.setattr(time, "sleep", pause)
    ENDS[way](store, guest)
    assert seen[0] == (None, False, ())
    assert (store.sessions.of(stays.token) is None) == (way in {"end all", "disable", "guests off"})
    with pytest.raises(StoreError, match="there is no such session"):
        store.sessions.revoke(guest.principal, str(guest.principal.session_id))


def test_what_cannot_be_deleted_at_the_end_of_a_session_goes_with_the_next_tidying(
    store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    guest, read = store.sessions.guest(HOME), Database.reading
    chat = store.chats.create(guest.principal)
    clock.now += 120  # that who asks is seen now is written

    def refuse(*_: object) -> int:
        raise StoreError("busy", Bilingual("busy", "忙"))

    @contextmanager
    def reading(database: Database) -> Iterator[Connection]:
        with read(database) as connection:
            yield connection
        monkeypatch.setattr(Database, "reading", read)
        store.sessions.end(guest.token)  # between the look-up of the session and the note that it was seen

    with monkeypatch.context() as patched:
        patched.setattr(deletion, "delete_chats", refuse)
        monkeypatch.setattr(Database, "reading", reading)
        store.sessions.of(guest.token)
    assert (store.sessions.of(guest.token), store.chats.get(guest.principal, chat.id)) == (None, chat)
    store.tidy()
    with pytest.raises(StoreError, match="there is no such chat"):
        store.chats.get(guest.principal, chat.id)


def test_chats_that_begin_meanwhile_stay(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    me = user(store)
    for _ in range(2):
        store.chats.create(me)
    monkeypatch.setattr(deletion, "ROWS_AT_ONCE", 1)
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
