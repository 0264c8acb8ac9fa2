"""The longest token of a tokenizer.json that drops nothing of a text: then n characters have at least n / longest tokens.

In a vocabulary of bytes they are bytes.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Rust

NORMALIZERS: Final = frozenset({"NFC", "NFD", "NFKC", "NFKD", "Lowercase", "Prepend", "Replace"})
SPLITTERS: Final = frozenset({"ByteLevel", "Split", "Digits", "Punctuation", "Metaspace"})
"""Parts that leave nothing out, but for what `_leaves_out` says."""


def keeps_text(fields: Mapping[str, object]) -> bool:
    """Whether each character of a text is known to be in exactly one token of a tokenizer.json, as in published ones of BPE.

    Otherwise a token may stand for any number of characters: unknown ones that are taken together, spaces around an added token, and
    what a normalizer or a splitter leaves out.
    """
    model, added = fields.get("model"), fields.get("added_tokens")
    if not isinstance(model, dict) or model.get("type", "BPE") != "BPE":
        return False
    of_bytes = [_has(fields.get(part), "ByteLevel") for part in ("pre_tokenizer", "decoder")]
    if of_bytes != [True, True] and (any(of_bytes) or not model.get("byte_fallback")):
        return False
    if not isinstance(added, list) or any(not isinstance(token, dict) or token.get("lstrip") or token.get("rstrip") for token in added):
        return False
    return _consists_of(fields.get("normalizer"), NORMALIZERS) and _consists_of(fields.get("pre_tokenizer"), SPLITTERS)


def _has(part: object, kind: str) -> bool:
    """Whether a part is, or has, a step of this type."""
    if isinstance(part, dict):
        return part.get("type") == kind or any(_has(value, kind) for value in part.values())
    return isinstance(part, list) and any(_has(step, kind) for step in part)


def _consists_of(part: object, types: frozenset[str]) -> bool:
    """Whether a part, or all steps of it, are of these types and leave nothing out."""
    if part is None:
        return True
    if not isinstance(part, dict):
        return False
    if part.get("type") == "Sequence":
        steps = part.get("normalizers", part.get("pretokenizers"))
        return isinstance(steps, list) and all(isinstance(step, dict) and _consists_of(step, types) for step in steps)
    return part.get("type") in types and not _leaves_out(part)


def _leaves_out(part: Mapping[str, object]) -> bool:
    pattern = part.get("pattern")
    replaced = pattern.get("String") if isinstance(pattern, dict) else None
    is_letter = isinstance(replaced, str) and len(replaced) == 1 and bool(part.get("content"))
    return part.get("behavior") == "Removed" or (part.get("type") == "Replace" and not is_letter)


def longest_token(rust: "Rust", letters: Mapping[str, int]) -> int | None:
    """Units of the longest token of a tokenizer that `keeps_text`; None if a character may have no token.

    `letters`: those of the bytes in a byte-level vocabulary, whose units are bytes; empty for one whose units are characters.
    """
    vocabulary = rust.get_vocab(with_added_tokens=False)
    needed = letters or [f"<0x{value:02X}>" for value in range(256)]
    if not vocabulary.keys() >= set(needed):
        return None
    units = units_of(rust, letters)
    added = [token.content for token in rust.get_added_tokens_decoder().values()]
    return max(*map(len, vocabulary), *(max(units(name), len(name.encode())) for name in added), 1)


def units_of(rust: "Rust", letters: Mapping[str, int]) -> Callable[[str], int]:
    """A function from a text to the number of units that are divided into tokens."""

    def count(text: str) -> int:
        normalized = text if rust.normalizer is None else rust.normalizer.normalize_str(text)
        return len(normalized.encode()) if letters else len(normalized)

    return count
