"""A question in a chat and the answers to it: checked before a model works for them, and kept together or not at all."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, delete, exists, func, select, update

from imprint.messages import Bilingual
from imprint.serve.store.chats import Chats, Message, MessageRole, MessageState, no_message, own_chat
from imprint.serve.store.database import Database
from imprint.serve.store.errors import StoreError
from imprint.serve.store.limits import Limits
from imprint.serve.store.names import short_text
from imprint.serve.store.principal import Principal
from imprint.serve.store.tables import CHATS, MESSAGES, new_public_id

MAX_TITLE: Final = 60
"""Characters of the first question that name a chat without a title."""


@dataclass(frozen=True)
class Asked:
    """A question that is kept, with messages for its answers."""

    chat_id: str
    """The chat."""
    question: str | None
    """The message that is answered; None where the answers begin the chat."""
    is_new: bool
    """Whether this is what was asked, or an earlier message that is answered again."""
    answers: tuple[str, ...]
    """A message for each answer, in the order of the models."""
    before: tuple[str, float]
    """Title of the chat before, and when it was changed last, in seconds since 1970."""
    after: tuple[str, float]
    """The same afterwards."""


class Questions:
    """Takes questions in the chats of all owners."""

    def __init__(self, database: Database, chats: Chats, limits: Limits) -> None:
        self._database = database
        self._chats = chats
        self._limits = limits

    def path(self, principal: Principal, chat_id: str, text: str | None, *, parent_id: str | None, answers: int) -> tuple[Message, ...]:
        """The conversation that a question goes on with. Raises StoreError for all for which `keep` would not take it now."""
        if text is not None:
            self._chats.checked(text)
        with self._database.reading() as connection:
            self._refuse_full(connection, own_chat(connection, principal, chat_id).id, text, answers)
        return () if parent_id is None else self._chats.path(principal, chat_id, parent_id)

    def keep(self, principal: Principal, chat_id: str, text: str | None, *, parent_id: str | None, models: Sequence[str]) -> Asked:
        """Keep a question after a message of a chat, and an empty answer of each model; without a text answer that message again.

        Raises StoreError, and nothing is kept, where the chat or the message is gone, where the chat is full, and for what is no text.
        """
        kept = None if text is None else self._chats.checked(text)
        with self._database.writing() as connection:
            now = self._chats.time()  # nobody else writes now: what is kept later is of later
            chat = own_chat(connection, principal, chat_id)
            row = None if parent_id is None else _row_of(connection, chat.id, parent_id)
            self._refuse_full(connection, chat.id, kept, len(models))
            question, title = parent_id, chat.title
            if kept is not None:
                row, question = _add(connection, chat.id, row, "user", kept, now=now)
                title = title or short_text(" ".join(kept.split())[:MAX_TITLE], "title", most=3 * MAX_TITLE)
            answers = tuple(_add(connection, chat.id, row, "assistant", "", now=now, model=model, state="writing")[1] for model in models)
            connection.execute(update(CHATS).where(CHATS.c.id == chat.id).values(title=title, updated_at=now))
            return Asked(chat_id, question, kept is not None, answers, (chat.title, chat.updated_at), (title, now))

    def withdraw(self, principal: Principal, asked: Asked) -> None:
        """Take a question back whose answers never began. What has been added after one of its messages stays, with that message."""
        with self._database.writing() as connection:
            row = connection.execute(
                select(CHATS.c.id).where(CHATS.c.public_id == asked.chat_id, CHATS.c.owner == principal.owner)
            ).scalar()
            if row is None:
                return
            _delete_last(connection, row, asked.answers)
            connection.execute(
                update(MESSAGES).where(MESSAGES.c.chat_id == row, MESSAGES.c.public_id.in_(asked.answers)).values(state="interrupted")
            )
            if asked.is_new and asked.question is not None:
                _delete_last(connection, row, (asked.question,))
            (title, updated_at), (title_before, updated_before) = asked.after, asked.before
            same = (CHATS.c.id == row, CHATS.c.title == title, CHATS.c.updated_at == updated_at)
            connection.execute(update(CHATS).where(*same).values(title=title_before, updated_at=updated_before))

    def _refuse_full(self, connection: Connection, chat: int, text: str | None, answers: int) -> None:
        """Raise StoreError where a chat has no room for a question, if there is one, and so many answers."""
        size = select(func.count(), func.coalesce(func.sum(func.length(MESSAGES.c.text)), 0)).where(MESSAGES.c.chat_id == chat)
        count, characters = connection.execute(size).one()
        more, most = answers + (text is not None), self._limits.messages_a_chat
        if count + more > most:
            raise StoreError(
                "quota_exceeded",
                Bilingual(
                    f"this chat has {count:,} messages and may have {most:,}, too few for {more} more. Begin another chat.",
                    f"此对话已有 {count:,} 条消息，上限为 {most:,} 条，容不下再加 {more} 条：请开始新的对话。",
                ),
            )
        more, most = len(text or ""), self._limits.characters_a_chat
        if characters + more > most:
            few, few_chinese = (f", too few for {more:,} more", f"，容不下再加 {more:,} 个") if more else ("", "")
            raise StoreError(
                "quota_exceeded",
                Bilingual(
                    f"this chat has {characters:,} characters and may have {most:,}{few}. Begin another chat.",
                    f"此对话已有 {characters:,} 个字符，上限为 {most:,} 个{few_chinese}：请开始新的对话。",
                ),
            )


def _row_of(connection: Connection, chat: int, message_id: str) -> int:
    """The row of a message of this chat. Raises StoreError for that of another, as for none."""
    row: int | None = connection.execute(
        select(MESSAGES.c.id).where(MESSAGES.c.public_id == message_id, MESSAGES.c.chat_id == chat)
    ).scalar()
    if row is None:
        raise no_message()
    return row


def _add(
    connection: Connection,
    chat: int,
    parent: int | None,
    role: MessageRole,
    text: str,
    *,
    now: float,
    model: str | None = None,
    state: MessageState = "done",
) -> tuple[int, str]:
    """Add a message after another one, or at the beginning; its row and its public id."""
    public_id = new_public_id()
    values = {"public_id": public_id, "chat_id": chat, "parent_id": parent, "role": role, "text": text, "model": model, "state": state}
    added = connection.execute(MESSAGES.insert().values(**values, prompt_tokens=0, new_tokens=0, created_at=now))
    return added.lastrowid, public_id


def _delete_last(connection: Connection, chat: int, messages: Sequence[str]) -> None:
    """Delete messages that no other one follows."""
    children = MESSAGES.alias("children")
    followed = exists().where(children.c.parent_id == MESSAGES.c.id)
    connection.execute(delete(MESSAGES).where(MESSAGES.c.chat_id == chat, MESSAGES.c.public_id.in_(messages), ~followed))
