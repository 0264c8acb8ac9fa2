"""The tokenizer of a folder's `tokenizer.json`, as transformers reads it: BLOOM, GLM-4-0414, Qwen and most others.

No code of the folder is run. Special tokens are those that the file marks as special; `tokenizer_config.json` names BOS and EOS, and holds
the chat template of many models.
"""

import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import chain
from pathlib import Path
from threading import Lock
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from imprint.arguments import integer
from imprint.files.reading import read_model_file
from imprint.messages import Bilingual, UserError
from imprint.tokenizers.added_tokens import add_special, change_flags
from imprint.tokenizers.prompt_limit import refuse_long_text, refuse_more_tokens
from imprint.tokenizers.special_tokens import SpecialTokens, pattern_of_names, read_special_tokens, tell_of_missing
from imprint.tokenizers.token_length import keeps_text, longest_token, units_of
from imprint.tokenizers.tokenizer import REPLACEMENT, SPACE, decode, readable, well_formed
from imprint.tokenizers.trial import refuse_harmful, refuse_large, without_merges

if TYPE_CHECKING:
    from tokenizers import Encoding
    from tokenizers import Tokenizer as Rust

TOKENIZER_JSON: Final = "tokenizer.json"
BYTE_DECODERS: Final = frozenset({"ByteLevel"})
PIECE_DECODERS: Final = frozenset({"ByteFallback", "Metaspace", "Replace", "Fuse", "Strip"})
MAX_REASON: Final = 200
"""Characters of the library's own error message that are repeated."""
ESCAPE_MARK: Final = "\ufdd0"
"""Noncharacter inside a special token that somebody typed, so that it stays text in a rendered conversation."""
ANCHOR: Final = "\ufdd1"
"""Noncharacter that stands for the special token before a text that is encoded alone."""
THOUGHTS: Final = r"[\w:.-]*(?:think|thought|reason)[\w:.-]*"
"""Pattern of the name of a tag around thoughts, such as `think` and `seed:think`."""
THOUGHT_TAG: Final = re.compile(rf"</?({THOUGHTS})>", re.IGNORECASE)
"""A tag of thoughts: a part of answers, whatever the file says."""
LONG_TEXT: Final = 2000
"""Characters from which a text is encoded as a batch: `encode` of the library keeps the interpreter from all other threads, for a
second where the text has a million."""
MAX_WORDS: Final = 4096
"""Beginnings of words whose ids are kept."""
MAX_WORD: Final = 16
"""Characters of the longest one of them."""
Offsets = list[tuple[int, int, int]]
"""(id, start, end) of tokens, in characters."""


class _OneObject(dict[int, int]):
    """Each number as one object, which all rows share, to save memory."""

    def __missing__(self, number: int) -> int:
        self[number] = number
        return number


