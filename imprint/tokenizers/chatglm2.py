"""Text to token ids and back, as ChatGLM2-6B and ChatGLM3-6B do it: one SentencePiece vocabulary, and control ids behind its pieces.

Source: tokenization_chatglm.py of THUDM/chatglm2-6b and THUDM/chatglm3-6b.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

from sentencepiece import SentencePieceProcessor

from imprint.errors import UserError
from imprint.files import read_model_file
from imprint.tokenizers.tokenizer import SPACE, decode, well_formed

SPECIAL_TOKENS: Final = ("[MASK]", "[gMASK]", "[sMASK]", "sop", "eop", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>")
"""What stands behind the pieces, in this order; the last four speak in ChatGLM3 and are never used in ChatGLM2."""


class ChatGLM2Tokenizer:
    """The text pieces of ChatGLM2 and ChatGLM3: typed text never becomes a control id, whatever it says."""

    strips_all_leading_spaces = False
    """SentencePiece leaves out one here, for the vocabulary says that extra whitespace is kept."""
    replaces_each_byte = True
    """SentencePiece shows each byte that is no character."""

    def __init__(self, processor: SentencePieceProcessor) -> None:
        self._processor = processor
        self._ids = list(range(len(processor)))  # one int object per id: the rows of a large file share them
        own = {"<unk>": processor.unk_id(), "<s>": processor.bos_id(), "</s>": processor.eos_id()}
        self.special_ids: Mapping[str, int] = MappingProxyType(
            own | {name: len(processor) + index for index, name in enumerate(SPECIAL_TOKENS)}
        )
        """The ids that steer the model, by name."""
        self._parts = frozenset(token for token in self._ids if processor.is_byte(token))

    def __len__(self) -> int:
        """How many pieces the vocabulary file has; the control ids come behind them."""
        return len(self._processor)

    def scored_pieces(self) -> tuple[list[str], list[float]]:
        """Every piece as the vocabulary file has it, and its score: of two neighbours, those that make the best-scored piece are joined."""
        return [self._processor.id_to_piece(token) for token in self._ids], [self._processor.get_score(token) for token in self._ids]

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without control ids; a character without a piece, a newline and a tab become their UTF-8 bytes."""
        pieces: list[int] = self._processor.encode(well_formed(text))
        return [self._ids[piece] for piece in pieces]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids; control ids and ids without a piece are skipped, bytes that are no UTF-8 become U+FFFD."""
        return decode(self, ids)

    def token_bytes(self, token: int, *, first: bool = False) -> bytes:
        """The UTF-8 bytes of an id; `first` leaves out the space with which SentencePiece starts every text."""
        if token in self._parts:
            return bytes([int(self._processor.id_to_piece(token)[1:-1], 16)])
        piece = self.token_text(token)
        return (piece.removeprefix(SPACE) if first else piece).replace(SPACE, " ").encode()

    def token_text(self, token: int) -> str:
        """The piece of an id as SentencePiece writes it; empty for an id that stands for no text."""
        if not 0 <= token < len(self._processor) or self._processor.is_control(token) or self._processor.is_unknown(token):
            return ""
        piece: str = self._processor.id_to_piece(token)
        return piece


def read_chatglm2(file: Path) -> ChatGLM2Tokenizer:
    """Read a `tokenizer.model` of SentencePiece; UserError where the file is broken or another vocabulary's."""
    content = read_model_file(file, "a SentencePiece model")
    try:
        processor = SentencePieceProcessor(model_proto=content)
    except RuntimeError as error:
        raise UserError(f"{file} ({len(content)} bytes) is no SentencePiece model, or is cut short. Download the file again.") from error
    if processor.eos_id() < 0 or processor.unk_id() < 0 or not any(processor.is_byte(token) for token in range(len(processor))):
        raise UserError(
            f"{file} is a SentencePiece model without </s>, <unk> or byte pieces, so it is not that of ChatGLM2 or ChatGLM3. "
            "Take it from the release that config.json is from."
        )
    return ChatGLM2Tokenizer(processor)
