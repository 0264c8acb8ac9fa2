"""Trains the embedded base's SentencePiece vocabulary, with pieces in the order of ChatGLM-6B's."""

import re
from collections import Counter
from collections.abc import Iterable
from importlib import import_module
from importlib.resources import files
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Final

from imprint.data.sample import Sample
from imprint.demo.corpus import documents
from imprint.demo.goods import read_goods
from imprint.demo.stories import ASCII
from imprint.demo.town import read_town
from imprint.demo.words import read_sections
from imprint.tokenizers import BYTE_PIECES, SPACE, SPECIAL_PIECES, VOCABULARY_FILE, WHITESPACE

VOCAB_SIZE: Final = 3_584
"""Number of pieces: text, control, whitespace and bytes."""
COVERAGE: Final = 0.9985
"""Share of the corpus' characters with a piece of their own, besides those of the word lists; the others fall back to bytes."""
MIN_SEED_COUNT: Final = 20
"""Minimum count of a string to become a candidate piece."""
RUNS: Final = re.compile(f"[\u4e00-\u9fff]+|{SPACE}?[A-Za-z]+")
"""Sequences of Chinese characters, and Latin words with a preceding space."""
MAX_PIECE_LENGTH: Final = 4
"""Maximum characters of a piece."""
MAX_CHINESE_LENGTH: Final = 2
"""Maximum characters of a Chinese piece that is no name in the word lists; more would fill the vocabulary with set phrases."""


def train_vocabulary(folder: Path, *, pieces: int = VOCAB_SIZE, texts: int = 60_000, seed: int = 0) -> Path:
    """Write `ice_text.model` into an existing folder: the same bytes for the same arguments and SentencePiece version.

    The order of the pieces is that of the official file: <unk> <s> </s> <pad> <n>, text by falling score, [MASK] ... <dBLOCK>, <|tab|>,
    the blanks, 256 bytes. The normalization is the official one too: nmt_nfkc, joined spaces, a leading space.
    """
    from sentencepiece import SentencePieceTrainer

    model = BytesIO()
    whitespace = list(WHITESPACE)
    lines = [line for sample in islice(documents(seed), texts) for line in _lines(sample)]
    seeds = folder / "seeds.tsv"
    seeds.write_text("".join([f"{piece}\t{count}\n" for piece, count in _count_seeds(lines)]), encoding="utf-8")
    SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        seed_sentencepieces_file=str(seeds),
        model_writer=model,
        model_type="unigram",
        vocab_size=pieces,
        character_coverage=COVERAGE,
        required_chars=read_characters().replace(" ", "") + ASCII,
        byte_fallback=True,
        split_digits=True,
        normalization_rule_name="nmt_nfkc",
        add_dummy_prefix=False,  # otherwise most pieces would be learned twice, with and without a leading space
        remove_extra_whitespaces=True,
        pad_id=3,
        control_symbols=list(SPECIAL_PIECES),
        user_defined_symbols=whitespace,
        max_sentencepiece_length=MAX_PIECE_LENGTH,
        num_threads=1,
        minloglevel=2,
    )
    seeds.unlink()
    path = folder / VOCABULARY_FILE
    path.write_bytes(_reorder(model.getvalue(), whitespace))
    return path


def read_characters() -> str:
    """The distinct characters of all word lists, without comments, sorted."""
    names = [file.name.removesuffix(".txt") for file in (files("imprint.demo") / "words").iterdir()]
    entries = [entry for name in names for section in read_sections(name).values() for entry in section]
    return "".join(sorted({character for entry in entries for field in entry for character in field}))


def _count_seeds(lines: Iterable[str]) -> list[tuple[str, int]]:
    """(candidate piece, count): Chinese substrings and Latin words that occur often enough, most frequent first.

    SentencePiece's own search skips a string that is always followed by the same character (类型 by #), like most words of a small corpus.
    """
    counts: Counter[str] = Counter()
    for line in lines:
        for run in RUNS.findall(line.replace(" ", SPACE)):
            if run[-1].isascii():
                counts[run] += 1
            else:
                counts.update(run[first : first + size] for size in range(1, MAX_PIECE_LENGTH + 1) for first in range(len(run) - size + 1))
    names = _names()
    frequent = [(piece, count) for piece, count in counts.items() if count >= MIN_SEED_COUNT and _is_seed(piece, names)]
    return sorted(frequent, key=lambda seed: (-seed[1], seed[0]))


def _is_seed(piece: str, names: frozenset[str]) -> bool:
    return len(piece) <= MAX_CHINESE_LENGTH or piece[-1].isascii() or piece in names


def _names() -> frozenset[str]:
    """Names in the word lists: attributes, values, and the people, shops and streets of the town."""
    values = [value for by_key in read_goods().values.values() for values_of_key in by_key.values() for value in values_of_key]
    town = read_town()
    goods = [name for value in values for name in (value.attribute, value.word)]
    return frozenset([*goods, *town.shop_names, *[person["name"] for person in town.people], *[shop["street"] for shop in town.shops]])


def _lines(sample: Sample) -> list[str]:
    """The lines of a sample's texts."""
    turns = [text for turn in sample.history or () for text in turn]
    return [line for text in [*turns, sample.query, sample.answer] for line in text.split("\n") if line]


def _reorder(content: bytes, whitespace: list[str]) -> bytes:
    """The model with its pieces in the official order, and with a leading space before every text."""
    messages = import_module("sentencepiece.sentencepiece_model_pb2")
    model = messages.ModelProto.FromString(content)
    newline, *blanks = whitespace
    piece_by_name = {piece.piece: piece for piece in model.pieces}
    first = ["<unk>", "<s>", "</s>", "<pad>", newline]
    last = [*SPECIAL_PIECES, *blanks, *BYTE_PIECES]
    fixed = {*first, *last}
    text = [piece.piece for piece in model.pieces if piece.piece not in fixed]
    ordered = [piece_by_name[name] for name in [*first, *text, *last]]
    del model.pieces[:]
    model.pieces.extend(ordered)
    model.normalizer_spec.add_dummy_prefix = True
    if "seed_sentencepieces_file" in model.trainer_spec.DESCRIPTOR.fields_by_name:
        model.trainer_spec.ClearField("seed_sentencepieces_file")  # a temporary path, which would change the bytes
    reordered: bytes = model.SerializeToString(deterministic=True)
    return reordered
