"""The tokenizer of a folder's `tokenizer.json`, as transformers reads it: BLOOM, GLM-4-0414, Qwen and most others.

No code of the folder is run. Special tokens are those that the file marks as special; `tokenizer_config.json` names BOS and EOS, and holds
the chat template of many models.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from imprint.files import read_json_object, read_model_file
from imprint.messages import Bilingual, UserError
from imprint.tokenizers.tokenizer import SPACE, decode, readable, well_formed

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Rust

TOKENIZER_JSON: Final = "tokenizer.json"
TOKENIZER_CONFIG: Final = "tokenizer_config.json"
GENERATION_CONFIG: Final = "generation_config.json"
"""File that may name further EOS ids."""
CHAT_TEMPLATE: Final = "chat_template.jinja"
BYTE_DECODERS: Final = frozenset({"ByteLevel"})
PIECE_DECODERS: Final = frozenset({"ByteFallback", "Metaspace", "Replace", "Fuse", "Strip"})


@dataclass(frozen=True)
class SpecialTokens:
    """Special tokens and chat template of a folder."""

    bos_ids: tuple[int, ...]
    """Ids before every text."""
    eos_ids: tuple[int, ...]
    """Ids that end a text; the first one is learned."""
    chat_template: str | None
    """Jinja template of conversations, if any."""
    names: Mapping[str, str]
    """Names of tokens in the chat template (bos_token, eos_token, ...) -> token."""


class HFTokenizer:
    """The tokenizer of a `tokenizer.json`; typed text never becomes a special id."""

    strips_all_leading_spaces = False
    """At most one leading space is removed."""

    def __init__(self, rust: "Rust", decoders: Sequence[Mapping[str, object]], special_tokens: SpecialTokens) -> None:
        self.special_tokens = special_tokens
        added = rust.get_added_tokens_decoder()
        self._rust = rust
        self._lock = Lock()  # `encode_special_tokens` is a setting of the shared tokenizer, and chats may run in threads
        self.controls: Mapping[str, int] = MappingProxyType({token.content: index for index, token in added.items() if token.special})
        """Name -> special id."""
        self._added = {index: token.content.encode() for index, token in added.items()}
        self._added |= dict.fromkeys(self.controls.values(), b"")
        kinds = {str(decoder["type"]) for decoder in decoders}
        self._bytes = _bytes_of_letters() if kinds & BYTE_DECODERS else {}
        self.replaces_each_byte = not self._bytes
        """Whether each invalid byte decodes to one U+FFFD, as with byte pieces; in byte-level vocabularies an incomplete character does."""
        self._strips_first_space = any(decoder["type"] == "Strip" and decoder.get("start") for decoder in decoders) or any(
            decoder["type"] == "Metaspace" and decoder.get("prepend_scheme") != "never" for decoder in decoders
        )
        self._ids: dict[int, int] = {}
        names = sorted(self.controls, key=len, reverse=True)
        self.special_pattern = re.compile(f"({'|'.join(map(re.escape, names))})" if names else "((?!))")
        """Matches the name of any special token, longest first; nothing if there is none."""

    def __len__(self) -> int:
        """Number of ids."""
        return int(self._rust.get_vocab_size())

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without special ids."""
        with self._lock:
            ids = self._rust.encode(well_formed(text), add_special_tokens=False).ids
        return [self._ids.setdefault(token, token) for token in ids]  # one int object per id, shared by all rows to save memory

    def encode_with_special(self, text: str) -> list[int]:
        """Ids of rendered text, in which names of special tokens become their ids."""
        return [token for token, _start, _end in self.encode_with_offsets(text, special=True)]

    def encode_with_offsets(self, text: str, *, special: bool) -> list[tuple[int, int, int]]:
        """(id, start, end) of each token, in characters of a text without lone surrogates; `special` as in `encode_with_special`."""
        with self._lock:
            self._rust.encode_special_tokens = not special
            try:
                encoded = self._rust.encode(well_formed(text), add_special_tokens=False)
            finally:
                self._rust.encode_special_tokens = True
        return [(self._ids.setdefault(token, token), *span) for token, span in zip(encoded.ids, encoded.offsets, strict=True)]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids; special ids and unknown ids are skipped, invalid UTF-8 becomes U+FFFD."""
        return decode(self, ids)

    def token_bytes(self, token: int, *, first: bool = False) -> bytes:
        """The UTF-8 bytes of an id; `first` removes the space that the vocabulary adds before every text."""
        if token in self._added:
            return self._added[token]
        piece = (self._rust.id_to_token(token) if token >= 0 else None) or ""
        if self._bytes:
            return bytes([self._bytes[letter] for letter in piece]) if self._bytes.keys() >= set(piece) else piece.encode()
        if len(piece) == len("<0x00>") and piece.startswith("<0x"):
            return bytes([int(piece[3:5], 16)])
        return (piece.removeprefix(SPACE) if first and self._strips_first_space else piece).replace(SPACE, " ").encode()

    def token_text(self, token: int) -> str:
        """A readable form of an id; empty for an id without text."""
        return readable(self.token_bytes(token))


def read_hf_tokenizer(file: Path, config: Mapping[str, object]) -> HFTokenizer:
    """Read a `tokenizer.json` and the files beside it.

    Raises UserError for a broken file, for special tokens that can be typed, and for a vocabulary larger than that of `config` (the
    folder's config.json).
    """
    from tokenizers import Tokenizer

    content = read_model_file(file, "a tokenizer")
    try:
        fields = json.loads(content)
        rust = Tokenizer.from_str(content.decode())
    except Exception as error:  # the library raises nothing narrower
        raise UserError(
            Bilingual(
                f"{file} ({len(content)} bytes) cannot be read as a tokenizer ({error}). Download the file again.",
                "无法读取该分词器：请重新下载。",
            )
        ) from error
    rust.no_truncation()
    rust.no_padding()
    with_bos, without_bos = rust.encode("a").ids, rust.encode("a", add_special_tokens=False).ids
    rust.encode_special_tokens = True
    decoders = list(_decoders(fields.get("decoder")))
    if not decoders or any(decoder["type"] not in BYTE_DECODERS | PIECE_DECODERS for decoder in decoders):
        types = ", ".join(str(decoder["type"]) for decoder in decoders) or "none"
        raise UserError(
            Bilingual(
                f'{file}: "decoder" must be ByteLevel, or one of byte pieces as in SentencePiece; found {types}.',
                "不支持这种分词器（decoder）。",
            )
        )
    bos_ids = tuple(with_bos[: with_bos.index(without_bos[0])]) if without_bos else ()
    tokenizer = HFTokenizer(rust, decoders, _read_special_tokens(file.parent, config, rust, bos_ids))
    _refuse_mismatch(file, config, tokenizer)
    return tokenizer


def _decoders(decoder: object) -> Iterator[Mapping[str, object]]:
    """The decoders of a tokenizer.json, sequences flattened."""
    if isinstance(decoder, dict):
        if decoder.get("type") == "Sequence":
            for part in decoder.get("decoders", []):
                yield from _decoders(part)
        else:
            yield decoder


def _refuse_mismatch(file: Path, config: Mapping[str, object], tokenizer: HFTokenizer) -> None:
    size = config.get("vocab_size")
    used = max(tokenizer.controls.values(), default=0)
    if isinstance(size, int) and max(len(tokenizer) - 1, used) >= size:
        raise UserError(
            Bilingual(
                f"{file} needs {max(len(tokenizer), used + 1)} ids, but config.json allows {size} (vocab_size). "
                "Take both files from the same release of the model.",
                "词表与 config.json 不匹配：请从同一版本的模型中取这两个文件。",
            )
        )
    typable = [name for name, token in tokenizer.controls.items() if token in tokenizer.encode(name)]
    if typable:
        raise UserError(
            Bilingual(
                f"{file}: {', '.join(typable[:4])} are special tokens, but a user can type them. Use another vocabulary file.",
                "词表中的控制符可以被用户输入：请换用别的词表文件。",
            )
        )


def _read_special_tokens(folder: Path, config: Mapping[str, object], rust: "Rust", bos_ids: tuple[int, ...]) -> SpecialTokens:
    settings, generation = (
        read_json_object(path) if (path := folder / name).is_file() else {} for name in (TOKENIZER_CONFIG, GENERATION_CONFIG)
    )
    names = {key: _token_text(value) for key, value in settings.items() if key.endswith("_token")}
    eos_id = rust.token_to_id(names["eos_token"]) if names.get("eos_token") else None
    eos_ids = [*_as_ids(eos_id), *_as_ids(config.get("eos_token_id")), *_as_ids(generation.get("eos_token_id"))]
    file = folder / CHAT_TEMPLATE
    template = read_model_file(file, "a chat template").decode() if file.is_file() else _default_template(settings.get("chat_template"))
    texts = MappingProxyType({key: value for key, value in names.items() if value})
    return SpecialTokens(bos_ids, tuple(dict.fromkeys(eos_ids)), template, texts)


def _token_text(value: object) -> str:
    """The text of a token, which may be an object; empty if there is none."""
    text = value.get("content") if isinstance(value, dict) else value
    return text if isinstance(text, str) else ""


def _as_ids(value: object) -> list[int]:
    """A list of ids from a config's id, list or null."""
    values = value if isinstance(value, list) else [value]
    return [token for token in values if isinstance(token, int) and not isinstance(token, bool)]


def _default_template(template: object) -> str | None:
    """The chat template; of several named ones the default one."""
    if isinstance(template, list):
        named = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, dict)}
        template = named.get("default")
    return template if isinstance(template, str) else None


def _bytes_of_letters() -> dict[str, int]:
    """Letter -> byte of a byte-level vocabulary: printable bytes as printable, the others as letters from U+0100 on.

    Source: `bytes_to_unicode` in the GPT-2 release, which every byte-level tokenizer.json follows.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [value for value in range(256) if value not in printable]
    return {chr(value): value for value in printable} | {chr(0x100 + index): value for index, value in enumerate(others)}
