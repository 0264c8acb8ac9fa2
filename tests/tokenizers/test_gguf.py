import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

import imprint
from imprint.export.from_gguf import import_gguf
from imprint.messages import UserError
from imprint.model import Model
from imprint.tokenizers import HFTokenizer
from imprint.tokenizers.gguf import generation_config, write_tokenizer
from tests.families import chatglm2_vocabulary, read_chatglm2_bytes, tokenizer_json
from tests.ggufs import TEMPLATE, gguf_file
from tests.vocabulary import LINES

TEXTS = (
    *LINES[:40],
    "def f(x):\n    return  12 + x\t# 注释",
    "It's 3.14 …  两个空格",
    "😀👩\u200d👧 é e\u0301",
    "<s>typed</s> <think> <|user|>",
    " ",
    "",
)


def bos_ids(model: Model) -> tuple[int, ...]:
    """What the tokenizer puts before every text."""
    assert isinstance(model.tokenizer, HFTokenizer)
    return model.tokenizer.special_tokens.bos_ids


def byte_level(**facts: object) -> dict[str, Any]:
    """Metadata of the byte-level vocabulary of `tokenizer_json`."""
    fields = json.loads(tokenizer_json())
    special = {token["id"]: token["special"] for token in fields["added_tokens"]}
    ids = {**fields["model"]["vocab"], **{token["content"]: token["id"] for token in fields["added_tokens"]}}
    tokens = sorted(ids, key=ids.__getitem__)
    types = [1 if index not in special else 3 if special[index] else 4 for index in range(len(tokens))]
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in fields["model"]["merges"]]
    known = {"model": "gpt2", "pre": "gpt-2", "tokens": tokens, "token_type": types, "merges": merges, "bos_token_id": 1, "eos_token_id": 2}
    return {f"tokenizer.ggml.{name}": value for name, value in (known | facts).items() if value is not None}


def pieces(**facts: object) -> dict[str, Any]:
    """Metadata of a SentencePiece vocabulary."""
    tokens, scores = read_chatglm2_bytes(chatglm2_vocabulary()).scored_pieces()
    types = [2, 3, 3, *(6 if len(token) == 6 and str(token).startswith("<0x") else 1 for token in tokens[3:])]
    known = {"model": "llama", "pre": "default", "tokens": list(tokens), "scores": list(scores), "token_type": types}
    return {f"tokenizer.ggml.{name}": value for name, value in (known | facts).items() if value is not None}


def written(folder: Path, metadata: Mapping[str, Any]) -> tuple[Tokenizer, dict[str, Any]]:
    """(tokenizer, fields of tokenizer_config.json) of such metadata."""
    write_tokenizer(metadata, folder)
    return Tokenizer.from_file(str(folder / "tokenizer.json")), json.loads((folder / "tokenizer_config.json").read_text())


def test_the_files_facts_decide_on_bos_turn_ends_and_chat_template(tmp_path: Path) -> None:
    pytest.importorskip("gguf", reason='it needs gguf: pip install "imprint[gguf]"')
    facts = {"ggml.add_bos_token": True, "ggml.eot_token_id": 8, "chat_template": TEMPLATE}
    model = imprint.load(import_gguf(gguf_file(tmp_path / "tiny.gguf", facts), tmp_path / "tiny"), device="cpu")
    tokens = model.tokenizer.controls
    assert model.template.name == "own"
    assert bos_ids(model) == (tokens["<s>"],)
    assert model.network.stop_ids >= {tokens["</s>"], tokens["<|end|>"]}
    assert model.prompt("你好")[-1] == tokens["<|assistant|>"]
    other = imprint.load(import_gguf(gguf_file(tmp_path / "other.gguf", {"ggml.add_bos_token": False}), tmp_path / "other"), device="cpu")
    assert other.template.name == "plain"
    assert bos_ids(other) == ()


