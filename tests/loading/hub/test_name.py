from pathlib import Path

import pytest

from imprint.loading.hub.name import HubName, hub_name, parse_name
from imprint.messages import UserError

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_owner_and_name_are_a_model_of_the_hub_with_or_without_a_revision() -> None:
    assert hub_name("Qwen/Qwen3-4B") == HubName("Qwen/Qwen3-4B", "main")
    assert hub_name("Qwen/Qwen2.5-0.5B-Instruct@v1.0") == HubName("Qwen/Qwen2.5-0.5B-Instruct", "v1.0")
    pinned = hub_name(f"THUDM/chatglm-6b@{COMMIT}")
    assert pinned is not None
    assert (pinned.commit, str(pinned)) == (COMMIT, f"THUDM/chatglm-6b@{COMMIT}")
    assert str(HubName("a/b")) == "a/b"
    assert HubName("a/b").at(COMMIT).commit == COMMIT


@pytest.mark.parametrize(
    "path",
    [
        *("embedded", "gpt2", "./models/x", "../models/x", "/models/x", "~/x", "models/a/b", "a//b", "a/", "/a", "", "a\\b/c", "C:/b"),
        *("runs/mine.tar", "models/x.gguf", "data/rows.jsonl", "recipes/x.yaml", "a/b@", "a/b@../c", "a/b@v1.lock", "a/..", "模型/甲"),
        *("models/chatglm-6b", "runs/mine", "a/b--c", "a/" + "b" * 95, "a/b\n"),
    ],
)
def test_what_can_only_be_a_path_never_goes_to_the_hub(path: str) -> None:
    assert hub_name(path) is None


def test_a_folder_that_exists_wins_and_a_path_object_is_always_a_folder() -> None:
    assert hub_name(Path("Qwen/Qwen3-4B")) is None
    Path("Qwen/Qwen3-4B").mkdir(parents=True)
    assert hub_name("Qwen/Qwen3-4B") is None
    assert parse_name("Qwen/Qwen3-4B") == HubName("Qwen/Qwen3-4B")


def test_a_mistyped_path_in_a_folder_that_exists_is_told_with_both_meanings() -> None:
    Path("models/chatglm-6b").mkdir(parents=True)
    with pytest.raises(UserError) as raised:
        hub_name("models/chatglm6b")
    for part in ("is in no folder models/ here", "found: chatglm-6b", "write models/chatglm6b@main", "若指本地目录"):
        assert part in str(raised.value)
    assert hub_name("models/chatglm6b@main") == HubName("models/chatglm6b")


def test_the_address_of_a_page_is_told_with_the_name_to_give() -> None:
    for address in ("https://huggingface.co/Qwen/Qwen3-4B", "https://hf-mirror.com/Qwen/Qwen3-4B/tree/main"):
        with pytest.raises(UserError, match=r"is the address of a page\. Give the model's name: Qwen/Qwen3-4B"):
            hub_name(address)
