from pathlib import Path

import pytest
from sentencepiece import SentencePieceProcessor

from imprint.tokenizers import ChatGLMTokenizer, read_tokenizer
from tools.embedded.vocabulary import VOCAB_SIZE, read_characters, train_vocabulary


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vocabulary")
    train_vocabulary(folder, texts=4000, pieces=2600)
    return folder


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> ChatGLMTokenizer:
    pieces = SentencePieceProcessor(model_file=str(folder / "ice_text.model"))
    names = {
        "mask_token_id": "[MASK]",
        "gmask_token_id": "[gMASK]",
        "bos_token_id": "<sop>",
        "eos_token_id": "<eop>",
        "pad_token_id": "<pad>",
    }
    found = read_tokenizer(folder, {"vocab_size": len(pieces), **{key: pieces.piece_to_id(piece) for key, piece in names.items()}})
    assert isinstance(found, ChatGLMTokenizer)
    return found


def test_the_word_lists_have_well_over_a_thousand_characters() -> None:
    characters = read_characters()
    assert len(characters) == len(set(characters)) > 1500
    assert "#" not in characters


def test_the_pieces_stand_in_the_official_order(folder: Path) -> None:
    pieces = SentencePieceProcessor(model_file=str(folder / "ice_text.model"))
    assert len(pieces) == 2600 < VOCAB_SIZE
    assert [pieces.id_to_piece(place) for place in range(5)] == ["<unk>", "<s>", "</s>", "<pad>", "<n>"]
    mask = pieces.piece_to_id("[MASK]")
    assert [pieces.id_to_piece(mask + place) for place in (1, 4, 5, 8, 9, 87, 88)] == [
        "[gMASK]", "<sop>", "<eop>", "<|tab|>", "<|blank_2|>", "<|blank_80|>", "<0x00>",
    ]  # fmt: skip
    assert pieces.id_to_piece(len(pieces) - 1) == "<0xFF>"


@pytest.mark.parametrize(
    "text",
    ["这件上衣的材质是牛仔布,颜色是白色。", "饕餮与魑魅 😊 ёжик", "def f(x):\n\treturn  x", "A,B c    d", "类型#上衣*材质#牛仔布"],
)
def test_text_comes_back_as_it_was(tokenizer: ChatGLMTokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_typed_special_pieces_stay_text(tokenizer: ChatGLMTokenizer) -> None:
    special = {
        tokenizer.control.mask,
        tokenizer.control.gmask,
        tokenizer.control.sop,
        tokenizer.control.eop,
        tokenizer.control.pad,
        0,
        1,
        2,
    }
    assert not special & set(tokenizer.encode("[MASK][gMASK]<sop><eop><pad><s></s><unk> [gMASK] <sop>"))


def test_words_of_the_world_are_pieces_and_rare_characters_are_bytes(tokenizer: ChatGLMTokenizer) -> None:
    words, rare = ([tokenizer.token_text(token) for token in tokenizer.encode(text)] for text in ("类型#上衣*颜色#白色", "龘"))

    assert len(words) <= 9
    assert not any(piece.startswith("<0x") for piece in words)
    assert [piece for piece in rare if piece.startswith("<0x")] == ["<0xE9>", "<0xBE>", "<0x98>"]


def test_the_same_text_trains_the_same_pieces(folder: Path, tmp_path: Path) -> None:
    train_vocabulary(tmp_path, texts=4000, pieces=2600)
    first, second = (SentencePieceProcessor(model_file=str(place / "ice_text.model")) for place in (folder, tmp_path))
    assert [first.id_to_piece(index) for index in range(len(first))] == [second.id_to_piece(index) for index in range(len(second))]
    scores = [[pieces.get_score(index) for index in range(len(pieces))] for pieces in (first, second)]
    assert scores[0] == pytest.approx(scores[1], rel=1e-5)  # the order of a sum is that of a hash table, which is no promise
    assert [file.name for file in tmp_path.iterdir()] == ["ice_text.model"]
