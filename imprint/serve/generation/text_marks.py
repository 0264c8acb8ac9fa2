"""Marks of turns that are plain text: `[Round 1]`, `问：` and `答：` of ChatGLM-6B, ChatGLM2-6B and the template `plain`.

A tokenizer cannot tell them from what a user typed, as it can a control token. Here they are changed in what users send.
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Final

from imprint.tokenizers import Tokenizer, refuse_more_tokens, text_as_read

TEMPLATES: Final = frozenset({"chatglm", "chatglm2", "plain"})
"""Templates with such marks."""
MARK: Final = re.compile(r"([问答])[^\S\n]*[:：﹕︓]|[\[［﹇]([^\S\n]*Round[^\S\n]*\d+[^\S\n]*)[\]］﹈]", re.IGNORECASE)
INVISIBLE: Final = re.compile(
    r"[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0]"
)
"""Characters that are not seen, also where a vocabulary has them."""
LETTERS: Final = re.compile(r"[问答]|Round", re.IGNORECASE)
TRIES: Final = 4
"""How often marks are looked for: what stands in their place must be read as no mark, too."""
MAX_OVERCOUNT: Final = 3
"""Messages that are encoded one by one have, in all, less than this many times the ids of their prompt. They can have more ids than it,
because a vocabulary may put a space before each text; but the prompt has the marks of each turn besides."""


def messages_without_marks(messages: Sequence[Mapping[str, object]], tokenizer: Tokenizer) -> list[Mapping[str, object]]:
    """Messages, of whatever role, in whose texts `问：` is `问—`, and `[Round 1]` is `(Round 1)`; all else stays as it is.

    Where a mark is hidden, by characters that the vocabulary drops or takes for others, the text is as the vocabulary reads it. Raises
    TooManyTokensError where the prompt must have too many tokens.
    """
    changed, count = [], 0
    for message in messages:
        text = message.get("content")
        if isinstance(text, str):
            text, ids = _neutralized(text, tokenizer)
            refuse_more_tokens((count := count + ids) // MAX_OVERCOUNT)
        changed.append({**message, "content": text} if "content" in message else message)
    return changed


def _neutralized(text: str, tokenizer: Tokenizer) -> tuple[str, int]:
    """The text without marks, and the number of its ids."""
    text = _without_visible_marks(text)
    for _ in range(TRIES):
        ids = tokenizer.encode(text)
        usual = unicodedata.normalize("NFKC", INVISIBLE.sub("", text_as_read(tokenizer, ids)))
        if not MARK.search(usual):
            return text, len(ids)
        text = _without_visible_marks(usual)
    text = LETTERS.sub("", text)
    return text, len(tokenizer.encode(text))


def _without_visible_marks(text: str) -> str:
    return MARK.sub(lambda found: f"{found[1]}—" if found[1] else f"({found[2]})", text)
