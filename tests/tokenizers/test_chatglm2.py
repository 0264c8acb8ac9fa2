import json
import random
from pathlib import Path

import pytest
from sentencepiece import SentencePieceProcessor

from imprint.messages import UserError
from imprint.tokenizers import ChatGLM2Tokenizer, read_tokenizer
from imprint.tokenizers.chatglm2 import read_chatglm2
from tests.families import SECOND, chatglm2_vocabulary

RELEASED = {**SECOND, "padded_vocab_size": 65024, "eos_token_id": 2}
"""The fields of the released config.json that a tokenizer is checked against."""


def official(shared: Path, model: str) -> ChatGLM2Tokenizer:
    found = read_tokenizer(shared / "tokenizers" / model, RELEASED)
    assert isinstance(found, ChatGLM2Tokenizer)
    return found


@pytest.mark.parametrize("model", ["chatglm2-6b", "chatglm3-6b"])
def test_known_pairs_of_other_implementations_hold(shared: Path, model: str) -> None:
    tokenizer = official(shared, model)
    start = [tokenizer.controls["[gMASK]"], tokenizer.controls["sop"]]
    pairs = [pair for pair in json.loads((shared / "tokenizers" / "known_pairs.json").read_text()) if pair["model"] == model]
    texts = [pair for pair in pairs if "text" in pair]
    assert len(texts) == {"chatglm2-6b": 6, "chatglm3-6b": 1}[model]
    for pair in texts:
        ids = tokenizer.encode(pair["text"])
        if "text_pair" in pair:
            ids = [*ids, *tokenizer.encode(pair["text_pair"]), tokenizer.controls["</s>"]]
        assert (ids if pair["note"] == "no special tokens" else [*start, *ids]) == pair["ids"]


def test_the_released_ids_are_where_the_original_has_them(shared: Path) -> None:
    tokenizer = official(shared, "chatglm3-6b")
    names = ["[MASK]", "[gMASK]", "[sMASK]", "sop", "eop", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"]
    assert [tokenizer.controls[name] for name in names] == list(range(64789, 64798))
    assert tokenizer.controls["</s>"] == 2
    assert len(tokenizer) == 64789


def test_any_ids_decode_as_sentencepiece_decodes_them() -> None:
    processor, rng = SentencePieceProcessor(model_proto=chatglm2_vocabulary()), random.Random(0)
    tokenizer = ChatGLM2Tokenizer(processor)
    space = processor.piece_to_id("\u2581")
    for _ in range(2000):
        ids = [rng.choice([rng.randrange(3, 259), rng.randrange(3, len(processor)), space]) for _ in range(rng.randint(0, 8))]
        assert tokenizer.decode(ids) == processor.decode(ids), ids


def test_a_newline_a_tab_and_many_spaces_are_kept(tmp_path: Path) -> None:
    tokenizer = ChatGLM2Tokenizer(SentencePieceProcessor(model_proto=chatglm2_vocabulary()))
    text = "\t   \t     \n \n"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert [tokenizer.token_text(token) for token in tokenizer.encode("\n")] == ["\u2581", "<0x0A>"]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is empty, where a SentencePiece model is needed. Download the file again."),
        (b"\x00nothing", "(8 bytes) is no SentencePiece model, or is truncated. Download the file again."),
    ],
)
def test_a_broken_file_is_reported(tmp_path: Path, content: bytes, sentence: str) -> None:
    (tmp_path / "tokenizer.model").write_bytes(content)
    with pytest.raises(UserError) as error:
        read_chatglm2(tmp_path / "tokenizer.model")
    assert str(error.value).startswith(f"{tmp_path / 'tokenizer.model'} {sentence}")


def test_a_vocabulary_of_another_kind_is_reported(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(chatglm2_vocabulary(byte_fallback=False))
    with pytest.raises(UserError, match="without </s>, <unk> or byte pieces, so it is not that of ChatGLM2 or ChatGLM3"):
        read_chatglm2(tmp_path / "tokenizer.model")