class HFTokenizer:
    """The tokenizer of a `tokenizer.json`; typed text never becomes a special id."""

    strips_all_leading_spaces = False
    """At most one leading space is removed."""

    def __init__(
        self, rust: "Rust", decoders: Sequence[Mapping[str, object]], special_tokens: SpecialTokens, *, keeps_text: bool = False
    ) -> None:
        self.special_tokens = special_tokens
        added = rust.get_added_tokens_decoder()
        self._rust = rust
        self._keeps_text = keeps_text
        self._anchored: Rust | None = None
        self._decoders = decoders
        self._lock = Lock()  # `encode_special_tokens` is a setting of the shared tokenizer, and chats may run in threads
        special = {token.content: index for index, token in added.items() if token.special}
        tags = {name for name in special if (tag := THOUGHT_TAG.fullmatch(name)) and {f"<{tag[1]}>", f"</{tag[1]}>"} <= special.keys()}
        self.controls: Mapping[str, int] = MappingProxyType({name: index for name, index in special.items() if name not in tags})
        """Name -> special id."""
        self._special_names = {index: name for name, index in self.controls.items()}
        self._special_ids = frozenset(special.values())
        in_model = {name: index for name, index in self.controls.items() if rust.model.token_to_id(name) is not None}
        self._typable = frozenset(index for name, index in in_model.items() if index in _ids_of_name(rust, name))
        """Special ids that the vocabulary makes of typed names."""
        self.added: Mapping[str, int] = MappingProxyType({token.content: index for index, token in added.items()})
        """Name -> id of every token that the file adds to its vocabulary, special or not."""
        self._added = {index: token.content.encode() for index, token in added.items()}
        self._added |= dict.fromkeys(self.controls.values(), b"")
        kinds = {str(decoder["type"]) for decoder in decoders}
        self._bytes = bytes_of_letters() if kinds & BYTE_DECODERS else {}
        self.replaces_each_byte = not self._bytes
        """Whether each invalid byte decodes to one U+FFFD, as with byte pieces; in byte-level vocabularies an incomplete character does."""
        self._strips_first_space = any(decoder["type"] == "Strip" and decoder.get("start") for decoder in decoders) or any(
            decoder["type"] == "Metaspace" and decoder.get("prepend_scheme") != "never" for decoder in decoders
        )
        self._ids = _OneObject()
        self._words: dict[str, list[int]] = {}
        self._whole_words = bool(getattr(rust.model, "ignore_merges", False) or getattr(rust.model, "end_of_word_suffix", None))
        """Whether the ids of a word may change as a whole when letters follow it."""
        self._single_words = any(token.single_word for token in added.values())
        """Whether the file adds tokens that are read only where no letter follows them."""
        self._beyond: Mapping[int, str] = {}
        self._limit: tuple[Path, int] | None = None
        self.special_pattern = pattern_of_names(self.controls)
        """Matches the name of any special token, longest first; nothing if there is none."""

    def __len__(self) -> int:
        """Number of ids."""
        return int(self._rust.get_vocab_size())

    def with_special(self, names: Collection[str]) -> "HFTokenizer":
        """A tokenizer that treats these tokens, which the file adds as ordinary ones, as special; this one if there are none."""
        if not names:
            return self
        tokenizer = HFTokenizer(add_special(self._rust, names), self._decoders, self.special_tokens, keeps_text=self._keeps_text)
        if self._limit is not None:
            tokenizer.limit(*self._limit)
        return tokenizer

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without special ids, whatever the vocabulary makes of their names."""
        self._refuse_long(text := well_formed(text))
        return self._text_ids(text, self._encode_text(text).ids)

    def encode_parts(self, *texts: str) -> list[list[int]]:
        """Ids of each of these texts as it stands after those before it, whatever follows it; a token that reaches over an end is split.

        Nothing in them is special. All are encoded in one call, unless a vocabulary could read an end otherwise if nothing followed.
        """
        parts = [well_formed(text) for text in texts]
        self._refuse_long(whole := "".join(parts))
        encoded = self._encode_text(whole)
        given = encoded.ids
        ids = self._text_ids(whole, given)
        unchanged = not self._typable or ids == given
        after: list[list[int]] = []
        while len(parts) > 1:
            position = len(whole) - len(parts.pop())
            count = self._tokens_before(position, encoded, whole) if unchanged else None
            if count is None:
                known = self.encode_parts(*parts)
                first = list(chain.from_iterable(known))
                if ids[: len(first)] == first:
                    return [*known, ids[len(first) :], *reversed(after)]
                spans = zip(ids, encoded.offsets, strict=False)
                tokens = [(token, *span) for token, span in spans] if unchanged else self._encode_typed(self._rust, whole)
                return [*known, self._split(tokens, whole, position), *reversed(after)]
            after.append(ids[count:])
            ids, whole = ids[:count], whole[:position]
        return [ids, *reversed(after)]

    def _tokens_before(self, position: int, encoded: "Encoding", whole: str) -> int | None:
        """The number of tokens before a position in a text; None if what follows it may change their ids.

        That is so at a token that reaches over the position, after spaces and digits, which vocabularies group by what follows them, and
        inside of a word if the vocabulary knows words as a whole and has other ids for the part of it.
        """
        if position in (0, len(whole)):
            return len(encoded) if position else 0
        token, letter = encoded.char_to_token(position), whole[position - 1]
        span = None if token is None else encoded.token_to_chars(token)
        if span is None or span[0] != position or letter.isspace() or letter.isnumeric():
            return None
        word_before = encoded.char_to_word(position - 1)  # None of a combining mark that is composed with the letter before it
        within_word = (self._whole_words or self._single_words) and word_before in (None, encoded.char_to_word(position))
        return None if within_word and not self._keeps_ids(position, encoded, whole) else token

    def _keeps_ids(self, position: int, encoded: "Encoding", whole: str) -> bool:
        """Whether the beginning of a word has the same ids without the rest of the word, which begins at this position."""
        word = encoded.char_to_word(position)
        start = None if word is None or self._single_words else encoded.word_to_chars(word)
        if start is None:
            return False
        return self._word_ids(whole[start[0] : position]) == encoded.ids[encoded.char_to_token(start[0]) : encoded.char_to_token(position)]

    def _word_ids(self, word: str) -> list[int]:
        """What the library makes of a text that is the beginning of a word; rows often end with the same ones."""
        ids = self._words.get(word)
        if ids is None:
            ids = self._encode_text(word).ids
            if len(self._words) < MAX_WORDS and len(word) <= MAX_WORD:
                self._words[word] = ids
        return ids

    def _refuse_long(self, text: str) -> None:
        """Raise TooManyTokensError for a text that must have more tokens than a prompt may have."""
        if self._keeps_text:
            refuse_long_text(text, self._longest, lambda part: self._units(part.replace(ESCAPE_MARK, "")))

    @cached_property
    def _longest(self) -> int | None:
        return longest_token(self._rust, self._bytes)

    @cached_property
    def _units(self) -> Callable[[str], int]:
        return units_of(self._rust, self._bytes)

    def _encode_text(self, text: str) -> "Encoding":
        """The library's encoding of a text. Raises TooManyTokensError for one of more tokens than a prompt may have."""
        with self._lock:
            encoded = _encode(self._rust, text)
        refuse_more_tokens(len(encoded))  # before they are copied, which takes as long again
        return encoded

    def _text_ids(self, text: str, ids: list[int]) -> list[int]:
        """The ids of a text from those that the library gives it: none is special. One int object per id, to save memory."""
        if self._typable and not self._typable.isdisjoint(ids):
            return [token for token, _start, _end in self._encode_typed(self._rust, text)]
        if self._beyond:
            self._refuse_beyond(ids)
        return list(map(self._ids.__getitem__, ids))

    def encode_rendered(self, text: str) -> list[int]:
        """Ids of a rendered conversation: names of special tokens become their ids, unless an ESCAPE_MARK marks them as typed."""
        if ESCAPE_MARK in text:
            return [token for token, _start, _end in self.encode_rendered_with_offsets(text)]
        return list(map(self._ids.__getitem__, self._encode_special(well_formed(text)).ids))

    def encode_rendered_with_offsets(self, text: str) -> Offsets:
        """(id, start, end) of each token as in `encode_rendered`, in characters of the text without ESCAPE_MARK and lone surrogates."""
        text = well_formed(text)
        encoded = self._encode_special(text)
        tokens = [(self._ids[token], *span) for token, span in zip(encoded.ids, encoded.offsets, strict=True)]
        return self._with_typed_names(text, tokens) if ESCAPE_MARK in text else tokens

    def encode_after(self, before: str, text: str) -> list[int]:
        """Ids of `text` as it stands after `before`, both rendered; a token that holds an end of `before` is split there."""
        joined, first = self.encode_rendered(before + text), self.encode_rendered(before)
        if joined[: len(first)] == first:
            return joined[len(first) :]
        whole = well_formed((before + text).replace(ESCAPE_MARK, ""))
        return self._split(self.encode_rendered_with_offsets(before + text), whole, len(well_formed(before.replace(ESCAPE_MARK, ""))))

    def _split(self, tokens: Offsets, text: str, border: int) -> list[int]:
        """The ids after a border in a text; the end of a token that reaches over it is encoded anew."""
        split = max((end for _token, start, end in tokens if start < border < end), default=border)
        return [*self._encode_rest(text[border:split]), *(token for token, start, end in tokens if start >= split and end > border)]

    def _encode_rest(self, text: str) -> list[int]:
        """Ids of the end of a token, without the space that some vocabularies put before a text."""
        newline, joined = self.encode("\n"), self.encode("\n" + text)
        return joined[len(newline) :] if joined[: len(newline)] == newline else self._spell(text)

    def _encode_special(self, text: str) -> "Encoding":
        """The library's encoding of a text in which names of special tokens become their ids."""
        self._refuse_long(text)
        with self._lock:
            self._rust.encode_special_tokens = False
            try:
                encoded = _encode(self._rust, text)
            finally:
                self._rust.encode_special_tokens = True
        if ESCAPE_MARK not in text:  # whose tokens are left out
            refuse_more_tokens(len(encoded))
        self._refuse_beyond(encoded.ids)
        return encoded

    def _with_typed_names(self, text: str, tokens: Offsets) -> Offsets:
        """The tokens; stretches between special tokens that hold an ESCAPE_MARK are encoded as text, turn delimiters keep their ids.

        A stretch is encoded after an ANCHOR, because some vocabularies put a space before the first word of a text.
        """
        result: Offsets = []
        stretch: Offsets = []
        start = removed = 0
        for token, first, last in [*tokens, (-1, len(text), len(text))]:
            if token >= 0 and token not in self._special_ids:
                stretch.append((token, first, last))
                continue
            raw = text[start:first]
            clean = raw.replace(ESCAPE_MARK, "")
            if len(clean) < len(raw):
                typed = self._encode_after_anchor(clean) if start else self._encode_typed(self._rust, clean)
                result += ((one, start - removed + begin, start - removed + end) for one, begin, end in typed)
            else:
                result += ((one, begin - removed, end - removed) for one, begin, end in stretch)
            removed += len(raw) - len(clean)
            if token >= 0:
                result.append((token, first - removed, last - removed))
            start, stretch = last, []
        return result

    def _encode_after_anchor(self, text: str) -> Offsets:
        """The tokens of a text after a special token. The tokenizer that knows ANCHOR is made when it is first needed."""
        if self._anchored is None:
            from tokenizers import AddedToken, Tokenizer

            anchored = Tokenizer.from_str(self._rust.to_str())
            anchored.encode_special_tokens = True
            anchored.add_tokens([AddedToken(ANCHOR, special=False, normalized=False)])
            self._anchored = anchored
        tokens = self._encode_typed(self._anchored, ANCHOR + text.replace(ANCHOR, REPLACEMENT))
        return [(token, start - 1, end - 1) for token, start, end in tokens[1:]]

    def _encode_typed(self, rust: "Rust", text: str) -> Offsets:
        """(id, start, end) of the tokens of a text; where the vocabulary makes a special id of a name, its characters instead."""
        with self._lock:
            encoded = _encode(rust, text)
        tokens: Offsets = []
        for token, (start, end) in zip(encoded.ids, encoded.offsets, strict=True):
            name = self._special_names.get(token)
            if name is None or name not in text[start:end]:  # else the id of unknown characters
                tokens.append((self._ids[token], start, end))
            else:
                tokens += ((one, start, end) for one in self._spell(name))
        self._refuse_beyond([token for token, _start, _end in tokens])
        return tokens

    def _spell(self, text: str) -> list[int]:
        """Ids of a text, each character or byte on its own; characters that the vocabulary lacks are left out."""
        if self._bytes:
            letters = {value: letter for letter, value in self._bytes.items()}
            pieces = [letters[value] for value in text.encode()]
        else:
            pieces = []
            for letter in text.replace(" ", SPACE):
                known = self._rust.token_to_id(letter) is not None
                pieces += [letter] if known else [f"<0x{value:02X}>" for value in letter.replace(SPACE, " ").encode()]
        ids = [self._rust.token_to_id(piece) for piece in pieces]
        return [token for token in ids if token is not None]

    def limit(self, file: Path, size: int) -> None:
        """Refuse ids from `size` on whenever a text gives one; `file` is named in the errors.

        Raises UserError at once if they are more than added tokens, or are BOS or the learned EOS.
        """
        self._limit = file, size
        if max(len(self) - 1, *self._added, *self.special_tokens.bos_ids, *self.special_tokens.eos_ids[:1], 0) < size:
            return
        beyond = {token: name for name, token in self._rust.get_vocab(with_added_tokens=True).items() if token >= size}
        self._beyond = {token: name for token, name in beyond.items() if token in self._added}
        needed = [*self.special_tokens.bos_ids, *self.special_tokens.eos_ids[:1]]
        if len(self._beyond) < len(beyond) or any(token >= size for token in needed):
            raise UserError(
                Bilingual(
                    f"{file} needs {max([*beyond, *needed]) + 1} ids, but config.json allows {size} (vocab_size). "
                    "Take both files from the same release of the model.",
                    f"{file}：词表与 config.json 不匹配：请从同一版本的模型中取这两个文件。",
                )
            )

    def _refuse_beyond(self, ids: Sequence[int]) -> None:
        if self._limit is not None and self._beyond and not self._beyond.keys().isdisjoint(ids):
            file, size = self._limit
            token = next(token for token in ids if token in self._beyond)
            raise UserError(
                Bilingual(
                    f"{file}: {self._beyond[token]!r} has the id {token}, but the model has only {size} (vocab_size in "
                    "config.json), so no row may contain it. Take it out of the text or the chat template.",
                    f"{file}：{self._beyond[token]!r} 的 id 是 {token}，而模型只有 {size} 个（vocab_size）：请从文本或模板中去掉它。",
                )
            )

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids; special ids and unknown ids are skipped, invalid UTF-8 becomes U+FFFD."""
        return decode(self, ids)

    def token_bytes(self, token: int, *, first: bool = False) -> bytes:
        """The UTF-8 bytes of an id; `first` removes the space that the vocabulary adds before every text."""
        token = integer("token", token)
        if token in self._added:
            return self._added[token]
        piece = (self._rust.id_to_token(token) if 0 <= token < 2**32 else None) or ""
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

    Raises UserError for a broken file, and for a vocabulary larger than that of `config` (the folder's config.json) by more than added
    tokens; those are refused in the texts that have them.
    """
    from tokenizers import Tokenizer

    content = read_model_file(file, "a tokenizer")
    refuse_large(file, content)
    try:
        fields = json.loads(without_merges(content))
        refuse_harmful(file, content, fields if isinstance(fields, dict) else {}, config.get("vocab_size"))
        decoders = list(_decoders(fields.get("decoder") if isinstance(fields, dict) else None))
        keeps = isinstance(fields, dict) and keeps_text(fields)
        del fields  # before the library takes as much memory again
        (rust := Tokenizer.from_buffer(content)).no_truncation()
        rust.no_padding()
        if getattr(rust.model, "dropout", None):
            rust.model.dropout = None  # else the same text has other ids each time
        with_bos, without_bos = rust.encode("a").ids, rust.encode("a", add_special_tokens=False).ids
    except BaseException as error:
        reason = _library_reason(error)
        raise UserError(
            Bilingual(
                f"{file} ({len(content)} bytes) cannot be read as a tokenizer ({reason}). Download the file again.",
                f"{file}：无法读取该分词器：请重新下载。",
            )
        ) from error
    rust.encode_special_tokens = True
    if not decoders or any(decoder["type"] not in BYTE_DECODERS | PIECE_DECODERS for decoder in decoders):
        types = ", ".join(str(decoder["type"]) for decoder in decoders) or "none"
        raise UserError(
            Bilingual(
                f'{file}: "decoder" must be ByteLevel, or one of byte pieces as in SentencePiece; found {types}.',
                f"{file}：不支持这种分词器（decoder）。",
            )
        )
    bos_ids = tuple(with_bos[: with_bos.index(without_bos[0])]) if without_bos else ()
    special_tokens = read_special_tokens(file.parent, config, bos_ids, rust.token_to_id)
    tell_of_missing(file, sorted(name for name in special_tokens.added if rust.token_to_id(name) is None))
    ends = {rust.id_to_token(token) or "" for token in special_tokens.eos_ids}
    names = {*special_tokens.names.values(), *ends, *special_tokens.listed}
    if changed := change_flags(rust, special_tokens.flags):
        keeps = keeps and not any(token.lstrip or token.rstrip for token in changed)
    tokenizer = HFTokenizer(add_special(rust, names), decoders, special_tokens, keeps_text=keeps)
    if isinstance(size := config.get("vocab_size"), int):
        tokenizer.limit(file, size)
    return tokenizer


