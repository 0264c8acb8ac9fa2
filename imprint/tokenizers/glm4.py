"""The tokenizer of GLM-4-9B's original layout: BPE with tiktoken, followed by special ids.

`tokenizer.model` is a text file with a piece in base64 and its rank, which is its id, on each line.

Source: tokenization_chatglm.py of THUDM/glm-4-9b.
"""

import base64
import binascii
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from imprint.arguments import integer
from imprint.files.reading import read_model_file
from imprint.messages import Bilingual, UserError
from imprint.tokenizers.prompt_limit import refuse_long_text
from imprint.tokenizers.tokenizer import decode, readable, well_formed

if TYPE_CHECKING:
    from tiktoken import Encoding

SPECIAL_TOKENS: Final = (
    *("<|endoftext|>", "[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>"),
    *("<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"),
    *("<|begin_of_image|>", "<|end_of_image|>", "<|begin_of_video|>", "<|end_of_video|>"),
)
"""Special tokens after the ranks, in this order; from id 151329 in the published vocabulary."""
SPLIT: Final = "|".join(
    (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)",  # English contractions
        r"[^\r\n\p{L}\p{N}]?\p{L}+",  # letters after at most one symbol or space
        r"\p{N}{1,3}",  # up to three digits
        r" ?[^\s\p{L}\p{N}]+[\r\n]*",  # symbols, with line ends after them
        r"\s*[\r\n]+",  # line ends
        r"\s+(?!\S)",  # spaces, except the last before a word
        r"\s+",
    )
)
"""Pattern that pre-tokenizes a text."""
MAX_SPACES: Final = 999_999
"""So many spaces in a row make the library panic, and print a trace: its pattern keeps a state for each."""
TOO_MANY_SPACES: Final = re.compile(rf"[\t\v\f \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]{{{MAX_SPACES},}}(?![\r\n])")
SPACES: Final = Bilingual(
    f"the text has {MAX_SPACES:,} spaces in a row, or about as many, which the tokenizer of GLM-4 cannot encode. Leave some out.",
    f"文本中有约 {MAX_SPACES:,} 个连续空白，GLM-4 的分词器无法编码：请删去一些。",
)
RANK_LINE: Final = re.compile(rb"[A-Za-z0-9+/]+={0,2} \d+\s*")


class GLM4Tokenizer:
    """The tokenizer of GLM-4-9B; typed text never becomes a special id."""

    strips_all_leading_spaces = False
    """No space is added, so none is removed."""
    replaces_each_byte = False
    """Bytes of an incomplete character decode to one U+FFFD."""

    def __init__(self, encoding: "Encoding", pieces: Sequence[bytes]) -> None:
        self._encoding = encoding
        self.pieces = pieces
        """Bytes of every piece, by id."""
        self._longest = max(map(len, pieces))
        self._ids = list(range(len(pieces)))  # one int object per id, shared by all rows to save memory
        self.controls: Mapping[str, int] = MappingProxyType({name: len(pieces) + index for index, name in enumerate(SPECIAL_TOKENS)})
        """Name -> special id."""

    def __len__(self) -> int:
        """Number of pieces in the file; the special ids follow them."""
        return len(self.pieces)

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without special ids. Raises UserError for a million spaces in a row, on which the library fails."""
        text = well_formed(text)
        refuse_long_text(text, self._longest, lambda part: len(part.encode()))
        if len(text) >= MAX_SPACES and TOO_MANY_SPACES.search(text):
            raise UserError(SPACES)
        try:
            pieces = self._encoding.encode_ordinary(text)
        except BaseException as error:
            if isinstance(error, Exception) or type(error).__name__ != "PanicException":
                raise
            raise UserError(SPACES) from error
        return [self._ids[piece] for piece in pieces]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids; special ids and unknown ids are skipped, invalid UTF-8 becomes U+FFFD."""
        return decode(self, ids)

    def token_bytes(self, token: int, *, first: bool = False) -> bytes:  # noqa: ARG002
        """The UTF-8 bytes of an id; `first` has no effect."""
        token = integer("token", token)
        return self.pieces[token] if 0 <= token < len(self.pieces) else b""

    def token_text(self, token: int) -> str:
        """A readable form of an id; empty for an id without text."""
        return readable(self.token_bytes(token))


def is_ranks(content: bytes) -> bool:
    """Whether the content of a `tokenizer.model` is ranks; SentencePiece models have the same file name."""
    return RANK_LINE.fullmatch(content.partition(b"\n")[0]) is not None


def read_glm4(file: Path) -> GLM4Tokenizer:
    """Read a `tokenizer.model` of ranks. Raises UserError for an invalid line or a missing rank."""
    from tiktoken import Encoding

    ranks = {}
    for number, line in enumerate(read_model_file(file, "a file of ranks").splitlines(), start=1):
        piece, _, rank = line.partition(b" ")
        try:
            ranks[base64.b64decode(piece, validate=True)] = int(rank)
        except (binascii.Error, ValueError) as error:
            raise UserError(
                Bilingual(
                    f'{file}:{number}: must be a piece in base64 and its rank, got "{line[:40]!r}". Download it again.',
                    f"{file}：词表文件已损坏：请重新下载。",
                )
            ) from error
    pieces = sorted(ranks, key=ranks.__getitem__)
    if [ranks[piece] for piece in pieces] != list(range(len(pieces))):
        raise UserError(
            Bilingual(
                f"{file} has {len(pieces)} different pieces, but their ranks are not 0 to {len(pieces) - 1}. Download it again.",
                f"{file}：词表文件已损坏：请重新下载。",
            )
        )
    missing = {bytes([value]) for value in range(256)} - ranks.keys()
    if missing:
        raise UserError(
            Bilingual(
                f"{file} lacks {len(missing)} of the 256 single bytes, so not every text can be encoded. Download it again.",
                f"{file}：词表文件不完整：请重新下载。",
            )
        )
    return GLM4Tokenizer(Encoding(name="glm4", pat_str=SPLIT, mergeable_ranks=ranks, special_tokens={}), pieces)
