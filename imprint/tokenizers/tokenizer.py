"""The tokenizer protocol, and incremental decoding."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Final, Protocol

from imprint.arguments import token_ids, wrong_argument

if TYPE_CHECKING:
    from sentencepiece import SentencePieceProcessor

SPACE: Final = "\u2581"
"""A space in a piece, as in SentencePiece and in readable tokens."""
REPLACEMENT: Final = "\ufffd"
"""Replaces invalid bytes."""
UNKNOWN: Final = "\U0010fffd"
"""A character of private use, which vocabularies lack."""


class Tokenizer(Protocol):
    """Text to ids and back; typed text never becomes a special id."""

    @property
    def controls(self) -> Mapping[str, int]:
        """Name -> special id."""

    @property
    def strips_all_leading_spaces(self) -> bool:
        """Whether decoding removes all leading spaces of a text, or only that of its first piece."""

    @property
    def replaces_each_byte(self) -> bool:
        """Whether each invalid byte decodes to one U+FFFD, or all bytes of an incomplete character together."""

    def __len__(self) -> int:
        """Number of pieces in the vocabulary."""

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without special ids. Surrogate pairs are joined, lone surrogates replaced."""

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids; special ids and unknown ids are skipped, invalid UTF-8 becomes U+FFFD."""

    def token_bytes(self, token: int, *, first: bool = False) -> bytes:
        """The UTF-8 bytes of an id, perhaps a part of a character; empty for an id without text.

        `first`: without the space that the vocabulary adds before a text, if it does.
        """

    def token_text(self, token: int) -> str:
        """A readable form of an id, spaces as ▁ and parts of characters as <0xE4>; empty for an id without text."""


class TextStream:
    """Decodes ids incrementally: the joined output equals `decode` of all ids."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._buffer = bytearray()
        self._started = False

    def push(self, token: int) -> str:
        """The complete characters that this id adds; an incomplete character is buffered."""
        fragment = self._tokenizer.token_bytes(token, first=not self._started)
        if not self._started:
            self._started = bool(fragment) if self._tokenizer.strips_all_leading_spaces else bool(self._tokenizer.token_bytes(token))
        self._buffer += fragment
        return "".join(self._characters(last=False))

    def finish(self) -> str:
        """The rest of the buffer; an incomplete character becomes U+FFFD."""
        return "".join(self._characters(last=True))

    def _characters(self, *, last: bool) -> Iterator[str]:
        while self._buffer:
            try:
                text = self._buffer.decode()
            except UnicodeDecodeError as error:
                yield self._buffer[: error.start].decode()
                del self._buffer[: error.start]
                if error.reason == "unexpected end of data" and not last:
                    return
                invalid = error.end - error.start
                yield REPLACEMENT * (invalid if self._tokenizer.replaces_each_byte else 1)
                del self._buffer[:invalid]
            else:
                self._buffer.clear()
                yield text


def decode(tokenizer: Tokenizer, ids: Iterable[int]) -> str:
    """The text of ids, see `Tokenizer.decode`."""
    stream = TextStream(tokenizer)
    text = "".join([stream.push(token) for token in token_ids("ids", ids)])
    return text + stream.finish()


def text_as_read(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    """What a model reads in ids: the text in the vocabulary's own forms, without the characters that it drops or does not know.

    Texts with the same ids have the same one, whatever was typed. As `decode`, but in a tenth of its time for a long text.
    """
    pieces = {token: tokenizer.token_bytes(token) for token in set(ids)}
    first = [tokenizer.token_bytes(token, first=True) for token in ids[:1]]
    return b"".join([*first, *map(pieces.__getitem__, ids[1:])]).decode(errors="replace")


def followers(pieces: Iterable[str], letter: str) -> frozenset[str]:
    """The characters that follow a letter within a piece."""
    return frozenset(after for piece in pieces if letter in piece for before, after in pairwise(piece) if before == letter)


def longest_piece(processor: "SentencePieceProcessor") -> int | None:
    """Characters of the longest piece of a SentencePiece vocabulary; None if several unknown characters may become one token."""
    if len(processor.encode(UNKNOWN)) < len(processor.encode(UNKNOWN * 3)):
        return max(len(processor.id_to_piece(index)) for index in range(len(processor)))
    return None


def readable(fragment: bytes) -> str:
    """The bytes of an id in readable form: see `Tokenizer.token_text`."""
    try:
        return fragment.decode().replace(" ", SPACE)
    except UnicodeDecodeError:
        return "".join([f"<0x{value:02X}>" for value in fragment])


def well_formed(text: str) -> str:
    """The text with surrogate pairs joined and lone surrogates replaced, as all tokenizer libraries require."""
    if not isinstance(text, str):
        raise wrong_argument("text", "a text", text, "文本")
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
