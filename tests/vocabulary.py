"""A SentencePiece vocabulary of a few hundred pieces, trained when asked for, with the flags of ChatGLM-6B's."""

from functools import cache
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

from imprint.templates.chatglm import ChatGLMTemplate
from imprint.tokenizers import VOCABULARY_FILE, ChatGLMTokenizer, read_tokenizer

CLOTHES = ("上衣", "长裙", "外套", "衬衫")
COLOURS = ("白色", "黑色", "蓝色", "红色")
LINES = [f"这件{what}的颜色是{colour}，版型很宽松。" for what in CLOTHES for colour in COLOURS] + [
    "Round 0 and Round 1: hello world, this is a test of 0123456789 [ ] < > # * | _ / \\ ( ) . , ! ?",
    "类型#上衣*颜色#白色 问：你好 答：你好！很高兴见到你。",
    "the quick brown fox jumps over the lazy dog THE QUICK BROWN FOX",
]


@cache
def vocabulary(*symbols: str) -> bytes:
    """The bare file, as the first edition ships it: no control, tab, blank or byte pieces; `symbols` are pieces that can be typed."""
    written = BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(LINES * 4),
        model_writer=written,
        vocab_size=200,
        character_coverage=1.0,
        user_defined_symbols=["<n>", *symbols],
        pad_id=3,
        split_digits=True,
        hard_vocab_limit=False,
        num_threads=1,
        minloglevel=2,
    )
    return written.getvalue()


def configuration(*, pieces: int, shift: int = 0) -> dict[str, object]:
    """A config.json for a vocabulary whose bare file has so many pieces, with so many image tokens in front."""
    first = pieces + shift
    return {
        "vocab_size": first + 8 + 80 + 256,
        "mask_token_id": first,
        "gmask_token_id": first + 1,
        "bos_token_id": first + 4,
        "eos_token_id": first + 5,
        "pad_token_id": shift + 3,
    }


@cache
def tiny_tokenizer(shift: int = 0) -> ChatGLMTokenizer:
    """A tokenizer on that vocabulary, read from a folder as any other."""
    with TemporaryDirectory() as folder:
        (Path(folder) / VOCABULARY_FILE).write_bytes(vocabulary())
        tokenizer = read_tokenizer(Path(folder), configuration(pieces=bare_pieces(), shift=shift))
    assert isinstance(tokenizer, ChatGLMTokenizer)
    return tokenizer


@cache
def tiny_template(shift: int = 0) -> ChatGLMTemplate:
    """ChatGLM-6B's template on it."""
    return ChatGLMTemplate(tiny_tokenizer(shift))


@cache
def bare_pieces() -> int:
    """How many pieces the bare file has."""
    return len(SentencePieceProcessor(model_proto=vocabulary()))
