from pathlib import Path

import pytest

from imprint.messages import UserError
from imprint.templates import TemplateName, choose_template, read_template
from imprint.templates.choice import mentions_role_tokens
from imprint.tokenizers import Tokenizer
from tests.families import chatglm2_folder, fields_of, folder_of, glm4_folder, published_folder, tokenizer_json
from tests.vocabulary import tiny_tokenizer


def test_a_folder_tells_its_template(tmp_path: Path) -> None:
    folders = [
        chatglm2_folder(tmp_path / "a"),
        chatglm2_folder(tmp_path / "b", roles=True),
        glm4_folder(tmp_path / "c"),
        published_folder(tmp_path / "d"),
        published_folder(tmp_path / "e", chat_template=None),
    ]
    found = [read_template(folder, fields_of(folder)) for folder in folders]
    assert [template and template.name for template in found] == ["chatglm2", "chatglm3", "glm4", "own", "plain"]
    assert choose_template(tiny_tokenizer(), tmp_path).name == "chatglm"


def test_a_folder_without_a_tokenizer_has_no_template(tmp_path: Path) -> None:
    assert read_template(tmp_path, {}) is None


@pytest.mark.parametrize(
    "settings",
    [
        {"chat_template": "<|{{ message['role'] }}|>"},
        {"additional_special_tokens": ["<|user|>"]},
        {"added_tokens_decoder": {"64795": {"content": "<|user|>"}}},
    ],
)
def test_role_tokens_are_looked_for_where_they_are_named(tmp_path: Path, settings: dict[str, object]) -> None:
    assert mentions_role_tokens(folder_of(tmp_path, {}, {"tokenizer_config.json": settings}))


@pytest.mark.parametrize("content", [b"{}", b"[]", b"{", b'{"name_or_path": "THUDM/chatglm3-6b"}'])
def test_names_decide_nothing(tmp_path: Path, content: bytes) -> None:
    assert not mentions_role_tokens(folder_of(tmp_path / "chatglm3-6b", {}, {"tokenizer_config.json": content}))
    assert not mentions_role_tokens(tmp_path)


def test_the_released_folders_are_reported_apart(shared: Path) -> None:
    assert [mentions_role_tokens(shared / "tokenizers" / model) for model in ("chatglm2-6b", "chatglm3-6b")] == [False, True]


@pytest.mark.parametrize("wanted", ["chatglm2", "own", "plain"])
def test_the_template_of_another_family_is_refused(tmp_path: Path, wanted: TemplateName) -> None:
    with pytest.raises(UserError) as error:
        choose_template(tiny_tokenizer(), tmp_path, wanted)
    assert str(error.value).splitlines()[0] == (
        f"template: {wanted} does not fit the tokenizer of {tmp_path}; possible are auto and chatglm."
    )


def test_own_needs_a_template_in_the_folder(tmp_path: Path) -> None:
    published_folder(tmp_path, chat_template=None)
    with pytest.raises(UserError, match="possible are auto and bare, plain"):
        read_template(tmp_path, fields_of(tmp_path), "own")


def test_a_text_that_nothing_ends_is_refused(tmp_path: Path) -> None:
    folder_of(tmp_path, {"model_type": "bloom"}, {"tokenizer.json": tokenizer_json()})
    with pytest.raises(UserError, match=r'nothing ends a text: "eos_token" is in neither tokenizer_config.json nor config.json'):
        read_template(tmp_path, fields_of(tmp_path))


def test_a_tokenizer_is_that_of_its_template() -> None:
    tokenizer: Tokenizer = tiny_tokenizer()
    assert choose_template(tokenizer, Path(), "chatglm").tokenizer is tokenizer
