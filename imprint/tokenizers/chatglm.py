"""Text to token ids and back, as ChatGLM-6B does it, on SentencePiece alone.

The folder's `ice_text.model` holds the text pieces. A newer edition of the file also holds the control pieces, the whitespace pieces and
256 byte pieces; the first edition's file does not, and the original appends them when it loads: `_with_standard_pieces` does the same.
In a vocabulary of 150528 the text pieces stand behind 20000 image tokens, so every id is shifted by 20000.

Source: tokenization_chatglm.py of THUDM/chatglm-6b.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from sentencepiece import SentencePieceProcessor

from imprint.errors import UserError
from imprint.files import read_model_file
from imprint.tokenizers.tokenizer import SPACE, decode, well_formed

VOCABULARY_FILE: Final = "ice_text.model"
SPECIAL_PIECES: Final = ("[MASK]", "[gMASK]", "[sMASK]", "<unused_0>", "<sop>", "<eop>", "<ENC>", "<dBLOCK>")
BYTE_PIECES: Final = tuple(f"<0x{value:02X}>" for value in range(256))
WHITESPACE: Final[Mapping[str, str]] = MappingProxyType(
    {"<n>": "\n", "<|tab|>": "\t"} | {f"<|blank_{length}|>": " " * length for length in range(2, 81)}
)
"""Whitespace piece -> the text that it stands for."""
WHITESPACE_PIECES: Final[Mapping[str, str]] = MappingProxyType({text: piece for piece, text in WHITESPACE.items()})

WHITESPACE_RUN: Final = re.compile(r"\n|\t| {2,80}")


@dataclass(frozen=True)
class ChatGLMSpecialIds:
    """The ids that steer the model and never stand for text."""

    mask: int
    """[MASK]: a short blank to fill."""
    gmask: int
    """[gMASK]: a blank to fill up to the end; stands behind every prompt."""
    sop: int
    """<sop>: start of what the model writes."""
    eop: int
    """<eop>: end of what the model writes."""
    pad: int
    """<pad>: filler of the original's batches; our batches have none."""

    @classmethod
    def from_config(cls, config: Mapping[str, object]) -> "ChatGLMSpecialIds":
        """Read the ids from a model's config.json, and what it lacks from the size of its vocabulary.

        Raises UserError where an id is neither in the config nor known for that size, or does not fit into the vocabulary.
        """
        size = config.get("vocab_size")
        edition = EDITIONS.get(size) if isinstance(size, int) else None
        limit = size if isinstance(size, int) else None
        return cls(**{name: _special_id(config, key, name, edition, limit) for name, key in CONFIG_KEYS.items()})


EDITIONS: Final[Mapping[int, ChatGLMSpecialIds]] = MappingProxyType(
    {
        130528: ChatGLMSpecialIds(mask=130000, gmask=130001, sop=130004, eop=130005, pad=3),
        150528: ChatGLMSpecialIds(mask=150000, gmask=150001, sop=150004, eop=150005, pad=20003),
    }
)
"""Size of the vocabulary -> control ids of that edition of ChatGLM-6B."""
CONFIG_KEYS: Final[Mapping[str, str]] = MappingProxyType(
    {"mask": "mask_token_id", "gmask": "gmask_token_id", "sop": "bos_token_id", "eop": "eos_token_id", "pad": "pad_token_id"}
)
SPECIAL_NAMES: Final[Mapping[str, str]] = MappingProxyType(
    {"mask": "[MASK]", "gmask": "[gMASK]", "sop": "<sop>", "eop": "<eop>", "pad": "<pad>"}
)


def _special_id(config: Mapping[str, object], key: str, name: str, edition: ChatGLMSpecialIds | None, size: int | None) -> int:
    known = None if edition is None else getattr(edition, name)
    found = config.get(key, known)
    if found is None:
        sizes = " and ".join(str(size) for size in EDITIONS)
        raise UserError(
            f'config.json: "{key}" is missing, and the vocabulary size found, {size}, is not one whose control ids are known ({sizes}). '
            f'Add "{key}" to config.json.'
        )
    allowed = "a whole number of at least 0" if size is None else f"a whole number from 0 to {size - 1}, inside the vocabulary"
    if not isinstance(found, int) or isinstance(found, bool) or found < 0 or (size is not None and found >= size):
        hint = "" if known is None else f" In a vocabulary of {size} it is {known}."
        raise UserError(f'config.json: "{key}" must be {allowed}, got {found!r}.{hint}')
    return found


