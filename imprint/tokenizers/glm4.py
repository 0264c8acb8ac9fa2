"""Text to token ids and back, as GLM-4-9B's original layout does it: byte pairs by tiktoken, and control ids behind the ranks.

`tokenizer.model` is a text file: a piece in base64 and its rank on each line, the rank being the id.

Source: tokenization_chatglm.py of THUDM/glm-4-9b.
"""

import base64
import binascii
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from imprint.errors import UserError
from imprint.files import read_model_file
from imprint.tokenizers.tokenizer import decode, readable, well_formed

if TYPE_CHECKING:
    from tiktoken import Encoding

SPECIAL_TOKENS: Final = (
    *("<|endoftext|>", "[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>"),
    *("<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"),
    *("<|begin_of_image|>", "<|end_of_image|>", "<|begin_of_video|>", "<|end_of_video|>"),
)
"""What stands behind the ranks, in this order: in the published vocabulary 151329 and on."""
SPLIT: Final = "|".join(
    (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)",  # English endings
        r"[^\r\n\p{L}\p{N}]?\p{L}+",  # letters, with one mark or space before them
        r"\p{N}{1,3}",  # up to three digits
        r" ?[^\s\p{L}\p{N}]+[\r\n]*",  # marks, with the ends of their line
        r"\s*[\r\n]+",  # empty lines
        r"\s+(?!\S)",  # spaces, but for the last before a word
        r"\s+",
    )
)
"""Where a text is taken apart before its pieces are joined."""
RANK_LINE: Final = re.compile(rb"[A-Za-z0-9+/]+={0,2} \d+\s*")


class GLM4Tokenizer:
    """The byte pairs of GLM-4-9B: typed text never becomes a control id, whatever it says."""

    strips_all_leading_spaces = False
    """A text keeps its spaces: none is added."""
    replaces_each_byte = False
    """Bytes that could have begun a character are shown as one U+FFFD."""

    def __init__(self, encoding: "Encoding", pieces: Sequence[bytes]) -> None:
        self._encoding = encoding
        self.pieces = pieces
        """The bytes of every id, in the order of the ids."""
        self._ids = list(range(len(pieces)))  # one int object per id: the rows of a large file share them
        self.special_ids: Mapping[str, int] = MappingProxyType({name: len(pieces) + index for index, name in enumerate(SPECIAL_TOKENS)})
        """The ids that steer the model, by name."""

    def __len__(self) -> int:
        """How many pieces the file has; the control ids come behind them."""
        return len(self.pieces)

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without control ids."""
        return [self._ids[piece] for piece in self._encoding.encode_ordinary(well_formed(text))]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids; control ids and ids without a piece are skipped, bytes that are no UTF-8 become U+FFFD."""
        return decode(self, ids)

    def token_bytes(self, token: int, *, first: bool = False) -> bytes:  # noqa: ARG002
        """The UTF-8 bytes of an id, the first as any other."""
        return self.pieces[token] if 0 <= token < len(self.pieces) else b""

    def token_text(self, token: int) -> str:
        """An id for the eye; empty for an id that stands for no text."""
        return readable(self.token_bytes(token))


def is_ranks(content: bytes) -> bool:
    """Whether a `tokenizer.model` is a file of ranks; SentencePiece's has the same name."""
    return RANK_LINE.fullmatch(content.partition(b"\n")[0]) is not None


def read_glm4(file: Path) -> GLM4Tokenizer:
    """Read a `tokenizer.model` of ranks; UserError where a line is none, or a rank is missing."""
    from tiktoken import Encoding

    ranks = {}
    for number, line in enumerate(read_model_file(file, "a file of ranks").splitlines(), start=1):
        piece, _, rank = line.partition(b" ")
        try:
            ranks[base64.b64decode(piece, validate=True)] = int(rank)
        except (binascii.Error, ValueError) as error:
            raise UserError(f'{file}:{number}: must be a piece in base64 and its rank, got "{line[:40]!r}". Download it again.') from error
    pieces = sorted(ranks, key=ranks.__getitem__)
    if [ranks[piece] for piece in pieces] != list(range(len(pieces))):
        raise UserError(f"{file} has {len(pieces)} different pieces, but their ranks are not 0 to {len(pieces) - 1}. Download it again.")
    single = {bytes([value]) for value in range(256)} - ranks.keys()
    if single:
        raise UserError(f"{file} lacks {len(single)} of the 256 single bytes, so not every text can be written. Download it again.")
    return GLM4Tokenizer(Encoding(name="glm4", pat_str=SPLIT, mergeable_ranks=ranks, special_tokens={}), pieces)
