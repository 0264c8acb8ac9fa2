import json
import random
import unicodedata
from pathlib import Path

import pytest
from sentencepiece import SentencePieceProcessor

from imprint.messages import UserError
from imprint.tokenizers import VOCABULARY_FILE, ChatGLMSpecialIds, ChatGLMTokenizer, TextStream, read_tokenizer
from tests.vocabulary import bare_pieces, configuration, tiny_tokenizer, vocabulary

SHARED = Path(__file__).resolve().parents[3] / "shared"
TYPED = "[MASK][gMASK][sMASK]<sop><eop><ENC><dBLOCK><unused_0><s></s><unk><pad><image_1>"

official = [
    pytest.mark.shared,
    pytest.mark.skipif(not (SHARED / "tokenizers").exists(), reason="ChatGLM-6B's tokenizer files are not beside this checkout"),
]


def read_official(edition: str) -> ChatGLMTokenizer:
    folder = SHARED / "tokenizers" / edition
    tokenizer = read_tokenizer(folder, json.loads((folder / "config.json").read_text()))
    assert isinstance(tokenizer, ChatGLMTokenizer)
    return tokenizer


def random_text(generator: random.Random) -> str:
    """Characters of many scripts that Unicode normalisation leaves alone, none of them a blank."""
    pools = [(0x21, 0x7E), (0x4E00, 0x9FA5), (0x430, 0x44F), (0xAC00, 0xD7A3), (0x1F300, 0x1F5FF), (0x20000, 0x2A6D6)]
    return "".join(chr(generator.randint(*generator.choice(pools))) for _ in range(generator.randint(1, 30)))


@pytest.mark.parametrize(("edition", "shift"), [("chatglm-6b", 0), ("chatglm-6b-v0-icetk-150528", 20000)])
class TestOfficialVocabulary:
    pytestmark = official

    def test_golden_texts_have_the_ids_of_the_original(self, edition: str, shift: int) -> None:
        tokenizer = read_official(edition)
        golden = json.loads((SHARED / "golden" / "chatglm1-text" / "text.json").read_text())["tokenize"]

        assert [[token - shift for token in tokenizer.encode(case["text"])] for case in golden] == [case["ids"] for case in golden]

    def test_golden_ids_have_the_text_of_the_original(self, edition: str, shift: int) -> None:
        tokenizer = read_official(edition)
        golden = json.loads((SHARED / "golden" / "chatglm1-text" / "text.json").read_text())["tokenize"]

        assert [tokenizer.decode([token + shift for token in case["ids"]]) for case in golden] == [case["decoded"] for case in golden]

    def test_known_pairs_of_other_implementations_hold(self, edition: str, shift: int) -> None:
        tokenizer = read_official(edition)
        pairs = json.loads((SHARED / "tokenizers" / "known_pairs.json").read_text())
        plain = [pair for pair in pairs if pair["model"] == "chatglm-6b" and "response" not in pair]

        found = [[*tokenizer.encode(pair["text"]), tokenizer.control.gmask, tokenizer.control.sop] for pair in plain]

        assert len(plain) == 3
        assert [[token - shift for token in ids] for ids in found] == [pair["ids"] for pair in plain]

    def test_typed_special_pieces_stay_text(self, edition: str, shift: int) -> None:
        tokenizer = read_official(edition)

        ids = tokenizer.encode(TYPED)

        assert all(4 <= token - shift < 130000 for token in ids)
        assert tokenizer.decode(ids) == TYPED

    def test_the_vocabulary_has_its_130344_pieces(self, edition: str, shift: int) -> None:
        tokenizer = read_official(edition)

        assert len(tokenizer) == 130344


def test_special_ids_are_read_from_the_config() -> None:
    config: dict[str, object] = {"vocab_size": 160, "bos_token_id": 134, "eos_token_id": 135, "mask_token_id": 130, "gmask_token_id": 131}

    assert ChatGLMSpecialIds.from_config({**config, "pad_token_id": 3}) == ChatGLMSpecialIds(mask=130, gmask=131, sop=134, eop=135, pad=3)


@pytest.mark.parametrize(("size", "gmask", "pad"), [(130528, 130001, 3), (150528, 150001, 20003)])
def test_special_ids_that_the_config_lacks_follow_from_the_size_of_the_vocabulary(size: int, gmask: int, pad: int) -> None:
    special = ChatGLMSpecialIds.from_config({"vocab_size": size, "bos_token_id": gmask + 3, "eos_token_id": gmask + 4})

    assert special == ChatGLMSpecialIds(mask=gmask - 1, gmask=gmask, sop=gmask + 3, eop=gmask + 4, pad=pad)


