"""Special tokens of chat models, typed in a text: they stay text there, and show that another tool has formatted it."""

import re
from collections import Counter
from collections.abc import Iterable
from typing import Final

from imprint.tokenizers import THOUGHTS

SPECIAL_TOKEN: Final = (
    r"\[(?:[gs]?MASK|CLS|SEP|PAD|UNK|EOS|BOS|/?INST)\]"
    r"|</?s>|<(?:sop|eop|eod|bos|eos|pad|unk|ENC|dBLOCK|start_of_turn|end_of_turn|eo[ahm]|eot|_(?:end|user|bot|system))>"
    r"|<(?:unused_?|reserved_|TOKENS_UNUSED_)\d{1,4}>|<</?SYS>>"
    r"|<[|｜](?!tab\||blank_\d)[A-Za-z][A-Za-z0-9_▁]{0,40}[|｜]>"
)
"""Pattern of one special token, of any published model; <|tab|> and <|blank_8|> are text of ChatGLM-6B."""
LONGEST_TOKEN: Final = 48
"""Maximum characters of a special token."""
FOUND: Final = re.compile(SPECIAL_TOKEN)
LEADING: Final = re.compile(rf"(?:\s*(?:{SPECIAL_TOKEN}))*")
LAST: Final = re.compile(rf"(?:{SPECIAL_TOKEN})\Z")
CLOSED_THOUGHTS: Final = re.compile(rf"</{THOUGHTS}>", re.IGNORECASE)
"""The end of thoughts in an answer."""


def count_special_tokens(texts: Iterable[str]) -> Counter[str]:
    """Special token -> number of texts that hold it."""
    return Counter(token for text in texts for token in set(FOUND.findall(text)))


def has_special_token(text: str) -> bool:
    """Whether a text holds a special token."""
    return FOUND.search(text) is not None


def has_closed_thoughts(text: str) -> bool:
    """Whether a text holds thoughts that end in it."""
    return CLOSED_THOUGHTS.search(text) is not None


def without_edge_tokens(text: str) -> str:
    """The text without the special tokens before and after it, which a template left there."""
    found = LEADING.match(text)
    start, end = (found.end() if found else 0), len(text)
    before = end
    while True:
        while before > start and text[before - 1].isspace():
            before -= 1
        token = LAST.search(text, max(start, before - LONGEST_TOKEN), before)
        if token is None:
            return text[start:end]
        before = end = token.start()