def _library_reason(error: BaseException) -> str:
    """What the library says of a failure: it raises nothing narrower than Exception, and panics beside it. Any other error is raised."""
    if isinstance(error, UserError) or not (isinstance(error, Exception) or type(error).__name__ == "PanicException"):
        raise error
    return " ".join(str(error).split())[:MAX_REASON]


def _encode(rust: "Rust", text: str) -> "Encoding":
    """The library's encoding of a text, without what begins every text. Raises UserError for a text on which the library fails."""
    try:
        if len(text) < LONG_TEXT:
            return rust.encode(text, add_special_tokens=False)
        return rust.encode_batch([text], add_special_tokens=False)[0]
    except BaseException as error:
        reason = _library_reason(error)
        raise UserError(
            Bilingual(
                f"tokenizer.json cannot encode a text of {len(text)} characters, {text[:20]!r} ... ({reason}). "
                "Take the file of the model's own release, or leave the text out.",
                "该分词器无法编码这段文本：请使用官方的 tokenizer.json，或去掉该文本。",
            )
        ) from error


def _ids_of_name(rust: "Rust", name: str) -> list[int]:
    """The ids of a name that is typed at the start of a text, after a letter and after a space; not those of unknown characters."""
    text = f"{name}a{name} {name}"
    encoded = _encode(rust, text)
    return [token for token, (start, end) in zip(encoded.ids, encoded.offsets, strict=True) if name in text[start:end]]


def _decoders(decoder: object) -> Iterator[Mapping[str, object]]:
    """The decoders of a tokenizer.json, sequences flattened."""
    if isinstance(decoder, dict):
        if decoder.get("type") == "Sequence":
            for part in decoder.get("decoders", []):
                yield from _decoders(part)
        else:
            yield decoder


def bytes_of_letters() -> dict[str, int]:
    """Letter -> byte of a byte-level vocabulary: printable bytes as printable, the others as letters from U+0100 on.

    Source: `bytes_to_unicode` in the GPT-2 release, which every byte-level tokenizer.json follows.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [value for value in range(256) if value not in printable]
    return {chr(value): value for value in printable} | {chr(0x100 + index): value for index, value in enumerate(others)}
