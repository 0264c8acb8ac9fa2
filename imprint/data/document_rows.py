"""Special tokens around raw text, by model family, and the packing of documents into rows and windows."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from imprint.pack import IGNORE_INDEX
from imprint.tokenizers import ChatGLMTokenizer, HFTokenizer, Tokenizer


@dataclass(frozen=True)
class DocumentFrame:
    """Special ids around raw text, as in the family's pre-training."""

    sequence_prefix: tuple[int, ...]
    """Before every sequence, also one that continues a document; never scored."""
    bos: tuple[int, ...]
    """Before a document, so that its first token is predicted; never scored."""
    eos: tuple[int, ...]
    """After a document; scored, so that the model learns where texts end."""

    @property
    def overlap(self) -> int:
        """Tokens that a row repeats from the previous one: 1 without a `sequence_prefix`, so that its first new token is predicted."""
        return 0 if self.sequence_prefix else 1


def document_frame(tokenizer: Tokenizer) -> DocumentFrame:
    """The special ids around raw text for a tokenizer's family.

    ChatGLM-6B: `[gMASK] <sop> text <eop>`, GLM's document-level objective with the whole document as the span and no context; attention is
    causal after <sop>. ChatGLM2, ChatGLM3 and GLM-4 begin every text with `[gMASK] sop` and end it with `</s>` or `<|endoftext|>`. Other
    families take BOS and EOS of their tokenizer files; without a BOS, EOS takes its place.

    Source: Du et al., GLM: General Language Model Pretraining with Autoregressive Blank Infilling, 2022, section 2.2; Zeng et al.,
    GLM-130B, 2023, section 2.2 ([gMASK] for long generation).
    """
    if isinstance(tokenizer, HFTokenizer):
        bos, eos = tokenizer.special_tokens.bos_ids, tokenizer.special_tokens.eos_ids[:1]
        return DocumentFrame(sequence_prefix=(), bos=bos or eos, eos=eos)
    if isinstance(tokenizer, ChatGLMTokenizer):
        special = tokenizer.control
        return DocumentFrame(sequence_prefix=(special.gmask, special.sop), bos=(), eos=(special.eop,))
    sop, end = ("<sop>", "<|endoftext|>") if "<|endoftext|>" in tokenizer.controls else ("sop", "</s>")
    return DocumentFrame(sequence_prefix=(tokenizer.controls["[gMASK]"], tokenizer.controls[sop]), bos=(), eos=(tokenizer.controls[end],))


def encode_document_start(tokenizer: Tokenizer, text: str) -> list[int]:
    """Ids of the beginning of a document, for the model to continue."""
    frame = document_frame(tokenizer)
    return [*frame.sequence_prefix, *frame.bos, *tokenizer.encode(text)]


@dataclass(frozen=True)
class RowSpan:
    """A range of a token file that is one row: consecutive documents, or a part of a long one."""

    start: int
    """Index of its first token in the file."""
    stop: int
    """Index after its last token."""
    document: int
    """Index of the document of its first token."""
    num_ids: int
    """Number of ids, sequence prefixes included."""
    num_scored: int
    """Number of scored ids."""


class RowPacker:
    """Packs documents into rows of at most `length` ids, in order; a document that fits into a row is never split.

    A longer one is split into full rows, and its rest shares a row with the next documents. Each token of a document is scored exactly
    once, except its first one if nothing precedes it.
    """

    def __init__(self, frame: DocumentFrame, length: int) -> None:
        self.frame = frame
        self.length = length
        self.tokens = 0
        self.documents = 0
        self._open: RowSpan | None = None

    def add(self, tokens: int) -> Iterator[RowSpan]:
        """Add a document of `tokens` tokens, `bos` and `eos` included; yields the rows that it completes."""
        start, document = self.tokens, self.documents
        self.tokens += tokens
        self.documents += 1
        prefix, overlap = len(self.frame.sequence_prefix), self.frame.overlap
        capacity = self.length - prefix
        if self._open is not None and self._open.num_ids + prefix + tokens <= self.length:
            row = self._open
            self._open = replace(row, stop=self.tokens, num_ids=row.num_ids + prefix + tokens, num_scored=row.num_scored + tokens - overlap)
            return
        yield from self.finish()
        while self.tokens - start > capacity:
            yield RowSpan(start, start + capacity, document, self.length, capacity - overlap)
            start += capacity - overlap
        rest = self.tokens - start
        self._open = RowSpan(start, self.tokens, document, prefix + rest, rest - overlap)

    def finish(self) -> Iterator[RowSpan]:
        """The last, incomplete row, if there is one."""
        if self._open is not None:
            yield self._open
        self._open = None


@dataclass(frozen=True)
class Window:
    """A part of a document for one forward pass; scores the tokens that no earlier window scored."""

    ids: tuple[int, ...]
    """Its ids, sequence prefix included."""
    labels: tuple[int, ...]
    """Aligned with `ids`: the id where it is scored, else -100."""
    num_scored: int
    """Number of scored ids."""


class SlidingWindows:
    """Splits documents into overlapping windows of at most `length` ids; each token has at least `length - stride` before it.

    Every token of a text is scored exactly once. No EOS is added.
    """

    def __init__(self, frame: DocumentFrame, length: int, stride: int) -> None:
        self.frame = frame
        self.stride = stride
        self._capacity = length - len(frame.sequence_prefix)
        self._ids: list[int] = []
        self._context = 0
        """Number of buffered ids that are not scored: already scored, or `bos`."""

    def add(self, ids: Sequence[int], *, first: bool, last: bool) -> Iterator[Window]:
        """Add a document part; yields the windows that it completes."""
        if first:
            self._ids, self._context = list(self.frame.bos), len(self.frame.bos) or self.frame.overlap
        self._ids += ids
        start = 0
        while len(self._ids) - start > self._capacity:
            yield self._window(self._ids[start : start + self._capacity])
            start += self.stride
            self._context = self._capacity - self.stride
        self._ids = self._ids[start:]
        if last and len(self._ids) > self._context:
            yield self._window(self._ids)

    def _window(self, ids: Sequence[int]) -> Window:
        unscored = self._context + len(self.frame.sequence_prefix)
        return Window((*self.frame.sequence_prefix, *ids), (*[IGNORE_INDEX] * unscored, *ids[self._context :]), len(ids) - self._context)
