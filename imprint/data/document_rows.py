"""What stands around raw text, family by family, and how a document is cut into rows that a model can take."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from imprint.pack import IGNORE_INDEX
from imprint.tokenizers import ChatGLMTokenizer, HFTokenizer, Tokenizer


@dataclass(frozen=True)
class DocumentTokens:
    """The ids around raw text, as the family's own pre-training had them."""

    row_prefix: tuple[int, ...]
    """In front of every row, also of one that goes on within a document; never scored."""
    bos: tuple[int, ...]
    """In front of a document, so that its first token has something before it; never scored."""
    eos: tuple[int, ...]
    """Behind a document; scored, so that the model learns where texts end."""

    @property
    def overlap(self) -> int:
        """How many tokens a row repeats of the one before it: one where nothing else stands in front of its first new token."""
        return 0 if self.row_prefix else 1


def document_tokens(tokenizer: Tokenizer) -> DocumentTokens:
    """The frame of a tokenizer's family.

    ChatGLM-6B: `[gMASK] <sop> text <eop>`. That is GLM's document-level objective, a span that is generated behind its context, with the
    whole document as the span and no context; everything behind <sop> is read from left to right. ChatGLM2, ChatGLM3 and GLM-4 begin every
    text with `[gMASK] sop` and end it with `</s>` or `<|endoftext|>`. A tokenizer.json says what begins and ends a text; where nothing
    begins one, what ends the text before it stands there.

    Source: Du et al., GLM: General Language Model Pretraining with Autoregressive Blank Infilling, 2022, section 2.2; Zeng et al.,
    GLM-130B, 2023, section 2.2 ([gMASK] for long generation).
    """
    if isinstance(tokenizer, HFTokenizer):
        begin, last = tokenizer.special_tokens.bos_ids, tokenizer.special_tokens.eos_ids[:1]
        return DocumentTokens(row_prefix=(), bos=begin or last, eos=last)
    if isinstance(tokenizer, ChatGLMTokenizer):
        control = tokenizer.special
        return DocumentTokens(row_prefix=(control.gmask, control.sop), bos=(), eos=(control.eop,))
    sop, end = ("<sop>", "<|endoftext|>") if "<|endoftext|>" in tokenizer.special_ids else ("sop", "</s>")
    return DocumentTokens(
        row_prefix=(tokenizer.special_ids["[gMASK]"], tokenizer.special_ids[sop]), bos=(), eos=(tokenizer.special_ids[end],)
    )


def encode_document_start(tokenizer: Tokenizer, text: str) -> list[int]:
    """The ids of a document's beginning, to be gone on with."""
    special = document_tokens(tokenizer)
    return [*special.row_prefix, *special.bos, *tokenizer.encode(text)]


@dataclass(frozen=True)
class RowSpan:
    """A stretch of a file of tokens that is one row: documents one after another, or a part of one that is longer than a row."""

    start: int
    """Its first token, counted over the file."""
    stop: int
    """The token behind its last one."""
    document: int
    """The document that its first token is of, counted from 0."""
    ids: int
    """How many ids it has with its frame."""
    scored: int
    """How many of them are scored."""


class RowPacker:
    """Lays documents into rows of at most `length` ids, in their order; a document that fits into a row is never cut.

    A longer one is cut into full rows, and what is left of it shares its row with the documents behind it. Each token of a document is
    scored exactly once, but for its very first where nothing stands before it.
    """

    def __init__(self, special: DocumentTokens, length: int) -> None:
        self.document_tokens = special
        self.length = length
        self.tokens = 0
        self.documents = 0
        self._open: RowSpan | None = None

    def add(self, tokens: int) -> Iterator[RowSpan]:
        """Take in a document of so many tokens, with the frame's `first` and `last`; yields the rows that are full."""
        start, number = self.tokens, self.documents
        self.tokens += tokens
        self.documents += 1
        each, overlap = len(self.document_tokens.row_prefix), self.document_tokens.overlap
        room = self.length - each
        if self._open is not None and self._open.ids + each + tokens <= self.length:
            row = self._open
            self._open = replace(row, stop=self.tokens, ids=row.ids + each + tokens, scored=row.scored + tokens - overlap)
            return
        yield from self.finish()
        while self.tokens - start > room:
            yield RowSpan(start, start + room, number, self.length, room - overlap)
            start += room - overlap
        left = self.tokens - start
        self._open = RowSpan(start, self.tokens, number, each + left, left - overlap)

    def finish(self) -> Iterator[RowSpan]:
        """The row that is not full, if there is one."""
        if self._open is not None:
            yield self._open
        self._open = None


@dataclass(frozen=True)
class Window:
    """A stretch of a document that is computed at once, to measure the tokens that no window before it had."""

    ids: tuple[int, ...]
    """Its ids with its frame."""
    labels: tuple[int, ...]
    """Aligned with `ids`: the same id where it is new, -100 where an earlier window had it."""
    scored: int
    """How many are new."""


class SlidingWindows:
    """Cuts documents into windows of at most `length` ids that overlap, so that each token has at least `length - stride` before it.

    Every token of a text is scored exactly once. The id that ends texts is none of them.
    """

    def __init__(self, special: DocumentTokens, length: int, stride: int) -> None:
        self.document_tokens = special
        self.stride = stride
        self._room = length - len(special.row_prefix)
        self._held: list[int] = []
        self._new = 0
        """How many of the ids held have been scored, or never are."""

    def add(self, ids: Sequence[int], *, first: bool, last: bool) -> Iterator[Window]:
        """Take in a passage; yields the windows that it completes."""
        if first:
            self._held, self._new = list(self.document_tokens.bos), len(self.document_tokens.bos) or self.document_tokens.overlap
        self._held += ids
        start = 0
        while len(self._held) - start > self._room:
            yield self._window(self._held[start : start + self._room])
            start += self.stride
            self._new = self._room - self.stride
        self._held = self._held[start:]
        if last and len(self._held) > self._new:
            yield self._window(self._held)

    def _window(self, ids: Sequence[int]) -> Window:
        known = self._new + len(self.document_tokens.row_prefix)
        return Window((*self.document_tokens.row_prefix, *ids), (*[IGNORE_INDEX] * known, *ids[self._new :]), len(ids) - self._new)
