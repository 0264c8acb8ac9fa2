"""What every tokenizer promises, whatever its family."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from imprint.messages import UserError
from imprint.tokenizers import TextStream, Tokenizer, read_tokenizer, text_as_read
from imprint.tokenizers.tokenizer import followers, readable, well_formed
from tests.families import chatglm2_folder, fields_of, glm4_folder, published_folder
from tests.vocabulary import tiny_tokenizer

FAMILIES: dict[str, Callable[[Path], Path] | None] = {
    "chatglm": None,
    "chatglm2": chatglm2_folder,
    "glm4": glm4_folder,
    "published": published_folder,
}
TYPED = ["[MASK]", "[gMASK]", "<sop>", "sop", "eop", "<eop>", "</s>", "<|user|>", "<|endoftext|>", "<|end|>", "<unk>", "好", " ", "\n"]


@pytest.fixture(scope="module", params=FAMILIES)
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    make = FAMILIES[request.param]
    if make is None:
        return tiny_tokenizer()
    folder = make(tmp_path_factory.mktemp("family"))
    found = read_tokenizer(folder, fields_of(folder))
    assert found is not None
    return found


def random_text(rng: random.Random) -> str:
    """Characters of many scripts that Unicode normalisation leaves alone, single spaces between them."""
    pools = [(0x21, 0x7E), (0x4E00, 0x9FA5), (0x430, 0x44F), (0xAC00, 0xD7A3), (0x1F300, 0x1F5FF), (0x20000, 0x2A6D6)]
    words = ["".join(chr(rng.randint(*rng.choice(pools))) for _ in range(rng.randint(1, 9))) for _ in range(rng.randint(1, 5))]
    return " ".join(words)


def test_random_texts_survive_the_round_trip(tokenizer: Tokenizer) -> None:
    rng = random.Random(1)
    texts = [random_text(rng) for _ in range(300)]
    assert [tokenizer.decode(tokenizer.encode(text)) for text in texts] == texts


def test_what_a_model_reads_is_the_text_of_the_ids_and_the_same_for_the_same_ids(tokenizer: Tokenizer) -> None:
    rng = random.Random(1)
    for text in ("", " ", "\n", " a  b", *(random_text(rng) for _ in range(200))):
        assert text_as_read(tokenizer, tokenizer.encode(text)).strip() == tokenizer.decode(tokenizer.encode(text)).strip()
    half = tokenizer.encode("龘")[:-1]
    assert "龘" not in text_as_read(tokenizer, half)


def test_code_survives_the_round_trip(tokenizer: Tokenizer) -> None:
    text = "def f(x):\n\treturn  x" + " " * 20 + "# 注释\n\n\nend"
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_no_typed_text_becomes_a_special_id(tokenizer: Tokenizer) -> None:
    rng, special = random.Random(2), set(tokenizer.controls.values())
    assert len(special) >= 5
    for _ in range(300):
        text = "".join(rng.choices([*TYPED, *tokenizer.controls], k=8))
        assert not special & set(tokenizer.encode(text)), text


def test_special_ids_and_ids_without_a_piece_are_not_text(tokenizer: Tokenizer) -> None:
    ids = [*tokenizer.controls.values(), *tokenizer.encode("你好"), 10**6, -1, *tokenizer.controls.values()]
    assert tokenizer.decode(ids) == "你好"
    assert all(tokenizer.token_text(token) == "" for token in (*tokenizer.controls.values(), 10**6, -1))


def test_a_stream_shows_what_decoding_shows_and_takes_nothing_back(tokenizer: Tokenizer) -> None:
    rng, last = random.Random(3), max(len(tokenizer), *tokenizer.controls.values()) + 2
    for _ in range(500):
        ids = [rng.choice([rng.randrange(last), *tokenizer.encode("好😀")]) for _ in range(rng.randint(0, 12))]
        stream = TextStream(tokenizer)
        assert "".join(stream.push(token) for token in ids) + stream.finish() == tokenizer.decode(ids)


def test_a_stream_holds_a_character_back_until_it_is_complete(tokenizer: Tokenizer) -> None:
    stream = TextStream(tokenizer)
    shown = [stream.push(token) for token in tokenizer.encode("a😀b")]
    assert "".join(shown) == "a😀b"
    assert "\ufffd" not in "".join(shown)
    assert len([text for text in shown if text == ""]) >= 2


def test_half_of_a_surrogate_pair_does_not_break_encoding(tokenizer: Tokenizer) -> None:
    assert tokenizer.decode(tokenizer.encode("好\ud83d\ude00")) == "好😀"
    assert tokenizer.decode(tokenizer.encode("好\ud83d")).startswith("好")


def test_the_ids_of_many_rows_are_the_same_objects(tokenizer: Tokenizer) -> None:
    one, other = tokenizer.encode("你好 hello"), tokenizer.encode("你好 hello")
    assert all(a is b for a, b in zip(one, other, strict=True))


def test_bytes_are_readable() -> None:
    assert readable(b" a b") == "\u2581a\u2581b"
    assert readable("你".encode()[:2]) == "<0xE4><0xBD>"


def test_lone_surrogates_are_replaced() -> None:
    assert well_formed("a\ud83d") == "a\ufffd"
    assert well_formed("\ud83d\ude00") == "😀"


@pytest.mark.parametrize("wrong", ["好", None, 1.0, [3], True])
def test_the_text_of_anything_but_an_id_is_refused(tokenizer: Tokenizer, wrong: Any) -> None:
    for method in (tokenizer.token_text, tokenizer.token_bytes):
        with pytest.raises(UserError, match=r"token: must be an integer, got"):
            method(wrong)


def test_ids_of_other_libraries_are_ids_and_ids_of_any_size_have_no_text(tokenizer: Tokenizer) -> None:
    token = tokenizer.encode("好")[-1]
    assert tokenizer.token_bytes(cast("int", np.int64(token))) == tokenizer.token_bytes(token)
    for beyond in (-1, -(2**70), 2**31, 2**32, 2**70):
        assert (tokenizer.token_text(beyond), tokenizer.token_bytes(beyond)) == ("", b"")


def test_what_follows_a_letter_within_pieces_says_where_a_text_can_be_divided() -> None:
    assert followers(["<n>", ">[x", "a>>b", ">", ""], ">") == {"[", ">", "b"}
    assert followers(["abc"], ">") == frozenset()
