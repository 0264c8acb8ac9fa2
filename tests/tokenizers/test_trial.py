import json
import subprocess
import time
from pathlib import Path

import pytest

from imprint.messages import UserError
from imprint.tokenizers import read_tokenizer, trial
from imprint.tokenizers.trial import refuse_harmful, refuse_large, without_merges
from tests.families import folder_of, piece_json, ranks, tokenizer_json

BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
HARMFUL: dict[str, dict[str, object]] = {
    "a chunk of no length": {"pre_tokenizer": {"type": "FixedLength", "length": 0}},
    "an empty map of characters": {"normalizer": {"type": "Precompiled", "precompiled_charsmap": ""}},
    "an empty beginning": {"normalizer": {"type": "Prepend", "prepend": ""}},
    "an empty pattern": {"normalizer": {"type": "Replace", "pattern": {"String": ""}, "content": "x"}},
    "a pattern that fits everywhere": {"normalizer": {"type": "Replace", "pattern": {"Regex": "x*"}, "content": "xx"}},
    "no piece for unknown words": {"model": {"type": "WordLevel", "vocab": {}, "unk_token": "x"}},
    "texts that grow": {
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 10}] * 9}
    },
    "a long beginning": {"normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "a" * 100_000}] * 90}},
    "many tokens before a text": {
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [*[{"SpecialToken": {"id": "<s>", "type_id": 0}}] * 100_000, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1] * 100, "tokens": ["<s>"] * 100}},
        }
    },
    "a template of two texts": {
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"Sequence": {"id": "B", "type_id": 0}}],
            "pair": [],
            "special_tokens": {},
        }
    },
    "a long sign of pieces inside a word": {"model": {**json.loads(tokenizer_json())["model"], "continuing_subword_prefix": "#" * 1000}},
    "a pattern of many classes": {
        "pre_tokenizer": {"type": "Split", "pattern": {"Regex": "|".join([r"\p{L}"] * 50_000)}, "behavior": "Isolated", "invert": False}
    },
    "a pattern without end": {
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [{"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}, BYTES],
        }
    },
}


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("kind", HARMFUL)
def test_a_file_on_which_the_library_panics_is_a_sentence(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    large: bool,  # noqa: FBT001
) -> None:
    monkeypatch.setattr(trial, "LARGE", 0 if large else trial.LARGE)
    fields = {**json.loads(tokenizer_json()), **HARMFUL[kind]}
    folder_of(tmp_path, {"model_type": "bloom"}, {"tokenizer.json": fields})
    with pytest.raises(UserError, match=r"tokenizer\.json cannot be used as a tokenizer \(.+\)\. Download the file again"):
        read_tokenizer(tmp_path, {"model_type": "bloom", "eos_token_id": 2})


def test_a_pattern_that_takes_seconds_for_a_long_word_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "TRIAL_SECONDS", 3)
    pattern = {"Regex": r"\p{L}{0,99}\p{L}{0,99}\p{L}{0,99}\p{N}|."}
    split = {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False}
    folder_of(tmp_path, {"model_type": "bloom"}, {"tokenizer.json": {**json.loads(tokenizer_json()), "pre_tokenizer": split}})
    with pytest.raises(UserError, match=r"tokenizer\.json cannot be used as a tokenizer \(it takes more than 3 seconds\)"):
        read_tokenizer(tmp_path, {"model_type": "bloom", "eos_token_id": 2})


@pytest.mark.parametrize("letters", ["[a-z]", "[\u0400-\u04ff]", r"\p{Hebrew}"])
def test_a_pattern_of_parts_that_may_be_left_out_is_tried_on_words_of_any_script(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, letters: str
) -> None:
    monkeypatch.setattr(trial, "RUN_SECONDS", 0.02)
    split = {"type": "Split", "pattern": {"Regex": f"{letters}?" * 13 + r"\d|."}, "behavior": "Isolated", "invert": False}
    folder_of(tmp_path, {"model_type": "bloom"}, {"tokenizer.json": {**json.loads(tokenizer_json()), "pre_tokenizer": split}})
    with pytest.raises(UserError, match=r"tokenizer\.json cannot be used as a tokenizer \(\d+ times '.' take more than 0.02 seconds\)"):
        read_tokenizer(tmp_path, {"model_type": "bloom", "eos_token_id": 2})


@pytest.mark.parametrize("deep", [90, 50_000])
def test_a_file_of_many_levels_is_a_sentence(tmp_path: Path, deep: int) -> None:
    nested = '{"type": "Sequence", "pretokenizers": [' * deep + json.dumps(BYTES) + "]}" * deep
    content = json.dumps({**json.loads(tokenizer_json()), "pre_tokenizer": "HERE"}).replace('"HERE"', nested)
    folder_of(tmp_path, {"model_type": "bloom"}, {"tokenizer.json": content.encode()})
    with pytest.raises(UserError, match=r"tokenizer\.json \(\d+ bytes\) cannot be read as a tokenizer \(.*recursion"):
        read_tokenizer(tmp_path, {"model_type": "bloom", "eos_token_id": 2})


def test_usual_files_are_not_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[object] = []
    monkeypatch.setattr(subprocess, "run", lambda *arguments, **_knobs: tried.append(arguments))
    pieces = [json.dumps(piece_json(prepends=prepends)).encode() for prepends in (True, False)]
    for content in (tokenizer_json(), tokenizer_json(prefix=True), *pieces):
        refuse_harmful(tmp_path, content, json.loads(content))
    assert not tried


