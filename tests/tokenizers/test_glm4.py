import base64
import json
import random
from pathlib import Path

import pytest
import tiktoken

from imprint.messages import UserError
from imprint.tokenizers import GLM4Tokenizer, read_tokenizer
from imprint.tokenizers.glm4 import MAX_SPACES, SPLIT, is_ranks, read_glm4
from tests.families import SECOND, chatglm2_vocabulary, ranks

RELEASED = {**SECOND, "padded_vocab_size": 151552, "eos_token_id": [151329, 151336, 151338]}
"""The fields of the released config.json that a tokenizer is checked against."""


def tiny(folder: Path, content: bytes = b"") -> GLM4Tokenizer:
    (folder / "tokenizer.model").write_bytes(content or ranks())
    return read_glm4(folder / "tokenizer.model")


def test_known_pairs_of_other_implementations_hold(shared: Path) -> None:
    tokenizer = read_tokenizer(shared / "tokenizers" / "glm-4-9b", RELEASED)
    assert isinstance(tokenizer, GLM4Tokenizer)
    start = [tokenizer.controls["[gMASK]"], tokenizer.controls["<sop>"]]
    pairs = json.loads((shared / "tokenizers" / "known_pairs.json").read_text())
    texts = [pair for pair in pairs if pair["model"] == "glm-4-9b" and "text" in pair]
    assert len(texts) == 3
    for pair in texts:
        ids = tokenizer.encode(pair["text"])
        assert (ids if "no special tokens" in pair["note"] else [*start, *ids]) == pair["ids"]


def test_the_released_special_ids_are_where_the_original_has_them(shared: Path) -> None:
    tokenizer = read_tokenizer(shared / "tokenizers" / "glm-4-9b", RELEASED)
    assert tokenizer is not None
    special_tokens = json.loads((shared / "tokenizers" / "glm-4-9b" / "tokenizer_config.json").read_text())["added_tokens_decoder"]
    assert tokenizer.controls == {token["content"]: int(place) for place, token in special_tokens.items()}


def test_any_ids_decode_as_tiktoken_decodes_them(tmp_path: Path) -> None:
    tokenizer, rng = tiny(tmp_path), random.Random(0)
    pieces = {base64.b64decode(line.split()[0]): int(line.split()[1]) for line in ranks().splitlines()}
    reference = tiktoken.Encoding("tiny", pat_str=SPLIT, mergeable_ranks=pieces, special_tokens={})
    for _ in range(2000):
        ids = [rng.randrange(len(pieces)) for _ in range(rng.randint(0, 8))]
        assert tokenizer.decode(ids) == reference.decode(ids), ids


def test_words_marks_digits_and_lines_are_taken_apart(tmp_path: Path) -> None:
    regex = pytest.importorskip("regex")
    assert regex.findall(SPLIT, "I'm at 12345 a.m.!\n\n  好的") == ["I", "'m", " at", " ", "123", "45", " a", ".m", ".!\n\n", " ", " 好的"]


def test_a_file_of_ranks_is_distinguished_from_sentencepiece() -> None:
    assert is_ranks(ranks())
    assert not is_ranks(chatglm2_vocabulary())
    assert not is_ranks(b"")


def test_a_piece_is_readable(tmp_path: Path) -> None:
    tokenizer = tiny(tmp_path)
    assert [tokenizer.token_text(token) for token in tokenizer.encode("hello w")] == ["hell", "o", "\u2581w"]
    assert tokenizer.token_text(len(tokenizer) - 1) == "<0xE8><0xA1>"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"!! 0\n", ":1: must be a piece in base64 and its rank, got \"b'!! 0'\". Download it again."),
        (b"IQ==\n", ":1: must be a piece in base64 and its rank, got \"b'IQ=='\". Download it again."),
        (b"IQ== 5\n", " has 1 different pieces, but their ranks are not 0 to 0. Download it again."),
        (b"IQ== 0\n", " lacks 255 of the 256 single bytes, so not every text can be encoded. Download it again."),
    ],
)
def test_a_broken_file_is_reported(tmp_path: Path, content: bytes, sentence: str) -> None:
    with pytest.raises(UserError) as error:
        tiny(tmp_path, content)
    assert str(error.value).splitlines()[0] == f"{tmp_path / 'tokenizer.model'}{sentence}"


@pytest.mark.parametrize("text", [" " * MAX_SPACES, "\n" + "\u3000" * MAX_SPACES + "x", "\n" * 9 + " " * MAX_SPACES])
def test_so_many_spaces_that_the_library_panics_are_an_error_of_the_user(tmp_path: Path, text: str) -> None:
    with pytest.raises(UserError, match="999,999 spaces in a row, or about as many, which the tokenizer of GLM-4 cannot encode"):
        tiny(tmp_path).encode(text)


def test_as_many_spaces_as_the_library_takes_are_encoded(tmp_path: Path) -> None:
    tokenizer = tiny(tmp_path)
    for text in (" " * (MAX_SPACES - 1), " " * MAX_SPACES + "\n"):
        assert tokenizer.decode(tokenizer.encode(text)) == text
