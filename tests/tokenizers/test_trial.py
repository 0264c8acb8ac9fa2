import json
import subprocess
import time
from pathlib import Path

import pytest

from imprint.messages import UserError
from imprint.tokenizers import read_tokenizer
from imprint.tokenizers.trial import refuse_harmful, refuse_large
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
    "a pattern without end": {
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [{"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}, BYTES],
        }
    },
}


@pytest.mark.parametrize("kind", HARMFUL)
def test_a_file_on_which_the_library_panics_is_a_sentence(tmp_path: Path, kind: str) -> None:
    fields = {**json.loads(tokenizer_json()), **HARMFUL[kind]}
    folder_of(tmp_path, {"model_type": "bloom"}, {"tokenizer.json": fields})
    with pytest.raises(UserError, match=r"tokenizer\.json cannot be used as a tokenizer \(.+\)\. Download the file again"):
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
