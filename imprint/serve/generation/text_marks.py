"""Marks of turns that are plain text: `[Round 1]`, `问：` and `答：` of ChatGLM-6B, ChatGLM2-6B and the template `plain`.

A tokenizer cannot tell them from what a user typed, as it can a control token. Here they are changed in what users send.
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Final

TEMPLATES: Final = frozenset({"chatglm", "chatglm2", "plain"})
"""Templates with such marks."""
MARK: Final = re.compile(r"([问答])[^\S\n]*[:：﹕︓]|[\[［﹇]([^\S\n]*Round[^\S\n]*\d+[^\S\n]*)[\]］﹈]", re.IGNORECASE)
INVISIBLE: Final = re.compile(
    r"[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0]"
)
"""Characters that are not seen; a tokenizer may drop them."""


def without_marks(text: str) -> str:
    """A text in which `问：` is `问—`, and `[Round 1]` is `(Round 1)`, for a model; all else stays as it is.

    Where a mark is hidden in other forms of its characters, which a tokenizer takes for the same, the text has their usual forms.
    """
    plain = _without_visible_marks(text)
    usual = unicodedata.normalize("NFKC", INVISIBLE.sub("", plain))
    return _without_visible_marks(usual) if MARK.search(usual) else plain


def messages_without_marks(messages: Sequence[Mapping[str, object]]) -> list[Mapping[str, object]]:
    """Messages, of whatever role, in whose texts are no marks."""
    return [
        {**message, "content": without_marks(text)} if isinstance(text := message.get("content"), str) else message for message in messages
    ]


def _without_visible_marks(text: str) -> str:
    return MARK.sub(lambda found: f"{found[1]}—" if found[1] else f"({found[2]})", text)