class ChatGLMTokenizer:
    """ChatGLM-6B's text pieces: typed text never becomes a control id, whatever it says."""

    strips_all_leading_spaces = True
    """SentencePiece leaves out every one here, for the vocabulary says that extra whitespace is removed."""
    replaces_each_byte = True
    """SentencePiece shows each byte that is no character."""

    def __init__(self, processor: SentencePieceProcessor, control: ChatGLMSpecialIds, *, shift: int = 0) -> None:
        self.control = control
        self.special_ids: Mapping[str, int] = MappingProxyType({name: getattr(control, field) for field, name in SPECIAL_NAMES.items()})
        """The same, by name."""
        self._processor = processor
        self._shift = shift
        self._ids = list(range(shift, shift + len(processor)))  # one int object per id: the rows of a large file share them
        self._bytes = {processor.piece_to_id(piece) + shift: value for value, piece in enumerate(BYTE_PIECES)}

    def __len__(self) -> int:
        """How many pieces the vocabulary file has, image tokens not counted."""
        return len(self._processor)

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without control ids.

        Newlines, tabs and runs of 2 to 80 spaces become pieces of their own, as do `<n>`, `<|tab|>` and `<|blank_3|>` typed out; a
        character without a piece becomes its UTF-8 bytes. Halves of a surrogate pair are joined, a lone half is left out.
        """
        marked = WHITESPACE_RUN.sub(lambda found: WHITESPACE_PIECES[found[0]], well_formed(text))
        pieces: list[int] = self._processor.encode(marked)
        return [self._ids[piece] for piece in pieces]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids; control ids and ids without a piece are skipped, bytes that are no UTF-8 become U+FFFD."""
        return decode(self, ids)

    def token_bytes(self, token: int, *, first: bool = False) -> bytes:
        """The UTF-8 bytes of an id; `first` leaves out the space with which SentencePiece starts every text."""
        byte = self._bytes.get(token)
        if byte is not None:
            return bytes([byte])
        piece = self.token_text(token)
        if first:
            piece = piece.removeprefix(SPACE)
        return WHITESPACE.get(piece, piece.replace(SPACE, " ")).encode()

    def token_text(self, token: int) -> str:
        """The piece of an id as SentencePiece writes it; empty for an id that stands for no text."""
        index = token - self._shift
        if not 0 <= index < len(self._processor) or self._processor.is_control(index) or self._processor.is_unknown(index):
            return ""
        return self._processor.id_to_piece(index)


def read_chatglm(file: Path, config: Mapping[str, object]) -> ChatGLMTokenizer:
    """Read an `ice_text.model`.

    Raises UserError where the file is broken, or does not belong to the vocabulary that `config` (the folder's config.json) describes.
    """
    control = ChatGLMSpecialIds.from_config(config)
    processor = _read_model(file)
    shift = control.sop - processor.piece_to_id("<sop>")
    for name, piece in zip(("mask", "gmask", "sop", "eop"), ("[MASK]", "[gMASK]", "<sop>", "<eop>"), strict=True):
        index = processor.piece_to_id(piece)
        if shift < 0 or index + shift != getattr(control, name):
            raise UserError(
                f"{file} does not belong to {file.parent / 'config.json'}: {piece} is piece {index} of the one and "
                f"{getattr(control, name)} ({CONFIG_KEYS[name]}) in the other. Take both files from the same release of the model."
            )
    size = config.get("vocab_size")
    if isinstance(size, int) and shift + len(processor) > size:
        raise UserError(
            f"{file} needs {shift + len(processor)} ids, but config.json allows {size} (vocab_size). "
            "Take both files from the same release of the model."
        )
    return ChatGLMTokenizer(processor, control, shift=shift)


def _read_model(file: Path) -> SentencePieceProcessor:
    content = read_model_file(file, "a SentencePiece model")
    try:
        processor = SentencePieceProcessor(model_proto=_with_standard_pieces(content))
    except RuntimeError as error:
        raise UserError(f"{file} ({len(content)} bytes) is no SentencePiece model, or is cut short. Download the file again.") from error
    typed = [piece for piece in SPECIAL_PIECES if not processor.is_control(processor.piece_to_id(piece))]
    if typed:
        raise UserError(
            f"{file}: {', '.join(typed)} must be control pieces, but are text that a user can type. Use another vocabulary file."
        )
    return processor


def _with_standard_pieces(content: bytes) -> bytes:
    """Append what the vocabulary lacks of the control, whitespace and byte pieces.

    Protocol buffers are merged by writing one behind the other: repeated fields grow, the last of the others counts. The fields are
    ModelProto.pieces (1) and .trainer_spec (2), SentencePiece.piece (1), .score (2) and .type (3), TrainerSpec.byte_fallback (35).
    """
    present = SentencePieceProcessor(model_proto=content)
    control, user_defined, byte = 3, 4, 6
    standard = (
        [(piece, control) for piece in SPECIAL_PIECES] + [(piece, user_defined) for piece in WHITESPACE] + [(p, byte) for p in BYTE_PIECES]
    )
    missing = [(piece, kind) for piece, kind in standard if present.piece_to_id(piece) == present.unk_id()]
    for piece, kind in missing:
        name = piece.encode()
        message = b"\x0a" + bytes([len(name)]) + name + b"\x15\0\0\0\0" + b"\x18" + bytes([kind])
        content += b"\x0a" + bytes([len(message)]) + message
    return content + b"\x12\x03\x98\x02\x01"
