import json
from collections.abc import Callable
from typing import Any

import pytest
from tokenizers import Tokenizer

from imprint.tokenizers.hf import bytes_of_letters
from imprint.tokenizers.token_length import keeps_text, longest_token, units_of
from tests.families import piece_json, tokenizer_json


def of_bytes() -> dict[str, Any]:
    fields: dict[str, Any] = json.loads(tokenizer_json())
    return fields


def test_a_vocabulary_of_bytes_keeps_all_text_and_its_longest_token_is_counted_in_bytes() -> None:
    fields = of_bytes()
    assert keeps_text(fields)
    rust, letters = Tokenizer.from_str(json.dumps(fields)), bytes_of_letters()
    longest = longest_token(rust, letters)
    assert longest == max(*map(len, fields["model"]["vocab"]), *(len(token["content"].encode()) for token in fields["added_tokens"]))
    assert units_of(rust, letters)("好a") == 4


@pytest.mark.parametrize(
    "change",
    [
        lambda fields: fields["model"].update(type="Unigram"),
        lambda fields: fields["added_tokens"][0].update(lstrip=True),
        lambda fields: fields["added_tokens"][0].update(rstrip=True),
        lambda fields: fields.update(pre_tokenizer={"type": "WhitespaceSplit"}),
        lambda fields: fields.update(pre_tokenizer=None),
        lambda fields: fields.update(normalizer={"type": "Strip", "strip_left": True, "strip_right": True}),
        lambda fields: fields.update(normalizer={"type": "Replace", "pattern": {"String": "a"}, "content": ""}),
        lambda fields: fields.update(normalizer={"type": "Replace", "pattern": {"Regex": " +"}, "content": " "}),
        lambda fields: fields.update(normalizer={"type": "Sequence", "normalizers": [{"type": "StripAccents"}]}),
        lambda fields: fields.update(
            pre_tokenizer={
                "type": "Sequence",
                "pretokenizers": [{"type": "Split", "pattern": {"String": " "}, "behavior": "Removed"}, {"type": "ByteLevel"}],
            }
        ),
    ],
)
def test_a_vocabulary_that_may_leave_text_out_is_not_relied_on(change: Callable[[dict[str, Any]], None]) -> None:
    fields = of_bytes()
    change(fields)
    assert not keeps_text(fields)


def test_a_vocabulary_without_all_bytes_has_no_longest_token() -> None:
    fields: dict[str, Any] = piece_json()
    rust = Tokenizer.from_str(json.dumps(fields))
    assert longest_token(rust, bytes_of_letters()) is None
