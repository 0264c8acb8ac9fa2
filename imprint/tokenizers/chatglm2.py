"""The tokenizer of ChatGLM2-6B and ChatGLM3-6B: a SentencePiece vocabulary, followed by special ids.

Source: tokenization_chatglm.py of THUDM/chatglm2-6b and THUDM/chatglm3-6b.
"""

from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Final

from sentencepiece import SentencePieceProcessor

from imprint.arguments import integer
from imprint.files.reading import read_model_file
from imprint.messages import Bilingual, UserError
from imprint.tokenizers.prompt_limit import refuse_long_text
from imprint.tokenizers.tokenizer import SPACE, decode, followers, longest_piece, well_formed

SPECIAL_TOKENS: Final = ("[MASK]", "[gMASK]", "[sMASK]", "sop", "eop", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>")
"""Special tokens after the pieces, in this order; the last four are ChatGLM3's roles and not used in ChatGLM2."""


class ChatGLM2Tokenizer:
    """The tokenizer of ChatGLM2 and ChatGLM3; typed text never becomes a special id."""

    strips_all_leading_spaces = False
    """The vocabulary keeps extra whitespace: only one leading space is removed."""
    replaces_each_byte = True
    """SentencePiece decodes each invalid byte to one U+FFFD."""

    def __init__(self, processor: SentencePieceProcessor) -> None:
        self._processor = processor
        self._ids = list(range(len(processor)))  # one int object per id, shared by all rows to save memory
        model_tokens = {"<unk>": processor.unk_id(), "<s>": processor.bos_id(), "</s>": processor.eos_id()}
        self.controls: Mapping[str, int] = MappingProxyType(
            model_tokens | {name: len(processor) + index for index, name in enumerate(SPECIAL_TOKENS)}
        )
        """Name -> special id."""
        self._byte_ids = frozenset(token for token in self._ids if processor.is_byte(token))

    def __len__(self) -> int:
        """Number of pieces in the vocabulary file; the special ids follow them."""
        return len(self._processor)

    def scored_pieces(self) -> tuple[list[str], list[float]]:
        """(pieces, scores) of the vocabulary file; encoding merges the neighbours that form the piece with the highest score."""
        return [self._processor.id_to_piece(token) for token in self._ids], [self._processor.get_score(token) for token in self._ids]

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without special ids; a character without a piece, a newline and a tab become their UTF-8 bytes."""
        text = well_formed(text)
        refuse_long_text(text, self._longest, lambda part: len(self._processor.normalize(part)))
        pieces: list[int] = self._processor.encode(text)
        return [self._ids[piece] for piece in pieces]

    def divides_after_newline(self, following: str) -> bool:
        """Whether no token reaches from a newline into the character after it, whatever else the text holds: no piece has both."""
        return following not in self._after_newline

    @cached_property
    def _longest(self) -> int | None:
        return longest_piece(self._processor)

    @cached_property
    def _after_newline(self) -> frozenset[str]:
        return followers((self._processor.id_to_piece(index) for index in range(len(self))), "\n")

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids; special ids and unknown ids are skipped, invalid UTF-8 becomes U+FFFD."""
        return decode(self, ids)

    def token_bytes(self, token: int, *, first: bool = False) -> bytes:
        """The UTF-8 bytes of an id; `first` removes the space that SentencePiece adds before every text."""
        token = integer("token", token)
        if token in self._byte_ids:
            return bytes([int(self._processor.id_to_piece(token)[1:-1], 16)])
        piece = self.token_text(token)
        return (piece.removeprefix(SPACE) if first else piece).replace(SPACE, " ").encode()

    def token_text(self, token: int) -> str:
        """The piece of an id as SentencePiece writes it; empty for an id without text."""
        token = integer("token", token)
        if not 0 <= token < len(self._processor) or self._processor.is_control(token) or self._processor.is_unknown(token):
            return ""
        piece: str = self._processor.id_to_piece(token)
        return piece


def read_chatglm2(file: Path) -> ChatGLM2Tokenizer:
    """Read a `tokenizer.model` of SentencePiece. Raises UserError for a broken file or another vocabulary."""
    content = read_model_file(file, "a SentencePiece model")
    try:
        processor = SentencePieceProcessor(model_proto=content)
    except RuntimeError as error:
        raise UserError(
            Bilingual(
                f"{file} ({len(content)} bytes) is no SentencePiece model, or is truncated. Download the file again.",
                f"{file}：不是 SentencePiece 模型，或文件不完整：请重新下载。",
            )
        ) from error
    if processor.eos_id() < 0 or processor.unk_id() < 0 or not any(processor.is_byte(token) for token in range(len(processor))):
        raise UserError(
            Bilingual(
                f"{file} is a SentencePiece model without </s>, <unk> or byte pieces, so it is not that of ChatGLM2 or ChatGLM3. "
                "Take it from the same release as config.json.",
                f"{file}：这不是 ChatGLM2 或 ChatGLM3 的词表：请从 config.json 所属的版本中取。",
            )
        )
    return ChatGLM2Tokenizer(processor)