def test_names_ids_and_texts_are_those_of_the_file_whatever_transformers_makes_of_it(tmp_path: Path) -> None:
    pytest.importorskip("gguf", reason='it needs gguf: pip install "imprint[gguf]"')
    from transformers import AutoTokenizer

    facts = {"ggml.padding_token_id": 3, "ggml.unknown_token_id": 0, "ggml.add_space_prefix": False}
    folder = import_gguf(gguf_file(tmp_path / "tiny.gguf", facts), tmp_path / "tiny")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    assert {name: settings[name] for name in settings if name.endswith("_token") and name != "add_bos_token"} == {
        "bos_token": "<s>",
        "eos_token": "</s>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
    }
    original, ours = Tokenizer.from_buffer(tokenizer_json()), Tokenizer.from_file(str(folder / "tokenizer.json"))
    theirs = AutoTokenizer.from_pretrained(folder)
    assert (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id, theirs.unk_token_id) == (1, 2, 3, 0)
    for text in (text for text in TEXTS if "<think>" not in text):  # not special, and so not in the types of the file
        ids = original.encode(text).ids
        assert ours.encode(text).ids == theirs.encode(text) == ids
        assert ours.decode(ids) == original.decode(ids)
        assert theirs.decode(ids) == original.decode(ids, skip_special_tokens=False) == text


def test_a_byte_level_vocabulary_keeps_its_ids_and_its_tokens_of_the_user(tmp_path: Path) -> None:
    ours, settings = written(tmp_path, byte_level())
    original = Tokenizer.from_buffer(tokenizer_json())
    assert [ours.encode(text).ids for text in TEXTS] == [original.encode(text).ids for text in TEXTS]
    assert [token.special for token in ours.get_added_tokens_decoder().values() if token.content == "<think>"] == [False]
    assert settings["add_bos_token"] is False
    assert "pad_token" not in settings


@pytest.mark.parametrize(
    ("facts", "architecture"),
    [
        ({"add_space_prefix": True}, "llama"),
        ({}, "llama"),
        ({"add_space_prefix": False}, "llama"),
        ({"add_space_prefix": False}, "gemma3"),
    ],
)
def test_a_sentencepiece_vocabulary_gives_the_ids_of_sentencepiece(facts: Mapping[str, object], architecture: str, tmp_path: Path) -> None:
    tokenizer = read_chatglm2_bytes(chatglm2_vocabulary())
    ours, settings = written(tmp_path, pieces(**facts) | {"general.architecture": architecture})
    assert (settings["add_bos_token"], settings["bos_token"], settings["eos_token"], settings["unk_token"]) == (
        True,
        "<s>",
        "</s>",
        "<unk>",
    )
    for text in (text for text in TEXTS if "<s>" not in text and text):
        expected = tokenizer.encode(text)
        if facts.get("add_space_prefix") is False:
            newline = tokenizer.encode("\n")
            expected = tokenizer.encode("\n" + text)[len(newline) :]
        assert ours.encode(text).ids == [1, *expected]
        assert ours.decode(ours.encode(text).ids) == text


def test_tokens_for_control_are_not_made_of_others(tmp_path: Path) -> None:
    tokens = ["<unk>", "<s>", "</s>", "<", "s", ">", "<s", "a"]
    scores = [0.0, 0.0, 0.0, -4.0, -4.0, -4.0, -1.0, -5.0]
    ours, _settings = written(tmp_path, pieces(tokens=tokens, scores=scores, token_type=[2, 3, 3, 1, 1, 1, 1, 1], add_space_prefix=False))
    ours.encode_special_tokens = True
    assert ours.encode("<s>", add_special_tokens=False).tokens == ["<s", ">"]


def test_tokens_of_spaces_are_found_in_texts(tmp_path: Path) -> None:
    tokens = ["<unk>", "<s>", "</s>", "\u2581", "a", "  "]
    metadata = pieces(tokens=tokens, scores=[0.0] * 6, token_type=[2, 3, 3, 1, 1, 4], add_space_prefix=False)
    ours, _settings = written(tmp_path, metadata)
    assert ours.encode("a  a", add_special_tokens=False).ids == [4, 5, 4]
    assert ours.decode([4, 5, 4]) == "a  a"