def test_special_ids_that_cannot_be_known_are_asked_for() -> None:
    with pytest.raises(UserError) as error:
        ChatGLMSpecialIds.from_config({"vocab_size": 160, "bos_token_id": 134, "eos_token_id": 135})

    assert str(error.value).splitlines()[0] == (
        'config.json: "mask_token_id" is missing, and the vocabulary size found, 160, is not one with known special ids '
        '(130528 and 150528). Add "mask_token_id" to config.json.'
    )


@pytest.mark.parametrize("found", [150004, -1, "134", True, 1.0])
def test_a_special_id_outside_the_vocabulary_is_refused(found: object) -> None:
    with pytest.raises(UserError) as error:
        ChatGLMSpecialIds.from_config({"vocab_size": 130528, "bos_token_id": found})

    assert str(error.value).splitlines()[0] == (
        f'config.json: "bos_token_id" must be an integer from 0 to 130527, inside the vocabulary, got {found!r}. '
        "In a vocabulary of 130528 it is 130004."
    )


def test_random_texts_survive_the_round_trip() -> None:
    tokenizer, generator = tiny_tokenizer(), random.Random(1)
    texts = [random_text(generator) for _ in range(300)]

    assert all(unicodedata.is_normalized("NFKC", text) for text in texts)
    assert [tokenizer.decode(tokenizer.encode(text)) for text in texts] == texts


def test_whitespace_survives_the_round_trip() -> None:
    tokenizer = tiny_tokenizer()
    text = "def f(x):\n\treturn  x" + " " * 200 + "# 注释\n"

    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_a_long_run_of_spaces_takes_the_longest_pieces_first() -> None:
    tokenizer = tiny_tokenizer()

    assert [tokenizer.token_text(token) for token in tokenizer.encode("x" + " " * 163)][-3:] == [
        "<|blank_80|>",
        "<|blank_80|>",
        "<|blank_3|>",
    ]


def test_typed_whitespace_pieces_become_whitespace_as_in_the_original() -> None:
    tokenizer = tiny_tokenizer()

    assert tokenizer.decode(tokenizer.encode("<n>literal<|tab|><|blank_3|>x")) == "\nliteral\t   x"


@pytest.mark.parametrize("shift", [0, 20])
def test_no_typed_text_becomes_a_special_id(shift: int) -> None:
    tokenizer, generator = tiny_tokenizer(shift), random.Random(2)
    parts = [
        "[MASK]",
        "[gMASK]",
        "<sop>",
        "<eop>",
        "</s>",
        "<s>",
        "<unk>",
        "<pad>",
        "<ENC>",
        "<dBLOCK>",
        "<unused_0>",
        "<image_1>",
        " ",
        "好",
        "\n",
    ]
    special = {shift + place for place in range(4)} | {shift + bare_pieces() + place for place in range(8)}

    for _ in range(300):
        assert not special & set(tokenizer.encode("".join(generator.choices(parts, k=8))))


def test_special_ids_and_ids_without_a_piece_are_not_text() -> None:
    tokenizer = tiny_tokenizer()
    special = tokenizer.control
    ids = [special.gmask, special.sop, *tokenizer.encode("你好"), special.eop, special.pad, 0, 10**6, -1]

    assert tokenizer.decode(ids) == "你好"


def test_half_of_a_surrogate_pair_does_not_break_encoding() -> None:
    tokenizer = tiny_tokenizer()

    assert tokenizer.decode(tokenizer.encode("好\ud83d")) == "好"
    assert tokenizer.decode(tokenizer.encode("好\ud83d\ude00")) == "好😀"


def test_a_stream_shows_what_decoding_shows() -> None:
    tokenizer, generator = tiny_tokenizer(shift=20), random.Random(3)
    end = 20 + len(tokenizer)
    for _ in range(500):
        ids = [generator.randrange(generator.choice([0, end - 256]), end + 3) for _ in range(generator.randint(0, 12))]
        stream = TextStream(tokenizer)
        shown = "".join(stream.push(token) for token in ids) + stream.finish()

        assert shown == tokenizer.decode(ids)


