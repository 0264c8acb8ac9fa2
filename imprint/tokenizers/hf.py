"""Text to token ids and back by a folder's `tokenizer.json`, as transformers reads it: BLOOM, GLM-4-0414, Qwen and most others.

No code of the folder is run. What steers the model is what the file marks as special; `tokenizer_config.json` names what begins and ends a
text, and holds the chat template of many models.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from imprint.errors import UserError
from imprint.files import read_json_object, read_model_file
from imprint.tokenizers.tokenizer import SPACE, decode, readable, well_formed

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Rust

TOKENIZER_JSON: Final = "tokenizer.json"
TOKENIZER_CONFIG: Final = "tokenizer_config.json"
GENERATION_CONFIG: Final = "generation_config.json"
"""Where a folder may name further ids that end an answer."""
CHAT_TEMPLATE: Final = "chat_template.jinja"
BYTE_DECODERS: Final = frozenset({"ByteLevel"})
PIECE_DECODERS: Final = frozenset({"ByteFallback", "Metaspace", "Replace", "Fuse", "Strip"})


@dataclass(frozen=True)
class SpecialTokens:
    """What a folder says of its texts beside the vocabulary."""

    bos_ids: tuple[int, ...]
    """Ids in front of every text."""
    eos_ids: tuple[int, ...]
    """Ids that end one; the first is the one to learn."""
    chat_template: str | None
    """A Jinja template for conversations, where there is one."""
    names: Mapping[str, str]
    """What the chat template calls them: bos_token, eos_token and the like -> the token."""


class HFTokenizer:
    """The vocabulary of a `tokenizer.json`: typed text never becomes a control id, whatever it says."""

    strips_all_leading_spaces = False
    """A text loses at most one space that nobody typed."""

    def __init__(self, rust: "Rust", decoders: Sequence[Mapping[str, object]], manners: SpecialTokens) -> None:
        self.special_tokens = manners
        added = rust.get_added_tokens_decoder()
        self._rust = rust
        self._lock = Lock()  # a setting of the vocabulary decides whether control tokens are read, and chats may run in threads
        self.special_ids: Mapping[str, int] = MappingProxyType({token.content: index for index, token in added.items() if token.special})
        """The ids that steer the model, by name."""
        self._added = {index: token.content.encode() for index, token in added.items()}
        self._added |= dict.fromkeys(self.special_ids.values(), b"")
        kinds = {str(decoder["type"]) for decoder in decoders}
        self._bytes = _bytes_of_letters() if kinds & BYTE_DECODERS else {}
        self.replaces_each_byte = not self._bytes
        """Byte pieces are shown one by one; bytes of a byte-level vocabulary that could have begun a character are one U+FFFD."""
        self._leading = any(decoder["type"] == "Strip" and decoder.get("start") for decoder in decoders) or any(
            decoder["type"] == "Metaspace" and decoder.get("prepend_scheme") != "never" for decoder in decoders
        )
        self._ids: dict[int, int] = {}
        names = sorted(self.special_ids, key=len, reverse=True)
        self.special_pattern = re.compile(f"({'|'.join(map(re.escape, names))})" if names else "((?!))")
        """Matches the name of any control id, the longest first; nothing where there is none."""

    def __len__(self) -> int:
        """How many ids there are."""
        return int(self._rust.get_vocab_size())

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without control ids."""
        with self._lock:
            ids = self._rust.encode(well_formed(text), add_special_tokens=False).ids
        return [self._ids.setdefault(token, token) for token in ids]  # one int object per id: the rows of a large file share them

    def encode_with_special(self, text: str) -> list[int]:
        """Ids of a text in which control tokens are what they say: only for what a template has rendered."""
        return [token for token, _start, _end in self.encode_with_offsets(text, marked=True)]

    def encode_with_offsets(self, text: str, *, marked: bool) -> list[tuple[int, int, int]]:
        """Each id of `encode`, or of `encode_with_special`, with where its characters begin and end in a text without half characters."""
        with self._lock:
            self._rust.encode_special_tokens = not marked
            try:
                found = self._rust.encode(well_formed(text), add_special_tokens=False)
            finally:
                self._rust.encode_special_tokens = True
        return [(self._ids.setdefault(token, token), *index) for token, index in zip(found.ids, found.offsets, strict=True)]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids; control ids and ids without a piece are skipped, bytes that are no UTF-8 become U+FFFD."""
        return decode(self, ids)

    def token_bytes(self, token: int, *, first: bool = False) -> bytes:
        """The UTF-8 bytes of an id; `first` leaves out the space that the vocabulary puts before every text."""
        if token in self._added:
            return self._added[token]
        piece = (self._rust.id_to_token(token) if token >= 0 else None) or ""
        if self._bytes:
            return bytes([self._bytes[letter] for letter in piece]) if self._bytes.keys() >= set(piece) else piece.encode()
        if len(piece) == len("<0x00>") and piece.startswith("<0x"):
            return bytes([int(piece[3:5], 16)])
        return (piece.removeprefix(SPACE) if first and self._leading else piece).replace(SPACE, " ").encode()

    def token_text(self, token: int) -> str:
        """An id for the eye; empty for an id that stands for no text."""
        return readable(self.token_bytes(token))


def read_hf_tokenizer(file: Path, config: Mapping[str, object]) -> HFTokenizer:
    """Read a `tokenizer.json` and the files beside it.

    Raises UserError where one of them is broken, where control ids could be typed, and where the vocabulary is larger than that of
    `config` (the folder's config.json).
    """
    from tokenizers import Tokenizer

    content = read_model_file(file, "a tokenizer")
    try:
        described = json.loads(content)
        rust = Tokenizer.from_str(content.decode())
    except Exception as error:  # the library raises nothing narrower
        raise UserError(f"{file} ({len(content)} bytes) cannot be read as a tokenizer ({error}). Download the file again.") from error
    rust.no_truncation()
    rust.no_padding()
    begin = [part.ids for part in (rust.encode("a"), rust.encode("a", add_special_tokens=False))]
    rust.encode_special_tokens = True
    decoders = list(_decoders(described.get("decoder")))
    if not decoders or any(decoder["type"] not in BYTE_DECODERS | PIECE_DECODERS for decoder in decoders):
        found = ", ".join(str(decoder["type"]) for decoder in decoders) or "none"
        raise UserError(f'{file}: "decoder" must be ByteLevel, or of byte pieces as SentencePiece has them; found {found}.')
    front = tuple(begin[0][: begin[0].index(begin[1][0])]) if begin[1] else ()
    tokenizer = HFTokenizer(rust, decoders, _read_special_tokens(file.parent, config, rust, front))
    _refuse_mismatch(file, config, tokenizer)
    return tokenizer


def _decoders(decoder: object) -> Iterator[Mapping[str, object]]:
    """The decoders of a tokenizer.json, those of a sequence one by one."""
    if isinstance(decoder, dict):
        if decoder.get("type") == "Sequence":
            for part in decoder.get("decoders", []):
                yield from _decoders(part)
        else:
            yield decoder


def _refuse_mismatch(file: Path, config: Mapping[str, object], tokenizer: HFTokenizer) -> None:
    size = config.get("vocab_size")
    used = max(tokenizer.special_ids.values(), default=0)
    if isinstance(size, int) and max(len(tokenizer) - 1, used) >= size:
        raise UserError(
            f"{file} needs {max(len(tokenizer), used + 1)} ids, but config.json allows {size} (vocab_size). "
            "Take both files from the same release of the model."
        )
    typed = [name for name, control in tokenizer.special_ids.items() if control in tokenizer.encode(name)]
    if typed:
        raise UserError(f"{file}: {', '.join(typed[:4])} can be typed by a user, though they steer the model. Use another vocabulary file.")


def _read_special_tokens(folder: Path, config: Mapping[str, object], rust: "Rust", begin: tuple[int, ...]) -> SpecialTokens:
    settings, generation = (
        read_json_object(path) if (path := folder / name).is_file() else {} for name in (TOKENIZER_CONFIG, GENERATION_CONFIG)
    )
    names = {key: _token_text(value) for key, value in settings.items() if key.endswith("_token")}
    named = rust.token_to_id(names["eos_token"]) if names.get("eos_token") else None
    ends = [*_as_ids(named), *_as_ids(config.get("eos_token_id")), *_as_ids(generation.get("eos_token_id"))]
    own = folder / CHAT_TEMPLATE
    template = read_model_file(own, "a chat template").decode() if own.is_file() else _default_template(settings.get("chat_template"))
    texts = MappingProxyType({key: value for key, value in names.items() if value})
    return SpecialTokens(begin, tuple(dict.fromkeys(ends)), template, texts)


def _token_text(value: object) -> str:
    """The text of a token, which may be written as an object."""
    found = value.get("content") if isinstance(value, dict) else value
    return found if isinstance(found, str) else ""


def _as_ids(value: object) -> list[int]:
    """An id, or several, as a config has them."""
    several = value if isinstance(value, list) else [value]
    return [token for token in several if isinstance(token, int) and not isinstance(token, bool)]


def _default_template(template: object) -> str | None:
    """The chat template, the default one where there are several by name."""
    if isinstance(template, list):
        named = {one.get("name"): one.get("template") for one in template if isinstance(one, dict)}
        template = named.get("default")
    return template if isinstance(template, str) else None


def _bytes_of_letters() -> dict[str, int]:
    """How a byte-level vocabulary writes bytes: printable ones as themselves, the others as the letters from U+0100 on.

    Source: `bytes_to_unicode` in the GPT-2 release, which every byte-level tokenizer.json follows.
    """
    themselves = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [value for value in range(256) if value not in themselves]
    return {chr(value): value for value in themselves} | {chr(0x100 + index): value for index, value in enumerate(others)}
