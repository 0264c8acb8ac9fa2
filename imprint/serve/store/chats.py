"""Chats: trees of messages. Every statement names the owner, so that an id alone opens nothing.

A search reads one owner's chats in bounded time, without an index: it finds words of any length in any script, such as 门票, for which
SQLite's trigram index needs three characters, and however they are composed; a deleted chat leaves nothing behind in an index.
"""

import re
from dataclasses import dataclass
from typing import Any, Final, Literal

from sqlalchemy import Boolean, Column, ColumnElement, Connection, Row, Select, delete, exists, func, or_, select, tuple_, update

from imprint.messages import Bilingual
from imprint.serve.store.database import Database
from imprint.serve.store.deletion import ENDED_AT, delete_chats
from imprint.serve.store.errors import StoreError, invalid, not_found
from imprint.serve.store.limits import Limits
from imprint.serve.store.names import refuse_no_text, short_text
from imprint.serve.store.principal import Principal
from imprint.serve.store.tables import CHATS, MESSAGES, SESSIONS, new_public_id

MessageRole = Literal["system", "user", "assistant"]
MessageState = Literal["writing", "done", "interrupted", "error"]
MAX_TITLE: Final = 200
MAX_SEARCH: Final = 200
MAX_WORDS: Final = 8
"""Words of a search, all of which a chat must have."""
MAX_PAGE: Final = 200
TOO_LONG: Final = Bilingual(
    "q: the search takes too long. Search for fewer and shorter words, or delete chats.",
    "q：搜索耗时过长，请减少或缩短搜索词，或删除一些对话。",
)
MOMENT: Final = r"(\d{1,12}\.\d{6})"
CURSOR: Final = re.compile(rf"{MOMENT}-([0-9a-f]{{32}})-{MOMENT}-{MOMENT}")
TOP: Final = (999_999_999_999.0, "f" * 32)
"""A place before all chats."""


@dataclass(frozen=True)
class Chat:
    """A chat, without its messages."""

    id: str
    """Its name for the service."""
    title: str
    """What its owner calls it."""
    created_at: float
    """When it began, in seconds since 1970."""
    updated_at: float
    """When a message was last added, or the title changed."""


@dataclass(frozen=True)
class ChatPage:
    """Some chats of a list, newest first."""

    chats: tuple[Chat, ...]
    """The chats."""
    next_cursor: str | None
    """Where the list goes on; None at its end."""


@dataclass(frozen=True)
class _Cursor:
    """Where a list goes on. A chat that changes meanwhile moves before that place: a further round gives those."""

    place: tuple[float, str]
    """When the last chat of the page before was changed, and its id."""
    began: float
    """When the newest chat was changed as the round began."""
    since: float = 0.0
    """In a further round, the same of the round before: it has the chats that were there then and were changed afterwards."""

    @classmethod
    def read(cls, text: str) -> "_Cursor":
        """Raises StoreError for what no list gave."""
        found = CURSOR.fullmatch(text)
        if found is None:
            raise invalid("cursor: is not one that this list gave. Begin without it.", "cursor 不是列表给出的，请从头开始。")
        return cls((float(found[1]), found[2]), float(found[3]), float(found[4]))

    def __str__(self) -> str:
        return f"{self.place[0]:.6f}-{self.place[1]}-{self.began:.6f}-{self.since:.6f}"

    @property
    def conditions(self) -> tuple[ColumnElement[bool], ...]:
        """Of the chats that are still to come."""
        behind = tuple_(CHATS.c.updated_at, CHATS.c.public_id) < tuple_(*self.place)
        return (behind, CHATS.c.updated_at > self.since, CHATS.c.created_at <= self.since) if self.since else (behind,)

    def further(self) -> "_Cursor":
        """The beginning of a further round."""
        return _Cursor(TOP, self.began, self.began)


@dataclass(frozen=True)
class Message:
    """One message in the tree of a chat."""

    id: str
    """Its name for the service."""
    parent_id: str | None
    """The message it follows; None at the beginning."""
    role: MessageRole
    """Who says it."""
    text: str
    """What is said, so far."""
    model: str | None
    """Which model answers."""
    state: MessageState
    """Whether it is being written, is whole, was cut off by a restart, or failed."""
    finish: str | None
    """Why an answer ends: stop, length, cancelled."""
    prompt_tokens: int
    """Tokens of the prompt of an answer."""
    new_tokens: int
    """Tokens of the answer."""
    error: Bilingual | None
    """Why it failed."""
    created_at: float
    """When it began, in seconds since 1970."""


