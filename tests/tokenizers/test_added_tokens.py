from pathlib import Path

import pytest

from imprint.tokenizers import HFTokenizer, read_tokenizer
from tests.families import folder_of, tokenizer_json


@pytest.mark.parametrize(("flag", "ids_of_text"), [("lstrip", "a<|end|> b"), ("rstrip", "a <|end|>b")])
def test_added_tokens_are_found_as_tokenizer_config_says(flag: str, ids_of_text: str, tmp_path: Path) -> None:
    flags = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": False, flag: True}
    settings = {"added_tokens_decoder": {"8": {"content": "<|end|>", "special": True, **flags}}}
    plain = folder_of(tmp_path / "plain", {"model_type": "llama"}, {"tokenizer.json": tokenizer_json()})
    folder = folder_of(tmp_path / flag, {"model_type": "llama"}, {"tokenizer.json": tokenizer_json(), "tokenizer_config.json": settings})
    found, expected = (read_tokenizer(one, {"model_type": "llama"}) for one in (folder, plain))
    assert isinstance(found, HFTokenizer)
    assert isinstance(expected, HFTokenizer)
    assert found.encode_rendered("a <|end|> b") == expected.encode_rendered(ids_of_text) != expected.encode_rendered("a <|end|> b")
    assert expected._keeps_text
    assert not found._keeps_text  # a token stands for any number of spaces
