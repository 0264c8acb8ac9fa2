import json
import random
import threading
import time
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers

from imprint.messages import UserError
from imprint.tokenizers import HFTokenizer, hf, read_tokenizer
from tests.families import CHAT, fields_of, folder_of, piece_folder, piece_json, published_folder, tokenizer_json


def tiny(folder: Path, *, prefix: bool = False) -> HFTokenizer:
    published_folder(folder, prefix=prefix)
    found = read_tokenizer(folder, fields_of(folder))
    assert isinstance(found, HFTokenizer)
    return found


def test_any_ids_decode_as_the_library_decodes_them(tmp_path: Path) -> None:
    tokenizer, reference, rng = tiny(tmp_path), Tokenizer.from_str(tokenizer_json().decode()), random.Random(0)
    for _ in range(2000):
        ids = [rng.randrange(reference.get_vocab_size()) for _ in range(rng.randint(0, 8))]
        assert tokenizer.decode(ids) == reference.decode(ids), ids


def test_any_text_without_special_tokens_has_the_ids_of_the_library(tmp_path: Path) -> None:
    tokenizer, reference = tiny(tmp_path), Tokenizer.from_str(tokenizer_json().decode())
    for text in ("你好 hello  world\n", "这件上衣的颜色是白色。<think> 1234", ""):
        assert tokenizer.encode(text) == reference.encode(text).ids
        assert tokenizer.encode_rendered(text) == reference.encode(text).ids


def test_a_long_text_keeps_no_other_thread_waiting(tmp_path: Path) -> None:
    tokenizer, reference = tiny(tmp_path), Tokenizer.from_str(tokenizer_json().decode())
    text = "这件上衣 hello 1234\n" * 40_000
    done, turns = threading.Event(), []

    def count_turns() -> None:
        while not done.wait(0.001):
            turns.append(time.monotonic())

    other = threading.Thread(target=count_turns)
    other.start()
    begun = time.monotonic()
    encoded = tokenizer._encode_text(text)
    ended = time.monotonic()
    done.set()
    other.join()
    longest = max(after - before for before, after in pairwise([begun, *(turn for turn in turns if begun < turn < ended), ended]))
    assert longest < (ended - begun) / 4
    assert encoded.ids == reference.encode(text).ids


def test_special_tokens_are_read_in_rendered_text_alone(tmp_path: Path) -> None:
    tokenizer = tiny(tmp_path)
    assert tokenizer.encode_rendered("<|user|>a</s>") == [tokenizer.controls["<|user|>"], *tokenizer.encode("a"), 2]
    assert tokenizer.decode(tokenizer.encode("<|user|>a</s>")) == "<|user|>a</s>"


def test_what_is_not_marked_as_special_is_text(tmp_path: Path) -> None:
    tokenizer = tiny(tmp_path)
    (token,) = tokenizer.encode("<think>")
    assert "<think>" not in tokenizer.controls
    assert (tokenizer.decode([token]), tokenizer.token_text(token)) == ("<think>", "<think>")


def test_a_piece_that_is_not_written_in_letters_of_bytes_decodes_as_itself(tmp_path: Path) -> None:
    rust = Tokenizer(models.BPE({"<unk>": 0, "a": 1, "Ġ": 2, "好": 3, "a 好": 4}, [], unk_token="<unk>"))
    rust.decoder = decoders.ByteLevel()
    folder_of(tmp_path, {"model_type": "qwen2", "eos_token_id": 0}, {"tokenizer.json": rust.to_str().encode()})
    tokenizer = read_tokenizer(tmp_path, fields_of(tmp_path))
    assert tokenizer is not None
    assert tokenizer.decode([1, 2, 3, 4]) == rust.decode([1, 2, 3, 4]) == "a 好a 好"