class Chats:
    """Keeps the chats of all owners apart."""

    def __init__(self, database: Database, limits: Limits) -> None:
        self._database = database
        self._limits = limits

    def create(self, principal: Principal, title: str = "") -> Chat:
        """Begin a chat. Raises StoreError for very many."""
        kept = short_text(title, "title", most=MAX_TITLE)
        with self._database.writing() as connection:
            now = self.time()  # nobody else writes now: what is kept later is of later
            chat = Chat(new_public_id(), kept, now, now)
            values = {"public_id": chat.id, "owner": principal.owner, "account_id": principal.account_id, "title": chat.title}
            count = connection.execute(select(func.count()).select_from(CHATS).where(CHATS.c.owner == principal.owner)).scalar_one()
            most = self._limits.guest_chats if principal.role == "guest" else self._limits.chats_an_owner
            if count >= most:
                raise too_many("chats", "对话", most)
            session = _session_of_guest(connection, principal)
            connection.execute(CHATS.insert().values(**values, session_id=session, created_at=now, updated_at=now))
        return chat

    def list(self, principal: Principal, *, search: str = "", cursor: str | None = None, limit: int = 50) -> ChatPage:
        """Chats, those changed last first; `search`: with all of these words in their title or their messages.

        Each that was there at the beginning is in one of the pages; those that change meanwhile come once more, at the end.
        Raises StoreError for a search that takes too long.
        """
        limit = max(1, min(limit, MAX_PAGE))
        at = _Cursor.read(cursor) if cursor is not None else _Cursor(TOP, 0.0)
        query = select(CHATS).where(CHATS.c.owner == principal.owner, *map(_has_word, _words(search)))
        query = query.order_by(CHATS.c.updated_at.desc(), CHATS.c.public_id.desc())
        with self._database.reading_within(self._limits.search_seconds, TOO_LONG) as connection:
            chats = tuple(map(_chat, connection.execute(query.where(*at.conditions).limit(limit + 1))))
            began = chats[0].updated_at if chats and at.place == TOP else at.began
            if len(chats) > limit:
                last = chats[limit - 1]
                return ChatPage(chats[:limit], str(_Cursor((last.updated_at, last.id), began, at.since)))
            further = _Cursor(TOP, began).further()
            has_changed = cursor is not None and connection.execute(query.where(*further.conditions).limit(1)).first() is not None
        return ChatPage(chats, str(further) if has_changed else None)

    def ids(self, principal: Principal) -> tuple[str, ...]:
        """All chats of an owner as they are now, those changed last first; between two pages of `list` one may change its place."""
        query = select(CHATS.c.public_id).where(CHATS.c.owner == principal.owner)
        with self._database.reading() as connection:
            return tuple(connection.execute(query.order_by(CHATS.c.updated_at.desc(), CHATS.c.public_id.desc())).scalars())

    def whole(self, principal: Principal, chat_id: str) -> tuple[Chat, tuple[Message, ...]]:
        """One chat with all its messages, as they are at one moment."""
        with self._database.reading() as connection:
            row = own_chat(connection, principal, chat_id)
            return _chat(row), tuple(map(_message, connection.execute(_messages(row.id))))

    def get(self, principal: Principal, chat_id: str) -> Chat:
        """One chat."""
        with self._database.reading() as connection:
            return _chat(own_chat(connection, principal, chat_id))

    def rename(self, principal: Principal, chat_id: str, title: str) -> Chat:
        """Change the title of a chat."""
        kept = short_text(title, "title", most=MAX_TITLE)
        with self._database.writing() as connection:
            row = own_chat(connection, principal, chat_id)
            connection.execute(update(CHATS).where(CHATS.c.id == row.id).values(title=kept, updated_at=self.time()))
            return _chat(own_chat(connection, principal, chat_id))

    def delete(self, principal: Principal, chat_id: str) -> None:
        """Delete a chat with all its messages."""
        with self._database.writing() as connection:
            row = own_chat(connection, principal, chat_id)
            connection.execute(delete(CHATS).where(CHATS.c.id == row.id))

    def delete_all(self, principal: Principal) -> int:
        """Delete all chats of an owner, some at a time; how many there were."""
        return delete_chats(self._database, CHATS.c.owner == principal.owner)

    def messages(self, principal: Principal, chat_id: str) -> tuple[Message, ...]:
        """All messages of a chat, in the order in which they were added: a parent before its children."""
        return self.whole(principal, chat_id)[1]

    def path(self, principal: Principal, chat_id: str, message_id: str) -> tuple[Message, ...]:
        """The messages from the beginning of a chat to one of its messages: the conversation that this one ends."""
        by_id = {message.id: message for message in self.messages(principal, chat_id)}
        if message_id not in by_id:
            raise no_message()
        path, next_id = [], message_id
        while True:
            path.append(by_id[next_id])
            parent = by_id[next_id].parent_id
            if parent is None:
                return tuple(reversed(path))
            next_id = parent

    def write(self, principal: Principal, message_id: str, text: str) -> bool:
        """Keep the text so far of an answer that is being written; False if it is gone, as after its chat was deleted."""
        return self._write(principal, message_id, {"text": self._clipped(text)})

    def finish(
        self,
        principal: Principal,
        message_id: str,
        text: str,
        *,
        state: MessageState,
        finish: str | None = None,
        prompt_tokens: int = 0,
        new_tokens: int = 0,
        error: Bilingual | None = None,
    ) -> bool:
        """Keep an answer that has ended; False if it is gone, or has ended before."""
        values = {
            "text": self._clipped(text),
            "state": state,
            "finish": finish,
            "prompt_tokens": prompt_tokens,
            "new_tokens": new_tokens,
            "error_english": None if error is None else error.english,
            "error_chinese": None if error is None else error.chinese,
        }
        return self._write(principal, message_id, values)

    def interrupt_all(self, connection: Connection) -> None:
        """Mark the answers that a service was writing when it ended."""
        connection.execute(update(MESSAGES).where(MESSAGES.c.state == "writing").values(state="interrupted"))

    def _write(self, principal: Principal, message_id: str, values: dict[str, Any]) -> bool:
        own = select(CHATS.c.id).where(CHATS.c.owner == principal.owner)
        writing = (MESSAGES.c.public_id == message_id, MESSAGES.c.state == "writing", MESSAGES.c.chat_id.in_(own))
        with self._database.writing() as connection:
            return connection.execute(update(MESSAGES).where(*writing).values(**values)).rowcount == 1

    def time(self) -> float:
        """Now, to the microsecond, as cursors say it."""
        return round(self._database.now(), 6)

    def checked(self, text: str) -> str:
        """A text that people send. Raises StoreError if it is too long or no Unicode text."""
        refuse_no_text(text, "content")
        if len(text) > self._limits.characters_a_message:
            raise invalid(
                f"content: must have at most {self._limits.characters_a_message:,} characters, got {len(text):,}.",
                f"content 最多 {self._limits.characters_a_message:,} 个字符，实际是 {len(text):,} 个。",
            )
        return text

    def _clipped(self, text: str) -> str:
        """A text of a model, as far as it is kept: what no text has is replaced."""
        return text[: self._limits.characters_a_message].replace("\0", "\ufffd").encode("utf-8", "replace").decode()