@pytest.mark.parametrize(
    ("pre", "text", "parts"),
    [
        ("gpt-2", "a  12", ["a", "Ġ", "Ġ12"]),
        ("smollm", "a  12", ["a", "ĠĠ", "1", "2"]),
        ("qwen2", "a  12", ["a", "Ġ", "Ġ", "1", "2"]),
        ("llama-bpe", "1234", ["123", "4"]),
    ],
)
def test_the_name_of_the_pre_tokenizer_decides_how_texts_are_split(pre: str, text: str, parts: list[str], tmp_path: Path) -> None:
    ours, _settings = written(tmp_path, byte_level(pre=pre))
    assert ours.pre_tokenizer is not None
    assert [part for part, _span in ours.pre_tokenizer.pre_tokenize_str(text)] == parts


@pytest.mark.parametrize(("pre", "reason"), [(None, "is missing"), ("marvin", "is marvin, which is not known")])
def test_a_splitting_that_is_not_known_is_said(pre: str | None, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written(tmp_path, byte_level(pre=pre))
    assert f"note: tokenizer.ggml.pre {reason}: texts are split as GPT-2 does" in capsys.readouterr().out


def test_llama_3_begins_with_bos_and_keeps_whole_words(tmp_path: Path) -> None:
    ours, settings = written(tmp_path, byte_level(pre="llama-bpe"))
    assert settings["add_bos_token"] is True
    assert ours.encode("你好").ids[0] == 1
    assert json.loads(ours.to_str())["model"]["ignore_merges"] is True


def test_ends_of_texts_turns_and_messages_are_all_kept() -> None:
    assert generation_config(byte_level(eot_token_id=8, eom_token_id=2)) == {"bos_token_id": 1, "eos_token_id": [2, 8]}
    assert generation_config(pieces()) == {"bos_token_id": 1, "eos_token_id": [2]}
    assert generation_config({}) == {}


def test_padding_outside_of_the_vocabulary_is_none(tmp_path: Path) -> None:
    _ours, settings = written(tmp_path, byte_level(padding_token_id=2**32 - 1))
    assert "pad_token" not in settings


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        (byte_level(bos_token_id=9999), r"bos_token_id: is 9999, and the vocabulary has \d+ tokens"),
        (byte_level(eot_token_id=-1), r"eot_token_id: is -1, and the vocabulary has \d+ tokens"),
        (byte_level(model="rwkv"), "model: is rwkv, and gpt2, llama, gemma4 can be read"),
        (byte_level(tokens=None), "tokens: is missing"),
        (byte_level(merges=None), "merges: is missing"),
        (byte_level(token_type=[1]), r"token_type: has 1 entries, and the vocabulary has \d+ tokens"),
        (pieces(scores=None), "scores: is missing"),
    ],
)
def test_a_vocabulary_that_is_not_whole_is_refused(metadata: Mapping[str, Any], reason: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"tokenizer\.ggml\.{reason}"):
        write_tokenizer(metadata, tmp_path)


@pytest.mark.parametrize(
    ("metadata", "sentence"),
    [
        (byte_level(tokens=list(range(1, 5))), r"tokenizer\.ggml\.tokens: has 1, which is no str"),
        (byte_level(merges=[0, 7]), r"tokenizer\.ggml\.merges: has 0, which is no str"),
        (pieces(scores=["x"] * 3), r"tokenizer\.ggml\.scores: has x, which is no int"),
        (byte_level(tokens=["a" * 1001]), "has 1,001 characters, and 1,001 in one token"),
        (byte_level(tokens=["a" * 999] * 16_800), "has 16,783,200 characters, and 999 in one token"),
    ],
)
def test_lists_of_other_types_and_endless_tokens_are_sentences(metadata: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=sentence):
        write_tokenizer(metadata, tmp_path)