def test_byte_pieces_of_the_other_kind_decode_as_the_library_decodes_them(tmp_path: Path) -> None:
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{value:02X}>" for value in range(256)), "\u2581", "\u2581a", "a", "好", "\u2581好"]
    rust = Tokenizer(models.BPE({piece: place for place, piece in enumerate(pieces)}, [], unk_token="<unk>", byte_fallback=True))
    rust.add_special_tokens(["<unk>", "<s>", "</s>"])
    rust.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    rust.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    folder_of(tmp_path, {"model_type": "llama", "eos_token_id": 2}, {"tokenizer.json": rust.to_str().encode()})
    tokenizer, rng = read_tokenizer(tmp_path, fields_of(tmp_path)), random.Random(0)
    assert tokenizer is not None
    assert tokenizer.decode(tokenizer.encode(" a 好 b😀")) == " a 好 b😀"
    for _ in range(1000):
        parts = [[token] for token in range(259, len(pieces))] + [rust.encode("😀", add_special_tokens=False).ids[1:]]
        ids = [token for part in rng.choices(parts, k=rng.randint(0, 6)) for token in part]
        assert tokenizer.decode(ids) == rust.decode(ids), ids


def test_a_broken_file_is_reported(tmp_path: Path) -> None:
    folder_of(tmp_path, {"model_type": "bloom"}, {"tokenizer.json": b"{"})
    with pytest.raises(UserError, match=r"tokenizer.json \(1 bytes\) cannot be read as a tokenizer \(.*\). Download the file again."):
        read_tokenizer(tmp_path, {"model_type": "bloom"})
    published_folder(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(UserError, match=r"tokenizer_config.json: cannot be read as JSON"):
        read_tokenizer(tmp_path, fields_of(tmp_path))


def test_a_vocabulary_larger_than_the_weights_is_refused(tmp_path: Path) -> None:
    published_folder(tmp_path)
    with pytest.raises(UserError, match=r"tokenizer.json needs \d+ ids, but config.json allows 99 \(vocab_size\). Take both files"):
        read_tokenizer(tmp_path, {"model_type": "bloom", "vocab_size": 99})


def with_added(folder: Path, *, special: bool) -> int:
    """A folder whose tokenizer has one token more than config.json allows; returns the allowed number."""
    rust = Tokenizer.from_str(tokenizer_json().decode())
    size = rust.get_vocab_size()
    rust.add_tokens([AddedToken("<image>", special=special, normalized=False)])
    folder_of(folder, {"model_type": "qwen2", "vocab_size": size, "eos_token_id": 2}, {"tokenizer.json": rust.to_str().encode()})
    return size


@pytest.mark.parametrize("special", [False, True])
def test_an_added_token_beyond_the_weights_is_refused_only_in_a_text_that_has_it(tmp_path: Path, special: bool) -> None:  # noqa: FBT001
    size = with_added(tmp_path, special=special)

    tokenizer = read_tokenizer(tmp_path, fields_of(tmp_path))
    assert isinstance(tokenizer, HFTokenizer)
    assert tokenizer.decode(tokenizer.encode("你好 hello")) == "你好 hello"
    with pytest.raises(UserError, match=rf"tokenizer.json: '<image>' has the id {size}, but the model has only {size} \(vocab_size in"):
        tokenizer.encode_rendered("a<image>")
    if special:
        assert tokenizer.decode(tokenizer.encode("a<image>")) == "a<image>"
    else:
        with pytest.raises(UserError, match=r"so no row may contain it. Take it out of the text or the chat template."):
            tokenizer.encode("a<image>")


def test_a_learned_end_beyond_the_weights_is_refused_at_once(tmp_path: Path) -> None:
    size = with_added(tmp_path, special=True)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<image>"}))

    with pytest.raises(UserError, match=rf"tokenizer.json needs {size + 1} ids, but config.json allows {size} \(vocab_size\)"):
        read_tokenizer(tmp_path, fields_of(tmp_path))


def test_a_way_of_decoding_that_is_not_known_is_refused(tmp_path: Path) -> None:
    rust = Tokenizer.from_str(tokenizer_json().decode())
    rust.decoder = decoders.WordPiece()
    folder_of(tmp_path, {"model_type": "bert"}, {"tokenizer.json": rust.to_str().encode()})
    with pytest.raises(UserError, match=r'"decoder" must be ByteLevel, or one of byte pieces as in SentencePiece; found WordPiece.'):
        read_tokenizer(tmp_path, {"model_type": "bert"})


def typable(folder: Path, kind: str) -> HFTokenizer:
    """A vocabulary whose merges, scores or words make special ids of typed names, as some converted files do."""
    pieces = [
        "<pad>",
        "<eos>",
        "<bos>",
        "<unk>",
        *(f"<0x{value:02X}>" for value in range(256)),
        "<",
        ">",
        "p",
        "a",
        "d",
        "pad",
        "<pad",
        "\u2581",
    ]
    ids = {piece: place for place, piece in enumerate(pieces)}
    merges = [("p", "a"), ("pa", "d"), ("<", "pad"), ("<pad", ">")]
    if kind == "BPE":
        model: models.Model = models.BPE({**ids, "pa": len(ids)}, merges, unk_token="<unk>", byte_fallback=True)
    else:
        model = models.Unigram([(piece, -1.0) for piece in pieces], unk_id=3, byte_fallback=True)
    rust = Tokenizer(model)
    rust.add_special_tokens(["<pad>", "<eos>", "<bos>", "<unk>"])
    rust.normalizer = normalizers.Replace(" ", "\u2581")
    rust.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    settings = {"eos_token": "<eos>", "chat_template": CHAT.replace("<|end|>", "<eos>")}
    folder_of(
        folder,
        {"model_type": "gemma3_text", "eos_token_id": 1},
        {"tokenizer.json": rust.to_str().encode(), "tokenizer_config.json": settings},
    )
    tokenizer = read_tokenizer(folder, fields_of(folder))
    assert isinstance(tokenizer, HFTokenizer)
    return tokenizer


@pytest.mark.parametrize("kind", ["BPE", "Unigram"])
def test_a_special_token_that_the_vocabulary_would_read_in_typed_text_is_text(tmp_path: Path, kind: str) -> None:
    tokenizer = typable(tmp_path, kind)
    assert tokenizer._rust.encode("a<pad>d", add_special_tokens=False).ids.count(0) == 1  # what the file does
    for text in ("a<pad>d", "<eos>", "<bos><pad>", "p<unk>a", "<pad> 好 <pad"):
        ids = tokenizer.encode(text)
        assert not set(ids) & {0, 1, 2}, text
        assert tokenizer.decode(ids) == text
    assert tokenizer.encode_rendered("<pad>a<\ufdd0pad>")[0] == 0
    assert tokenizer.encode_rendered("<pad>a<\ufdd0pad>").count(0) == 1


def test_special_tokens_that_only_the_settings_name_are_special(tmp_path: Path) -> None:
    vocabulary = piece_json("<|im_end|>", "<|tool|>", "<think>", special=False)
    piece_folder(tmp_path, None, vocabulary)
    settings = {"eos_token": "<|im_end|>", "pad_token": "hello", "additional_special_tokens": ["<|tool|>", {"content": 3}]}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    tokenizer = read_tokenizer(tmp_path, fields_of(tmp_path))
    assert isinstance(tokenizer, HFTokenizer)
    assert {"<|im_end|>", "<|tool|>"} <= tokenizer.controls.keys()
    assert not {"<think>", "hello"} & tokenizer.controls.keys()
    assert tokenizer.decode(tokenizer.encode("a<|im_end|>b hello")) == "a<|im_end|>b hello"
    assert tokenizer.encode_rendered("a<|im_end|>")[-1] == tokenizer.controls["<|im_end|>"]


def test_a_text_behind_another_has_the_ids_that_it_has_there(tmp_path: Path) -> None:
    piece_folder(tmp_path, None, piece_json())
    tokenizer = read_tokenizer(tmp_path, fields_of(tmp_path))
    assert isinstance(tokenizer, HFTokenizer)
    before, text = "\n", "hello world"
    assert tokenizer.encode_parts(before, text)[1] == tokenizer.encode(before + text)[len(tokenizer.encode(before)) :]
    split = tokenizer.encode_parts("the quick bro", "wn fox")[1]  # a token holds both
    assert tokenizer.decode(split).strip() == "wn fox"
    assert tokenizer.decode([*tokenizer.encode("the quick bro"), *split]) == "the quick brown fox"


PARTS = (
    "",
    "a ",
    "a\t\t",
    "\n",
    "12",
    "345",
    "xyz",
    "w",
    "=" * 70,
    "e",
    "\u0301",
    "👍🏽",
    "</s>",
    "hello",
    " world",
    "你好",
    "。",
    "\ud83d",
    "\ude00",
)
"""Texts whose ends a vocabulary may read otherwise when another one follows."""


def parted(folder: Path, kind: str) -> HFTokenizer:
    """A vocabulary that reads the end of a text by what follows it."""
    vocabulary = piece_json("hello world", special=False, prepends=kind == "pieces")
    if "pieces" not in kind:
        vocabulary = json.loads(tokenizer_json())
        model = vocabulary["model"]
        assert isinstance(model, dict)
        model["vocab"] |= {"xyz": 421, "12": 422, "ĉĉ": 423}  # no merge makes "xyz": a vocabulary of whole words has it if it is a word
        model["merges"] += [["1", "2"], ["ĉ", "ĉ"]]  # the letter of a tab
        model["ignore_merges"] = kind in ("whole words", "composed marks")
        if kind == "composed marks":
            vocabulary["normalizer"] = {"type": "NFC"}
            model["vocab"]["Ã©"] = 424  # the bytes of "é", which no merge makes either
    if kind == "grouped digits":
        groups = {
            "type": "Split",
            "pattern": {"Regex": r"\p{N}{1,3}(?=(?:\p{N}{3})*\b)|\p{N}|\P{N}+"},
            "behavior": "Isolated",
            "invert": False,
        }
        letters = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
        vocabulary["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [groups, letters]}
    piece_folder(folder, None, vocabulary)
    tokenizer = read_tokenizer(folder, fields_of(folder))
    assert isinstance(tokenizer, HFTokenizer)
    return tokenizer


@pytest.mark.parametrize("kind", ["bytes", "whole words", "composed marks", "grouped digits", "pieces", "pieces without a space in front"])
def test_the_ids_of_a_part_do_not_depend_on_what_follows(tmp_path: Path, kind: str) -> None:
    tokenizer = parted(tmp_path, kind)
    special = set(tokenizer.controls.values())
    for first, second in product(PARTS, PARTS):
        alone, pair = tokenizer.encode(first), tokenizer.encode_parts(first, second)
        assert pair[0] == alone, (first, second)
        assert not special & {*pair[0], *pair[1]}, (first, second)
        if not any("\ud800" <= letter < "\ue000" for letter in first + second):  # else what is joined is another character
            whole = tokenizer.encode(first + second)
            assert whole[: len(alone)] != alone or pair[1] == whole[len(alone) :], (first, second)
        for third in ("", "a", " 1", "年", "。"):
            assert tokenizer.encode_parts(first, second, third)[:2] == pair, (first, second, third)


def test_a_mark_that_is_composed_with_the_letter_before_it_ends_no_word(tmp_path: Path) -> None:
    tokenizer = parted(tmp_path, "composed marks")
    assert tokenizer.encode("e\u0301") == [424]
    whole = tokenizer.encode("e\u0301xyzw")
    assert whole[0] != 424, "it is a token only as a word of its own"
    for rest in ("xyzw", "e\u0301", "你好"):
        assert tokenizer.encode_parts("e\u0301", rest)[0] == [424]


def test_a_row_of_parts_is_one_call_of_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer, calls = parted(tmp_path, "bytes"), list[str]()
    encode = hf._encode

    def counted(rust: Any, text: str) -> Any:
        calls.append(text)
        return encode(rust, text)

    monkeypatch.setattr(hf, "_encode", counted)
    tokenizer.encode_parts("你好", "再见", "好。")
    assert calls == ["你好再见好。"]


def test_a_prompt_that_ends_within_a_word_is_encoded_again_only_if_its_ids_may_differ(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer, calls = parted(tmp_path, "whole words"), list[str]()
    encode = hf._encode

    def counted(rust: Any, text: str) -> Any:
        calls.append(text)
        return encode(rust, text)

    monkeypatch.setattr(hf, "_encode", counted)
    for _ in range(2):
        tokenizer.encode_parts("hello 你好", "再见")
    assert calls == ["hello 你好再见", " 你好", "hello 你好再见"]  # the beginning of the word is known the second time
    calls.clear()
    tokenizer.encode_parts("xyz", "w")
    assert calls[:3] == ["xyzw", "xyz", "xyz"]  # alone, it is one token


def test_merges_that_are_left_out_by_chance_are_all_used(tmp_path: Path) -> None:
    fields = json.loads(tokenizer_json())
    fields["model"]["dropout"] = 0.5
    folder_of(tmp_path, {"model_type": "bloom", "eos_token_id": 2}, {"tokenizer.json": fields})
    tokenizer = read_tokenizer(tmp_path, fields_of(tmp_path))
    assert tokenizer is not None
    assert len({tuple(tokenizer.encode("这件上衣的颜色是白色")) for _ in range(20)}) == 1


def test_a_text_on_which_the_library_fails_is_a_sentence(tmp_path: Path) -> None:
    class Failing:
        """A library that fails on a text."""

        def __init__(self, rust: Tokenizer) -> None:
            self._rust = rust

        def __getattr__(self, name: str) -> object:
            return getattr(self._rust, name)

        def encode(self, text: str, **_knobs: object) -> object:
            if text == "你好":
                raise RuntimeError(f"no {text}")
            return self._rust.encode(text, add_special_tokens=False)

    tokenizer = tiny(tmp_path)
    monkey = HFTokenizer(Failing(tokenizer._rust), [{"type": "ByteLevel"}], tokenizer.special_tokens)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"tokenizer\.json cannot encode a text of 2 characters, '你好'"):
        monkey.encode("你好")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("added_tokens.json", {"<new>": 421}),
        ("tokenizer_config.json", {"added_tokens_decoder": {"421": {"content": "<new>", "special": False}}}),
        ("tokenizer_config.json", {"additional_special_tokens": ["<new>"]}),
        ("special_tokens_map.json", {"bos_token": "<new>"}),
    ],
)
def test_a_token_that_is_named_beside_a_file_without_it_is_told(
    name: str, content: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = folder_of(tmp_path / "model", {"model_type": "llama"}, {"tokenizer.json": tokenizer_json(), name: content})
    read_tokenizer(folder, {"model_type": "llama"})
    assert "tokenizer.json lacks tokens that are named beside it: <new>. They are read as ordinary text" in capsys.readouterr().err


def test_a_token_that_no_text_has_may_be_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    named = {"pad_token": "[PAD]", "eos_token": "</s>", "added_tokens_decoder": {"421": {"content": "[PAD]", "special": True}}}
    files = {"tokenizer.json": tokenizer_json(), "tokenizer_config.json": named, "added_tokens.json": {"[PAD]": 421, "<think>": 420}}
    read_tokenizer(folder_of(tmp_path / "model", {"model_type": "llama"}, files), {"model_type": "llama"})
    assert capsys.readouterr().err == ""


def test_special_tokens_that_would_be_split_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for value in (True, False):
        settings = {"split_special_tokens": value}
        files = {"tokenizer.json": tokenizer_json(), "tokenizer_config.json": settings}
        read_tokenizer(folder_of(tmp_path / str(value), {"model_type": "llama"}, files), {"model_type": "llama"})
        assert ('no effect has "split_special_tokens"' in capsys.readouterr().err) is value