def _session_of_guest(connection: Connection, principal: Principal) -> int | None:
    """The row of the session with which a guest's chats end; None for an account. Raises StoreError if it has ended."""
    if principal.role != "guest":
        return None
    begun = (SESSIONS.c.public_id == principal.session_id, SESSIONS.c.seen_at != ENDED_AT)
    row = connection.execute(select(SESSIONS.c.id).where(*begun)).first()
    if row is None:
        raise StoreError("credentials", Bilingual("this session has ended. Come in again.", "会话已结束，请重新进入。"))
    return int(row.id)


def own_chat(connection: Connection, principal: Principal, chat_id: str) -> Row[Any]:
    """The row of a chat. Raises StoreError for another's, as for none."""
    row = connection.execute(select(CHATS).where(CHATS.c.public_id == chat_id, CHATS.c.owner == principal.owner)).first()
    if row is None:
        raise not_found("there is no such chat. It may have been deleted.", "没有这个对话，可能已被删除。")
    return row


def _messages(chat: int) -> Select[Any]:
    """The messages of the chat in a row of CHATS, each with the public id of its parent."""
    parents = MESSAGES.alias("parents")
    joined = MESSAGES.outerjoin(parents, MESSAGES.c.parent_id == parents.c.id)
    columns = select(MESSAGES, parents.c.public_id.label("parent_public_id"))
    return columns.select_from(joined).where(MESSAGES.c.chat_id == chat).order_by(MESSAGES.c.id)


def _words(search: str) -> list[str]:
    """The words of a search; after several the rest counts as one. Raises StoreError for a long one."""
    return short_text(search, "q", most=MAX_SEARCH).split(maxsplit=MAX_WORDS - 1)


def _has_word(word: str) -> ColumnElement[bool]:
    in_message = exists().where(MESSAGES.c.chat_id == CHATS.c.id, _in(MESSAGES.c.text, word))
    return or_(_in(CHATS.c.title, word), in_message)


def _in(column: Column[Any], word: str) -> ColumnElement[bool]:
    return func.has_word(column, word, type_=Boolean)


def _chat(row: Row[Any]) -> Chat:
    return Chat(row.public_id, row.title, row.created_at, row.updated_at)


def _message(row: Row[Any]) -> Message:
    error = None if row.error_english is None else Bilingual(row.error_english, row.error_chinese)
    return Message(
        row.public_id,
        row.parent_public_id,
        row.role,
        row.text,
        row.model,
        row.state,
        row.finish,
        row.prompt_tokens,
        row.new_tokens,
        error,
        row.created_at,
    )


def no_message() -> StoreError:
    """That a chat has no such message."""
    return not_found("there is no such message. It may have been deleted.", "没有这条消息，可能已被删除。")


def too_many(english: str, chinese: str, most: int) -> StoreError:
    """That there are as many of something as there may be."""
    return StoreError(
        "quota_exceeded", Bilingual(f"there are {most:,} {english} already. Delete some first.", f"已有 {most:,} {chinese}，请先删除一些。")
    )
