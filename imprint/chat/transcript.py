"""A conversation as a file: JSON lines that can be trained on, or Markdown to read."""

import json
from pathlib import Path
from typing import Final

from imprint.chat.conversation import Conversation
from imprint.files.atomic import write_text
from imprint.files.disk_errors import translate_disk_errors
from imprint.files.links import from_home
from imprint.messages import Bilingual, UserError

SUFFIXES: Final = (".jsonl", ".json", ".md")


def save(conversation: Conversation, name: str) -> tuple[Path, int]:
    """Write the conversation to a file; returns its path and the number of turns left out because they have no answer.

    A name without a suffix gets .jsonl. Raises UserError for a conversation without answers, for another suffix, and for an existing file
    unless an earlier /save of this conversation wrote it.
    """
    path = _path(name)
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(Bilingual(f"{path}: must end in .jsonl (to train on) or .md (to read).", f"{path}：请用 .jsonl 或 .md 结尾。"))
    if not any(turn.answer for turn in conversation.turns):
        raise UserError(Bilingual("/save: there is no answer to save yet.", "/save：还没有可以保存的回答。"))
    with translate_disk_errors(path):
        if path.exists() and path not in conversation.saved:
            raise UserError(
                Bilingual(f"{path}: is there already. Choose another name; nothing was written.", f"{path}：文件已存在，请换一个名字。")
            )
        write_text(path, as_markdown(conversation) if path.suffix.lower() == ".md" else as_row(conversation))
    return path, sum(not turn.answer for turn in conversation.turns)


def _path(name: str) -> Path:
    """The path of a file name; expands `~`."""
    path = from_home(name)
    if not path.name or path.name == ".." or not name.isprintable():
        raise UserError(Bilingual("/save: give a file, for instance /save chat.jsonl or /save chat.md.", "/save：请给出文件名。"))
    return path if path.suffix else path.with_name(f"{path.name}.jsonl")


def as_row(conversation: Conversation) -> str:
    """One line of JSON in ChatGLM3's data format; a stopped answer gets `"loss": false`, so that it is not learned."""
    messages: list[dict[str, object]] = [{"role": "system", "content": conversation.system}] if conversation.system else []
    for turn in conversation.turns:
        if turn.answer:
            messages.append({"role": "user", "content": turn.question})
            messages.append({"role": "assistant", "content": turn.answer} | ({"loss": False} if turn.stopped else {}))
    return json.dumps({"conversations": messages}, ensure_ascii=False) + "\n"


def as_markdown(conversation: Conversation) -> str:
    """The conversation as Markdown."""
    parts = [f"> {line}" for line in (conversation.system or "").splitlines()]
    for turn in conversation.turns:
        if turn.answer:
            mark = " *(stopped / 已停止)*" if turn.stopped else ""
            parts += ["", f"**问 / Q:** {turn.question}", "", f"**答 / A:** {turn.answer}{mark}"]
    return "\n".join(parts).strip("\n") + "\n"
