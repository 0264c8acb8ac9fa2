"""What every tokenizer here can do, and how ids become text as they come."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Final, Protocol

SPACE: Final = "\u2581"
"""How a space inside a piece is written, by SentencePiece and for the eye."""
REPLACEMENT: Final = "\ufffd"
"""Stands where bytes are no character."""


class Tokenizer(Protocol):
    """Text to ids and back; what a user typed never becomes a control id, whatever it says."""

    @property
    def special_ids(self) -> Mapping[str, int]:
        """Name of each id that steers the model and never stands for text -> the id."""

    @property
    def strips_all_leading_spaces(self) -> bool:
        """Whether a text loses the space of each piece before its first character, or of its first piece alone."""

    @property
    def replaces_each_byte(self) -> bool:
        """Whether each byte that is no character is shown as one U+FFFD, or all that could have begun one together."""

    def __len__(self) -> int:
        """How many pieces the vocabulary has."""

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without control ids. Halves of a surrogate pair are joined, a lone half is lost."""

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids; control ids and ids without a piece are skipped, bytes that are no UTF-8 become U+FFFD."""

    def token_bytes(self, token: int, *, first: bool = False) -> bytes:
        """The UTF-8 bytes that an id stands for, perhaps a part of a character; empty for an id that stands for no text.

        `first`: without the space that begins a text where nobody typed it, if the vocabulary has such a space.
        """

    def token_text(self, token: int) -> str:
        """An id as a person can read it, spaces as ▁ and parts of characters as <0xE4>; empty for an id that stands for no text."""


class TextStream:
    """Turns ids into text as they come: what has been shown never changes, and all of it together is `decode` of all ids."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._held = bytearray()
        self._started = False

    def push(self, token: int) -> str:
        """The text that this id adds and that is safe to show; the start of a character is held back until the character is complete."""
        fragment = self._tokenizer.token_bytes(token, first=not self._started)
        if not self._started:
            self._started = bool(fragment) if self._tokenizer.strips_all_leading_spaces else bool(self._tokenizer.token_bytes(token))
        self._held += fragment
        return "".join(self._characters(last=False))

    def finish(self) -> str:
        """What was held back; what did not become a character is U+FFFD."""
        return "".join(self._characters(last=True))

    def _characters(self, *, last: bool) -> Iterator[str]:
        while self._held:
            try:
                text = self._held.decode()
            except UnicodeDecodeError as error:
                yield self._held[: error.start].decode()
                del self._held[: error.start]
                if error.reason == "unexpected end of data" and not last:
                    return
                broken = error.end - error.start
                yield REPLACEMENT * (broken if self._tokenizer.replaces_each_byte else 1)
                del self._held[:broken]
            else:
                self._held.clear()
                yield text


def decode(tokenizer: Tokenizer, ids: Iterable[int]) -> str:
    """The text of ids, by a stream."""
    stream = TextStream(tokenizer)
    text = "".join([stream.push(token) for token in ids])
    return text + stream.finish()


def readable(fragment: bytes) -> str:
    """The bytes of an id for the eye: see `Tokenizer.piece`."""
    try:
        return fragment.decode().replace(" ", SPACE)
    except UnicodeDecodeError:
        return "".join([f"<0x{value:02X}>" for value in fragment])


def well_formed(text: str) -> str:
    """The text with surrogate pairs joined and lone surrogates replaced; no tokenizer takes any other."""
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