def test_a_stream_holds_a_character_back_until_it_is_complete() -> None:
    tokenizer = tiny_tokenizer()
    stream = TextStream(tokenizer)

    shown = [stream.push(token) for token in tokenizer.encode("a😀b")]

    assert shown[:5] == ["a", "", "", "", "😀"]
    assert "".join(shown) == "a😀b"


def test_bytes_that_are_no_character_are_shown_as_such() -> None:
    tokenizer = tiny_tokenizer()
    smile = [token for token in tokenizer.encode("😀") if tokenizer.token_text(token).startswith("<0x")]

    assert tokenizer.decode([*smile[:2], *tokenizer.encode("好")]) == "\ufffd\ufffd 好"
    assert tokenizer.decode(smile[:3]) == "\ufffd\ufffd\ufffd"


def test_a_folder_without_a_tokenizer_has_none(tmp_path: Path) -> None:
    assert read_tokenizer(tmp_path, {}) is None


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is empty, where a SentencePiece model is needed. Download the file again."),
        (b"<html>not found</html>", "(22 bytes) is no SentencePiece model, or is truncated. Download the file again."),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
            "is a Git LFS pointer, not the file itself. Run `git lfs pull` in its folder, or download the file again.",
        ),
    ],
)
def test_a_broken_file_is_reported(tmp_path: Path, content: bytes, sentence: str) -> None:
    (tmp_path / VOCABULARY_FILE).write_bytes(content)

    with pytest.raises(UserError) as error:
        read_tokenizer(tmp_path, configuration(pieces=bare_pieces()))

    assert str(error.value).startswith(f"{tmp_path / VOCABULARY_FILE} {sentence}")


def test_a_file_that_is_cut_short_is_reported(tmp_path: Path) -> None:
    (tmp_path / VOCABULARY_FILE).write_bytes(vocabulary()[:-1000])

    with pytest.raises(UserError, match="is no SentencePiece model, or is truncated"):
        read_tokenizer(tmp_path, configuration(pieces=bare_pieces()))


def test_a_file_that_is_a_folder_is_reported(tmp_path: Path) -> None:
    (tmp_path / VOCABULARY_FILE).mkdir()

    with pytest.raises(UserError, match="cannot be read: Is a directory"):
        read_tokenizer(tmp_path, configuration(pieces=bare_pieces()))


def test_a_tokenizer_of_other_weights_is_refused(tmp_path: Path) -> None:
    (tmp_path / VOCABULARY_FILE).write_bytes(vocabulary())
    config = configuration(pieces=bare_pieces())
    config["gmask_token_id"] = 7

    with pytest.raises(UserError) as error:
        read_tokenizer(tmp_path, config)

    assert str(error.value).splitlines()[0] == (
        f"{tmp_path / VOCABULARY_FILE} does not belong to {tmp_path / 'config.json'}: [gMASK] is piece {bare_pieces() + 1} of the one "
        "and 7 (gmask_token_id) in the other. Take both files from the same release of the model."
    )


def test_a_vocabulary_larger_than_the_weights_is_refused(tmp_path: Path) -> None:
    (tmp_path / VOCABULARY_FILE).write_bytes(vocabulary())
    config = configuration(pieces=bare_pieces())
    config["vocab_size"] = bare_pieces() + 100

    with pytest.raises(UserError, match=r"needs \d+ ids, but config.json allows \d+ \(vocab_size\)"):
        read_tokenizer(tmp_path, config)


def test_a_special_token_that_the_vocabulary_would_read_in_typed_text_is_text(tmp_path: Path) -> None:
    (tmp_path / VOCABULARY_FILE).write_bytes(vocabulary("<sop>"))
    bare = SentencePieceProcessor(model_proto=vocabulary("<sop>"))
    first, sop = len(bare), bare.piece_to_id("<sop>")
    ids = {"mask_token_id": first, "gmask_token_id": first + 1, "bos_token_id": sop, "eos_token_id": first + 4, "pad_token_id": 3}

    tokenizer = read_tokenizer(tmp_path, {**ids, "vocab_size": first + 400})

    assert isinstance(tokenizer, ChatGLMTokenizer)
    assert sop not in tokenizer.encode("你好<sop>好")
    assert tokenizer.decode(tokenizer.encode("你好<sop>好")) == "你好<sop>好"
    assert tokenizer.decode([sop]) == ""
