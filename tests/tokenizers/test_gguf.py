from pathlib import Path

import pytest

import imprint
from imprint.export.from_gguf import import_gguf
from imprint.messages import UserError
from imprint.model import Model
from imprint.tokenizers import HFTokenizer
from imprint.tokenizers.gguf import generation_config, write_tokenizer
from tests.ggufs import TEMPLATE, gguf_file

pytest.importorskip("gguf", reason='it needs gguf: pip install "imprint[gguf]"')


def bos_ids(model: Model) -> tuple[int, ...]:
    """What the tokenizer puts before every text."""
    assert isinstance(model.tokenizer, HFTokenizer)
    return model.tokenizer.special_tokens.bos_ids


def test_the_files_facts_decide_on_bos_turn_ends_and_chat_template(tmp_path: Path) -> None:
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


def test_ends_of_texts_turns_and_messages_are_all_kept() -> None:
    facts = {"bos_token_id": 1, "eos_token_id": 2, "eot_token_id": 8, "eom_token_id": 2}
    metadata = {f"tokenizer.ggml.{name}": value for name, value in facts.items()}
    assert generation_config(metadata) == {
        "bos_token_id": 1,
        "eos_token_id": [2, 8],
    }
    assert generation_config({}) == {}


def test_a_bos_outside_of_the_vocabulary_is_refused(tmp_path: Path) -> None:
    file = gguf_file(tmp_path / "tiny.gguf", {})
    (tmp_path / "out").mkdir()
    metadata = {"tokenizer.ggml.bos_token_id": 9, "tokenizer.ggml.add_bos_token": True, "tokenizer.ggml.tokens": ["a"]}
    with pytest.raises(UserError, match="bos_token_id: is 9, and the vocabulary has 1 tokens"):
        write_tokenizer(tmp_path, file.name, metadata, tmp_path / "out")
