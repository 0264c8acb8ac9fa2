import json
import os
import random
from pathlib import Path

import pytest
from tokenizers import Tokenizer as Rust

from imprint.export.vocabulary import RENAMED, letters_of_bytes, sentencepiece_json, tiktoken_json
from imprint.tokenizers import ChatGLM2Tokenizer, GLM4Tokenizer, read_tokenizer
from imprint.tokenizers.glm4 import SPLIT
from tests.families import chatglm2_folder, fields_of, glm4_folder

SHARED = Path(os.environ.get("IMPRINT_SHARED", Path(__file__).parents[3] / "shared")) / "tokenizers"
ALPHABET = "你好上衣白色 \n\tabchello<>|[]sopSOP'1230，。👋é\u3000"
TEXTS = ["", " ", "\n", "你好", "philosophy sop", "  a  b\n\n\tc", "def f(x):\n    return x+1\n", "👋é\u3000１２"]


def random_texts(count: int, seed: int = 0) -> list[str]:
    chance = random.Random(seed)
    return ["".join(chance.choices(ALPHABET, k=chance.randrange(40))) for _ in range(count)]


def rust_of(tokenizer: ChatGLM2Tokenizer | GLM4Tokenizer) -> Rust:
    if isinstance(tokenizer, GLM4Tokenizer):
        return Rust.from_str(json.dumps(tiktoken_json(tokenizer.pieces, SPLIT, tokenizer.controls)))
    return Rust.from_str(json.dumps(sentencepiece_json(*tokenizer.scored_pieces(), tokenizer.controls)))


def tiny(folder: Path, name: str) -> ChatGLM2Tokenizer | GLM4Tokenizer:
    made = (glm4_folder if name == "glm4" else chatglm2_folder)(folder)
    found = read_tokenizer(made, fields_of(made))
    assert isinstance(found, ChatGLM2Tokenizer | GLM4Tokenizer)
    return found


@pytest.mark.parametrize("name", ["chatglm2", "glm4"])
def test_a_text_has_the_same_ids_and_comes_back(tmp_path: Path, name: str) -> None:
    ours = tiny(tmp_path / "base", name)
    rust = rust_of(ours)

    for text in [*TEXTS, *random_texts(300)]:
        ids = ours.encode(text)
        assert rust.encode(text, add_special_tokens=False).ids == ids, text
        assert rust.decode(ids) == ours.decode(ids), text


@pytest.mark.parametrize("name", ["chatglm2", "glm4"])
def test_special_tokens_keep_their_ids_and_stand_before_a_text(tmp_path: Path, name: str) -> None:
    ours = tiny(tmp_path / "base", name)
    rust = rust_of(ours)

    assert all(rust.token_to_id(RENAMED.get(control, control)) == place for control, place in ours.controls.items())
    start = [ours.controls["[gMASK]"], ours.controls["<sop>" if name == "glm4" else "sop"]]
    assert rust.encode("你好").ids == [*start, *ours.encode("你好")]


def test_an_english_word_with_sop_in_it_is_no_special_token(tmp_path: Path) -> None:
    ours = tiny(tmp_path / "base", "chatglm2")

    assert rust_of(ours).encode("philosophy", add_special_tokens=False).ids == ours.encode("philosophy")


def test_every_byte_has_a_letter_of_its_own() -> None:
    letters = letters_of_bytes()

    assert len(set(letters)) == 256
    assert (letters[ord("a")], letters[ord(" ")], letters[10]) == ("a", "Ġ", "Ċ")


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.exists(), reason="the official tokenizer files are not beside this checkout")
def test_the_official_vocabulary_of_chatglm3_has_the_same_ids() -> None:
    ours = read_tokenizer(SHARED / "chatglm3-6b", {"model_type": "chatglm", "multi_query_group_num": 2, "padded_vocab_size": 65024})
    assert isinstance(ours, ChatGLM2Tokenizer)
    rust = rust_of(ours)

    for text in [*TEXTS, *random_texts(300)]:
        assert rust.encode(text, add_special_tokens=False).ids == ours.encode(text), text
