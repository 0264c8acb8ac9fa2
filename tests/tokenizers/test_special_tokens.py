import json
import random
import re
import time
from pathlib import Path

import pytest

from imprint.messages import UserError
from imprint.tokenizers import HFTokenizer, read_tokenizer
from imprint.tokenizers.special_tokens import pattern_of_names
from tests.families import fields_of, folder_of, published_folder, tokenizer_json


def template_in(folder: Path) -> str | None:
    tokenizer = read_tokenizer(folder, fields_of(folder))
    assert isinstance(tokenizer, HFTokenizer)
    return tokenizer.special_tokens.chat_template


def tiny(folder: Path, *, prefix: bool = False) -> HFTokenizer:
    published_folder(folder, prefix=prefix)
    tokenizer = read_tokenizer(folder, fields_of(folder))
    assert isinstance(tokenizer, HFTokenizer)
    return tokenizer


def test_what_begins_and_ends_a_text_is_read_from_the_files_beside_it(tmp_path: Path) -> None:
    special_tokens = tiny(tmp_path / "plain").special_tokens
    assert (special_tokens.bos_ids, special_tokens.eos_ids, dict(special_tokens.names)) == (
        (),
        (2,),
        {"eos_token": "</s>", "bos_token": "<s>"},
    )
    assert tiny(tmp_path / "prefix", prefix=True).special_tokens.bos_ids == (1,)


def test_every_file_that_names_an_end_is_heard(tmp_path: Path) -> None:
    published_folder(tmp_path)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [8, 2]}))
    found = read_tokenizer(tmp_path, {"vocab_size": 512, "eos_token_id": 3, "model_type": "qwen2"})
    assert isinstance(found, HFTokenizer)
    assert found.special_tokens.eos_ids == (2, 3, 8)


def test_an_end_beyond_every_id_is_none(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, {"model_type": "llama"}, {"tokenizer.json": tokenizer_json()})
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 10**12, -1]}))
    tokenizer = read_tokenizer(folder, {"model_type": "llama", "eos_token_id": 10**30})
    assert isinstance(tokenizer, HFTokenizer)
    assert tokenizer.special_tokens.eos_ids == (2,)


@pytest.mark.parametrize(("settings", "bos"), [({}, "<pad>"), ({"added_tokens_decoder": {}}, "<s>")])
def test_special_tokens_of_an_older_folder_are_named_in_a_file_of_their_own(tmp_path: Path, settings: dict[str, object], bos: str) -> None:
    published_folder(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>", "eos_token": None, **settings}))
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"bos_token": "<pad>", "eos_token": {"content": "</s>"}}))
    found = read_tokenizer(tmp_path, {"vocab_size": 512, "model_type": "bloom"})
    assert isinstance(found, HFTokenizer)
    assert (found.special_tokens.names, found.special_tokens.eos_ids) == ({"bos_token": bos, "eos_token": "</s>"}, (2,))


def test_a_chat_template_in_a_file_of_its_own_goes_first(tmp_path: Path) -> None:
    published_folder(tmp_path, chat_template="in the settings")
    (tmp_path / "chat_template.jinja").write_text("in the file", encoding="utf-8")
    found = read_tokenizer(tmp_path, fields_of(tmp_path))
    assert isinstance(found, HFTokenizer)
    assert found.special_tokens.chat_template == "in the file"


def test_of_several_chat_templates_the_default_one_is_taken(tmp_path: Path) -> None:
    published_folder(tmp_path)
    several = [{"name": "tools", "template": "b"}, {"name": "default", "template": "a"}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": several}))
    found = read_tokenizer(tmp_path, fields_of(tmp_path))
    assert isinstance(found, HFTokenizer)
    assert found.special_tokens.chat_template == "a"


@pytest.mark.parametrize(
    ("several", "taken"),
    [
        ([{"name": "tool_use", "template": "a"}, {"name": "chat", "template": "b"}], "b"),
        ([{"name": "only", "template": "a"}], "a"),
        ([{"name": "tool_use", "template": "a"}, {"name": "rag", "template": "b"}], "a"),
        ({"chat": "a", "default": "b"}, "b"),
    ],
)
def test_chat_templates_without_a_default_are_not_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], several: list[object] | dict[str, str], taken: str
) -> None:
    published_folder(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": several}))
    assert template_in(tmp_path) == taken
    said = capsys.readouterr().err
    assert ("is named default" in said) == (taken != "b" or "default" not in several)


def test_chat_templates_in_older_and_in_further_files_are_read(tmp_path: Path) -> None:
    published_folder(tmp_path, chat_template=None)
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "tool_use.jinja").write_text("b")
    assert template_in(tmp_path) == "b"
    (tmp_path / "chat_template.json").write_text('{"chat_template": "a"}')
    assert template_in(tmp_path) == "a"


@pytest.mark.parametrize("content", [3, [], ["a"], [{"name": "x"}], {"default": 1}])
def test_what_is_no_chat_template_is_refused(tmp_path: Path, content: object) -> None:
    published_folder(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": content}))
    with pytest.raises(UserError, match=r'tokenizer_config.json: "chat_template" must be a text, or a list of objects with "name"'):
        read_tokenizer(tmp_path, fields_of(tmp_path))
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match=r"chat_template\.jinja is no UTF-8 text"):
        read_tokenizer(tmp_path, fields_of(tmp_path))


def test_half_a_character_in_the_settings_names_no_token(tmp_path: Path) -> None:
    published_folder(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "\\ud800", "additional_special_tokens": ["\\udfff"]}')
    found = read_tokenizer(tmp_path, fields_of(tmp_path))
    assert isinstance(found, HFTokenizer)
    assert found.special_tokens.eos_ids == (2,)


def test_the_longest_name_at_each_place_is_matched() -> None:
    for seed in range(300):
        rng = random.Random(seed)
        letters = rng.choice(("ab", "<|a>", "[]*"))
        names = {"".join(rng.choices(letters, k=rng.randint(1, 6))) for _ in range(rng.randint(1, 12))}
        one_by_one = re.compile("|".join(map(re.escape, sorted(names, key=len, reverse=True))))
        text = "".join(rng.choices(letters, k=200))
        assert [match.span() for match in pattern_of_names(names).finditer(text)] == [match.span() for match in one_by_one.finditer(text)]
    assert pattern_of_names(["a" * length for length in range(1, 40)]).findall("a" * 60) == ["a" * 39, "a" * 21]
    assert pattern_of_names([]).search("<s>") is None


def test_a_thousand_names_take_no_longer_than_a_few() -> None:
    """Those of Mistral's vocabularies: one after another they took six seconds, in which no other thread went on."""
    pattern = pattern_of_names(["<s>", "</s>", "[INST]", *(f"<SPECIAL_{number}>" for number in range(20, 1000))])
    begun = time.process_time()
    for text in ("<", "<SPECIAL_1", "["):
        assert pattern.search(text * (900_000 // len(text))) is None
    assert time.process_time() - begun < 1
