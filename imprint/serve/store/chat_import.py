"""Chats that were exported, taken in again: a copy of the tree, with ids of its own."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import func, select

from imprint.serve.store.chats import Chat, Chats, MessageRole, MessageState, own_chat, too_many
from imprint.serve.store.database import Database
from imprint.serve.store.errors import invalid
from imprint.serve.store.limits import Limits
from imprint.serve.store.names import refuse_no_text
from imprint.serve.store.principal import Principal
from imprint.serve.store.tables import CHATS, MESSAGES, new_public_id

MESSAGE_CHARACTERS: Final = 256
"""As how many characters a message counts beside its text: about what its row takes, and its entries in the indexes."""


@dataclass(frozen=True)
class ImportedMessage:
    """A message of an exported chat."""

    id: str
    """Its name in the file."""
    parent_id: str | None
    """The earlier message of the file that it follows."""
    role: MessageRole
    """Who says it."""
    text: str
    """What is said."""
    model: str | None
    """Which model answered."""
    state: MessageState
    """Whether it was whole; what was being written is interrupted."""
    finish: str | None
    """Why an answer ended."""
    prompt_tokens: int
    """Tokens of its prompt."""
    new_tokens: int
    """Tokens of the answer. An import counts against no quota."""


class ChatImport:
    """Imports chats for an owner."""

    def __init__(self, database: Database, chats: Chats, limits: Limits) -> None:
        self._database = database
        self._chats = chats
        self._limits = limits

    def one(self, principal: Principal, title: str, messages: Sequence[ImportedMessage]) -> Chat:
        """A new chat with these messages. Raises StoreError for too many, and for a parent that is no earlier one."""
        if len(messages) > self._limits.messages_a_chat:
            raise invalid(
                f"messages: this chat has {len(messages):,}, and one may have {self._limits.messages_a_chat:,}. Import a part of it.",
                f"messages：该对话有 {len(messages):,} 条消息，上限为 {self._limits.messages_a_chat:,} 条，请只导入一部分。",
            )
        self._check_tree(messages)
        self._check_room(principal)
        texts = [self._chats.checked(message.text) for message in messages]
        for message in messages:
            refuse_no_text(message.model or "", "model")
        chat = self._chats.create(principal, title)
        rows: dict[str | None, int | None] = {None: None}
        values = [
            {
                "public_id": new_public_id(),
                "role": message.role,
                "text": text,
                "model": message.model,
                "state": "interrupted" if message.state == "writing" else message.state,
                "finish": message.finish,
                "prompt_tokens": message.prompt_tokens,
                "new_tokens": message.new_tokens,
                "created_at": chat.created_at,
            }
            for message, text in zip(messages, texts, strict=True)
        ]
        with self._database.writing() as connection:  # no other writes meanwhile, so the rows are counted here and added in one statement
            number = own_chat(connection, principal, chat.id).id
            first = connection.execute(select(func.coalesce(func.max(MESSAGES.c.id), 0) + 1)).scalar_one()
            for row, (message, value) in enumerate(zip(messages, values, strict=True), start=first):
                rows[message.id] = row
                value |= {"id": row, "chat_id": number, "parent_id": rows[message.parent_id]}
            if values:
                connection.execute(MESSAGES.insert(), values)
        return chat

    def _check_room(self, principal: Principal) -> None:
        """Raise StoreError where the owner has very much already."""
        size = func.length(MESSAGES.c.text) + func.length(func.coalesce(MESSAGES.c.model, "")) + MESSAGE_CHARACTERS
        own = select(func.coalesce(func.sum(size), 0)).join(CHATS).where(CHATS.c.owner == principal.owner)
        with self._database.reading() as connection:
            if connection.execute(own).scalar_one() >= self._limits.characters_an_owner:
                raise too_many("characters in your chats", "个字符（全部对话）", self._limits.characters_an_owner)

    @staticmethod
    def _check_tree(messages: Sequence[ImportedMessage]) -> None:
        seen: set[str | None] = {None}
        for index, message in enumerate(messages):
            if message.parent_id not in seen or message.id in seen:
                raise invalid(
                    f"messages[{index}]: its id must be new, and its parent_id null or the id of an earlier message.",
                    f"messages[{index}]：id 须不重复，parent_id 须为 null 或前面某条消息的 id。",
                )
            seen.add(message.id)
