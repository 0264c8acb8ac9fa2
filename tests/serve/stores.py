"""Stores for tests: cheap hashes, and a clock that a test sets."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from imprint.serve.store import COMMAND_LINE, Hashing, Limits, Principal, Store
from imprint.serve.store.chats import Message
from imprint.serve.store.database import FILE_NAME, Database

FAST: Final = Hashing(memory_kib=8, passes=1)
PASSWORD: Final = "four words for a test"
NOON: Final = 1_795_867_200.0
"""2026-11-28T12:00 UTC, in seconds since 1970."""
HOME: Final = "192.0.2.7"
"""The address of most visitors."""


class Clock:
    """A clock that stands still until a test moves it."""

    def __init__(self, now: float = NOON) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@cache
def _empty_database() -> bytes:
    """A database with the newest schema and nothing in it: making one takes most of the time of a first start."""
    with TemporaryDirectory() as folder:
        Database(Path(folder)).close()
        return Path(folder, FILE_NAME).read_bytes()


def open_store(folder: Path, *, now: Callable[[], float] | None = None, limits: Limits | None = None, busy_seconds: float = 5.0) -> Store:
    """A store that is made, or opened again, with cheap hashes."""
    if not (folder / FILE_NAME).exists():
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        (folder / FILE_NAME).write_bytes(_empty_database())
    return Store.open(folder, now=now or Clock(), limits=limits, hashing=FAST, busy_seconds=busy_seconds)


def user(store: Store, name: str = "小明", *, models: frozenset[str] | None = None, tokens_a_day: int | None = None) -> Principal:
    """A new user who has signed in and changed the one-time password to `PASSWORD`."""
    created = store.accounts.create(name, actor=COMMAND_LINE, models=models, tokens_a_day=tokens_a_day)
    login = store.sessions.login(name, created.password, HOME)
    return store.sessions.change_password(login.principal, created.password, PASSWORD, HOME).principal


def admin(store: Store) -> Principal:
    """The first admin, signed in with the one-time password."""
    assert store.first_password is not None
    return store.sessions.login("admin", store.first_password, HOME).principal


def keep_question(store: Store, owner: Principal, chat_id: str, text: str, *, parent_id: str | None = None) -> str:
    """The id of a message that a user sends, which no model answers."""
    question = store.questions.keep(owner, chat_id, text, parent_id=parent_id, models=()).question
    assert question is not None
    return question


def begin_answer(store: Store, owner: Principal, chat_id: str, parent_id: str | None = None, model: str = "base") -> str:
    """The id of an answer to a message, or at the beginning of a chat, that a model is about to write."""
    (answer,) = store.questions.keep(owner, chat_id, None, parent_id=parent_id, models=[model]).answers
    return answer


def keep_answer(store: Store, owner: Principal, chat_id: str, text: str, *, parent_id: str | None = None, model: str = "base") -> str:
    """The id of an answer that a model has written to its end."""
    answer = begin_answer(store, owner, chat_id, parent_id, model)
    assert store.chats.finish(owner, answer, text, state="done")
    return answer


def read_message(store: Store, owner: Principal, chat_id: str, message_id: str) -> Message:
    """A message as it is kept now."""
    return store.chats.path(owner, chat_id, message_id)[-1]
