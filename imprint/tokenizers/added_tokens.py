"""What the files beside a tokenizer.json change about the tokens that it adds to its vocabulary."""

import re
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Final

from imprint.tokenizers.special_tokens import FLAGS

if TYPE_CHECKING:
    from tokenizers import AddedToken
    from tokenizers import Tokenizer as Rust

BRACKETED: Final = re.compile(r"<.+>|\[.+\]|<\uff5c.+\uff5c>", re.DOTALL)
"""What a special token looks like that the file does not list as one; `pad_token` may be a common word."""


def add_special(rust: "Rust", names: Collection[str]) -> "Rust":
    """The tokenizer with these tokens of its vocabulary as special ones, as transformers adds those that tokenizer_config.json names."""
    from tokenizers import AddedToken

    added = {token.content: token for token in rust.get_added_tokens_decoder().values()}
    for name in sorted(names):
        token = added.get(name)
        known = BRACKETED.fullmatch(name) is not None and rust.token_to_id(name) is not None if token is None else not token.special
        if known:
            flags = {} if token is None else {key: getattr(token, key) for key in ("single_word", "lstrip", "rstrip")}
            rust.add_special_tokens([AddedToken(name, special=True, normalized=False, **flags)])
    return rust


def change_flags(rust: "Rust", flags: Mapping[str, Mapping[str, bool]]) -> "list[AddedToken]":
    """Find the added tokens as tokenizer_config.json says, which transformers adds over those of tokenizer.json; returns what changed."""
    from tokenizers import AddedToken

    added = {token.content: token for token in rust.get_added_tokens_decoder().values()}
    changed = [
        AddedToken(name, special=added[name].special, **{flag: asked.get(flag, getattr(added[name], flag)) for flag in FLAGS})
        for name, asked in flags.items()
        if name in added and any(getattr(added[name], flag) != value for flag, value in asked.items())
    ]
    rust.add_tokens(changed)
    return changed
