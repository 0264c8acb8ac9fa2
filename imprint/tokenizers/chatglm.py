"""The tokenizer of ChatGLM-6B, with SentencePiece alone.

The folder's `ice_text.model` holds the text pieces. Newer editions of the file also hold the special pieces, the whitespace pieces and 256
byte pieces; the original appends them to the first edition on loading, and so does `_with_standard_pieces`. In a vocabulary of 150528 the
text pieces come after 20000 image tokens, so every id is shifted by 20000.

Source: tokenization_chatglm.py of THUDM/chatglm-6b.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
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

VOCABULARY_FILE: Final = "ice_text.model"
SPECIAL_PIECES: Final = ("[MASK]", "[gMASK]", "[sMASK]", "<unused_0>", "<sop>", "<eop>", "<ENC>", "<dBLOCK>")
BYTE_PIECES: Final = tuple(f"<0x{value:02X}>" for value in range(256))
WHITESPACE: Final[Mapping[str, str]] = MappingProxyType(
    {"<n>": "\n", "<|tab|>": "\t"} | {f"<|blank_{length}|>": " " * length for length in range(2, 81)}
)
"""Whitespace piece -> its text."""
WHITESPACE_PIECES: Final[Mapping[str, str]] = MappingProxyType({text: piece for piece, text in WHITESPACE.items()})

WHITESPACE_RUN: Final = re.compile(r"\n|\t| {2,80}")


@dataclass(frozen=True)
class ChatGLMSpecialIds:
    """Ids of the special tokens."""

    mask: int
    """[MASK]: a short blank to fill."""
    gmask: int
    """[gMASK]: a blank to fill up to the end; follows every prompt."""
    sop: int
    """<sop>: start of the generated text."""
    eop: int
    """<eop>: end of the generated text."""
    pad: int
    """<pad>: padding of the original's batches; not used here."""

    @classmethod
    def from_config(cls, config: Mapping[str, object]) -> "ChatGLMSpecialIds":
        """Read the ids from a model's config.json; missing ones follow from the size of its vocabulary.

        Raises UserError for an id that is neither in the config nor known for that size, or that is outside the vocabulary.
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
"""Size of the vocabulary -> special ids of that edition of ChatGLM-6B."""
CONFIG_KEYS: Final[Mapping[str, str]] = MappingProxyType(
    {"mask": "mask_token_id", "gmask": "gmask_token_id", "sop": "bos_token_id", "eop": "eos_token_id", "pad": "pad_token_id"}
)
SPECIAL_NAMES: Final[Mapping[str, str]] = MappingProxyType(
    {"mask": "[MASK]", "gmask": "[gMASK]", "sop": "<sop>", "eop": "<eop>", "pad": "<pad>"}
)


def _special_id(config: Mapping[str, object], key: str, name: str, edition: ChatGLMSpecialIds | None, size: int | None) -> int:
    default = None if edition is None else getattr(edition, name)
    value = config.get(key, default)
    if value is None:
        sizes = " and ".join(str(size) for size in EDITIONS)
        raise UserError(
            Bilingual(
                f'config.json: "{key}" is missing, and the vocabulary size found, {size}, is not one with known special ids ({sizes}). '
                f'Add "{key}" to config.json.',
                f"config.json 中缺少 {key}：请补上。",
            )
        )
    allowed = "an integer of at least 0" if size is None else f"an integer from 0 to {size - 1}, inside the vocabulary"
    if not isinstance(value, int) or isinstance(value, bool) or value < 0 or (size is not None and value >= size):
        hint = "" if default is None else f" In a vocabulary of {size} it is {default}."
        raise UserError(
            Bilingual(f'config.json: "{key}" must be {allowed}, got {value!r}.{hint}', f"config.json 中的 {key} 无效：请改正。")
        )
    return value


class ChatGLMTokenizer:
    """ChatGLM-6B's tokenizer; typed text never becomes a special id."""

    strips_all_leading_spaces = True
    """The vocabulary removes extra whitespace (`remove_extra_whitespaces`)."""
    replaces_each_byte = True
    """SentencePiece decodes each invalid byte to one U+FFFD."""

    def __init__(self, processor: SentencePieceProcessor, special: ChatGLMSpecialIds, *, shift: int = 0) -> None:
        self.control = special
        """The special ids, by short name."""
        self.controls: Mapping[str, int] = MappingProxyType({name: getattr(special, field) for field, name in SPECIAL_NAMES.items()})
        """Name -> special id."""
        self._processor = processor
        self._shift = shift
        self._ids = list(range(shift, shift + len(processor)))  # one int object per id, shared by all rows to save memory
        self._bytes = {processor.piece_to_id(piece) + shift: value for value, piece in enumerate(BYTE_PIECES)}
        names = {processor.piece_to_id(piece): piece for piece in SPECIAL_PIECES}
        self._spelled = {index: self._spell(name) for index, name in names.items() if not processor.is_control(index)}
        """Piece of a special token that the file reads in typed text -> the pieces of its characters."""

    def __len__(self) -> int:
        """Number of pieces in the vocabulary file, without image tokens."""
        return len(self._processor)

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without special ids.

        Newlines, tabs and runs of 2 to 80 spaces become pieces of their own, as do typed `<n>`, `<|tab|>` and `<|blank_3|>`; a character
        without a piece becomes its UTF-8 bytes. Surrogate pairs are joined, lone surrogates replaced: see `well_formed`.
        """
        marked = WHITESPACE_RUN.sub(lambda match: WHITESPACE_PIECES[match[0]], well_formed(text))
        refuse_long_text(marked, self._longest, lambda part: len(self._processor.normalize(part)))
        pieces: list[int] = self._processor.encode(marked)
        if self._spelled and not self._spelled.keys().isdisjoint(pieces):
            pieces = [part for piece in pieces for part in self._spelled.get(piece, (piece,))]
        return [self._ids[piece] for piece in pieces]

    def divides_after_newline(self, following: str) -> bool:
        """Whether no token reaches from a newline into the character after it, whatever else the text holds: no piece has both."""
        return following not in self._after_newline

    @cached_property
    def _longest(self) -> int | None:
        return longest_piece(self._processor)

    @cached_property
    def _after_newline(self) -> frozenset[str]:
        """The characters that stand in a piece after the last character of the newline's own piece."""
        return followers((self._processor.id_to_piece(index) for index in range(len(self))), WHITESPACE_PIECES["\n"][-1])

    def _spell(self, name: str) -> list[int]:
        """The pieces of a name, each character or byte on its own."""
        pieces = [(letter, self._processor.piece_to_id(letter)) for letter in name]
        unknown = self._processor.unk_id()
        letters = [[piece] if piece != unknown else [self._byte_piece(value) for value in letter.encode()] for letter, piece in pieces]
        return [piece for parts in letters for piece in parts]

    def _byte_piece(self, value: int) -> int:
        piece: int = self._processor.piece_to_id(BYTE_PIECES[value])
        return piece

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids; special ids and unknown ids are skipped, invalid UTF-8 becomes U+FFFD."""
        return decode(self, ids)

    def token_bytes(self, token: int, *, first: bool = False) -> bytes:
        """The UTF-8 bytes of an id; `first` removes the space that SentencePiece adds before every text."""
        token = integer("token", token)
        byte = self._bytes.get(token)
        if byte is not None:
            return bytes([byte])
        piece = self.token_text(token)
        if first:
            piece = piece.removeprefix(SPACE)
        return WHITESPACE.get(piece, piece.replace(SPACE, " ")).encode()

    def token_text(self, token: int) -> str:
        """The piece of an id as SentencePiece writes it; empty for an id without text."""
        token = integer("token", token)
        index = token - self._shift
        if not 0 <= index < len(self._processor) or self._processor.is_control(index) or self._processor.is_unknown(index):
            return ""
        if index in self._spelled:
            return ""
        return self._processor.id_to_piece(index)


def read_chatglm(file: Path, config: Mapping[str, object]) -> ChatGLMTokenizer:
    """Read an `ice_text.model`.

    Raises UserError for a broken file, and for one that does not match `config` (the folder's config.json).
    """
    special = ChatGLMSpecialIds.from_config(config)
    processor = _read_model(file)
    shift = special.sop - processor.piece_to_id("<sop>")
    for name, piece in zip(("mask", "gmask", "sop", "eop"), ("[MASK]", "[gMASK]", "<sop>", "<eop>"), strict=True):
        index = processor.piece_to_id(piece)
        if shift < 0 or index + shift != getattr(special, name):
            raise UserError(
                Bilingual(
                    f"{file} does not belong to {file.parent / 'config.json'}: {piece} is piece {index} of the one and "
                    f"{getattr(special, name)} ({CONFIG_KEYS[name]}) in the other. Take both files from the same release of the model.",
                    f"{file}：词表与 config.json 不匹配：请从同一版本的模型中取这两个文件。",
                )
            )
    size = config.get("vocab_size")
    if isinstance(size, int) and shift + len(processor) > size:
        raise UserError(
            Bilingual(
                f"{file} needs {shift + len(processor)} ids, but config.json allows {size} (vocab_size). "
                "Take both files from the same release of the model.",
                f"{file}：词表与 config.json 不匹配：请从同一版本的模型中取这两个文件。",
            )
        )
    return ChatGLMTokenizer(processor, special, shift=shift)


def _read_model(file: Path) -> SentencePieceProcessor:
    content = read_model_file(file, "a SentencePiece model")
    try:
        processor = SentencePieceProcessor(model_proto=_with_standard_pieces(content))
    except RuntimeError as error:
        raise UserError(
            Bilingual(
                f"{file} ({len(content)} bytes) is no SentencePiece model, or is truncated. Download the file again.",
                f"{file}：不是 SentencePiece 模型，或文件不完整：请重新下载。",
            )
        ) from error
    return processor


def _with_standard_pieces(content: bytes) -> bytes:
    """Append missing special, whitespace and byte pieces to a SentencePiece model.

    Concatenated protocol buffers are merged: repeated fields are joined, of other fields the last one counts. The fields are
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