def test_ids_that_the_model_lacks_are_refused(tmp_path: Path) -> None:
    fields = json.loads(tokenizer_json())
    fields["model"]["vocab"]["a"] = 4_000_000
    folder_of(tmp_path, {"model_type": "bloom"}, {"tokenizer.json": fields})
    with pytest.raises(UserError, match=r"tokenizer.json needs 4000001 ids, but config.json allows 512 \(vocab_size\)"):
        read_tokenizer(tmp_path, {"model_type": "bloom", "eos_token_id": 2, "vocab_size": 512})

    folder_of(tmp_path, {"model_type": "bloom"}, {"tokenizer.json": tokenizer_json()})
    with pytest.raises(UserError, match=r"tokenizer.json needs 701 ids, but config.json allows 512 \(vocab_size\)"):
        read_tokenizer(tmp_path, {"model_type": "bloom", "eos_token_id": 700, "vocab_size": 512})


def test_a_piece_with_the_id_of_a_special_token_is_refused(tmp_path: Path) -> None:
    fields = json.loads(tokenizer_json())
    fields["model"]["vocab"]["a"] = fields["model"]["vocab"]["<|user|>"]
    folder_of(tmp_path, {"model_type": "bloom"}, {"tokenizer.json": fields})
    with pytest.raises(UserError, match=r"tokenizer.json: '<\|user\|>' and 'a' have the same id, 5, so a text could not be told"):
        read_tokenizer(tmp_path, {"model_type": "bloom", "eos_token_id": 2})


@pytest.mark.long
def test_thousands_of_special_tokens_are_read_in_time(tmp_path: Path) -> None:
    fields = json.loads(tokenizer_json())
    flags = {key: fields["added_tokens"][0][key] for key in ("single_word", "lstrip", "rstrip", "normalized", "special")}
    first = max(token["id"] for token in fields["added_tokens"]) + 1
    fields["added_tokens"] += [{**flags, "id": first + place, "content": f"<{place}>"} for place in range(5000)]
    fields["added_tokens"].append({**flags, "id": first + 5000, "content": "x" * 1_000_000})
    folder_of(tmp_path, {"model_type": "bloom"}, {"tokenizer.json": fields})
    start = time.process_time()
    assert read_tokenizer(tmp_path, {"model_type": "bloom", "eos_token_id": 2}) is not None
    assert time.process_time() - start < 10


def test_an_unusual_file_that_works_is_read(tmp_path: Path) -> None:
    fields = {**json.loads(tokenizer_json()), "normalizer": {"type": "Sequence", "normalizers": [{"type": "StripAccents"}]}}
    folder_of(tmp_path, {"model_type": "bloom"}, {"tokenizer.json": fields})
    assert read_tokenizer(tmp_path, {"model_type": "bloom", "eos_token_id": 2}) is not None


def test_a_file_of_too_many_values_is_not_read(tmp_path: Path) -> None:
    start = time.monotonic()
    with pytest.raises(UserError, match="has 30000000 values, and a vocabulary of 8000000 is the largest"):
        refuse_large(tmp_path, b"[]," * 15_000_000)
    assert time.monotonic() - start < 5
    refuse_large(tmp_path, ranks())


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("merges", [["a b", 'x" y', "\\ z", "[ ]", "你 好"], [["a", "b"], ['"', "]"], ["\\", '\\"']], []])
def test_merges_of_a_large_file_are_left_out_and_all_else_stays(
    monkeypatch: pytest.MonkeyPatch, merges: list[object], indent: int | None
) -> None:
    text = '"merges": ["a b"]'
    model: dict[str, object] = {"vocab": {'"merges"': 0, text: 1}, "merges": merges, "unk_token": "]"}
    content = json.dumps({"added_tokens": [{"content": text}], "model": model}, indent=indent, ensure_ascii=False).encode()
    assert without_merges(content) == content
    monkeypatch.setattr(trial, "LARGE", 0)
    assert json.loads(without_merges(content)) == {"added_tokens": [{"content": text}], "model": {**model, "merges": []}}


@pytest.mark.parametrize("merges", [[1], [["a", "b", "c"]], [{"a": "b"}], {"a": "b"}, "a b", [["a", ["b"]]]])
def test_merges_of_another_form_stay(monkeypatch: pytest.MonkeyPatch, merges: object) -> None:
    monkeypatch.setattr(trial, "LARGE", 0)
    content = json.dumps({"model": {"merges": merges}}).encode()
    assert without_merges(content) == content


@pytest.mark.parametrize("end", [b"", b"]", b'"', b'"a b",' * 300_000])
def test_merges_without_end_take_no_time(monkeypatch: pytest.MonkeyPatch, end: bytes) -> None:
    monkeypatch.setattr(trial, "LARGE", 0)
    content = b'{"merges": [' * 20_000 + b'"merges": [' + b'"\\u0041 b", ' * 300_000 + end
    start = time.process_time()
    without_merges(content)
    assert time.process_time() - start < 3


def test_a_large_file_has_the_ids_of_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tokenizers import Tokenizer

    monkeypatch.setattr(trial, "LARGE", 0)
    folder_of(tmp_path, {"model_type": "bloom"}, {"tokenizer.json": tokenizer_json()})
    found = read_tokenizer(tmp_path, {"model_type": "bloom", "eos_token_id": 2})
    assert found is not None
    for text in ("你好 hello  world\n", "这件上衣的颜色是白色。"):
        assert found.encode(text) == Tokenizer.from_str(tokenizer_json().decode()).encode(text).ids
