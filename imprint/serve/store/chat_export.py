"""Chats as files to keep: Markdown to read, JSON with the whole tree."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Final, Literal

from imprint.serve.store.chats import Chat, Chats, Message
from imprint.serve.store.errors import StoreError
from imprint.serve.store.principal import Principal

ExportForm = Literal["md", "json"]
SPEAKERS: Final = {"system": "System / 系统", "user": "User / 用户", "assistant": "Assistant / 助手"}
STATES: Final = {"writing": "still being written / 仍在生成", "interrupted": "interrupted / 已中断", "error": "failed / 出错"}
"""What stands below an answer that is not done."""
UNTITLED: Final = "Untitled / 未命名"


class ChatExport:
    """Exports the chats of an owner."""

    def __init__(self, chats: Chats) -> None:
        self._chats = chats

    def one(self, principal: Principal, chat_id: str, form: ExportForm) -> str:
        """A chat as text. Raises StoreError for another's."""
        chat, messages = self._chats.whole(principal, chat_id)
        if form == "json":
            return json.dumps(_as_json(chat, messages), ensure_ascii=False, indent=2) + "\n"
        return _as_markdown(chat, messages)

    def all(self, principal: Principal) -> Iterator[str]:
        """All chats that are there when it begins, each as one line of JSON; those that are deleted meanwhile are left out."""
        for chat_id in self._chats.ids(principal):
            try:
                chat, messages = self._chats.whole(principal, chat_id)
            except StoreError as error:
                if error.kind != "not_found":
                    raise
                continue
            yield json.dumps(_as_json(chat, messages), ensure_ascii=False) + "\n"


def _as_json(chat: Chat, messages: tuple[Message, ...]) -> dict[str, Any]:
    return {
        "id": chat.id,
        "title": chat.title,
        "created_at": _moment(chat.created_at),
        "updated_at": _moment(chat.updated_at),
        "messages": [
            {
                "id": message.id,
                "parent_id": message.parent_id,
                "role": message.role,
                "content": message.text,
                "model": message.model,
                "state": message.state,
                "finish_reason": message.finish,
                "prompt_tokens": message.prompt_tokens,
                "completion_tokens": message.new_tokens,
                "created_at": _moment(message.created_at),
            }
            for message in messages
        ],
    }


def _as_markdown(chat: Chat, messages: tuple[Message, ...]) -> str:
    """The conversation that ends with the newest message, and how many messages stand on other branches."""
    by_id = {message.id: message for message in messages}
    path: list[Message] = []
    step = messages[-1] if messages else None
    while step is not None:
        path.append(step)
        step = by_id[step.parent_id] if step.parent_id is not None else None
    parts = [f"# {chat.title or UNTITLED}\n\n{_moment(chat.created_at)}\n"]
    for message in reversed(path):
        model = f" ({message.model})" if message.model else ""
        ending = "" if message.state == "done" else f"\n\n*{STATES[message.state]}*"
        parts.append(f"## {SPEAKERS[message.role]}{model}\n\n{message.text}{ending}\n")
    if len(path) < len(messages):
        others = len(messages) - len(path)
        parts.append(f"*{others} messages on other branches are in the JSON form. / 其他分支的 {others} 条消息见 JSON 格式。*\n")
    return "\n".join(parts)


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
