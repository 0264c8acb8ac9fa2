from pathlib import Path

import pytest

from imprint.messages import UserError
from imprint.models.auxiliary_files import auxiliary_files, copy_auxiliary_files

SECRET = "TOP SECRET"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model folder without weights, as published ones are, and a secret beside it."""
    (tmp_path / "secret.key").write_text(SECRET)
    folder = tmp_path / "model"
    folder.mkdir()
    names = "config.json generation_config.json tokenizer.json tokenizer_config.json tokenizer.model ice_text.model LICENSE"
    for name in (
        *names.split(),
        "modeling_chatglm.py",
        "MODEL_LICENSE",
        "README_zh.md",
        "qwen.tiktoken",
        "vocab.json",
        "merges.txt",
        "chat_template.jinja",
    ):
        (folder / name).write_text(name)
    return folder


def test_files_of_known_names_are_copied_and_no_others(folder: Path, tmp_path: Path) -> None:
    published = sorted(file.name for file in folder.iterdir())
    for name in ("notes.txt", ".env", "id_rsa", "model.safetensors", "pytorch_model.bin", "model.safetensors.index.json", "optimizer.pt"):
        (folder / name).write_text(SECRET)
    (folder / "checkpoints").mkdir()
    out = tmp_path / "out"
    out.mkdir()
    copy_auxiliary_files(folder, out)
    assert sorted(file.name for file in out.iterdir()) == published


def test_a_link_out_of_the_folder_is_refused_by_name_and_one_inside_is_followed(folder: Path, tmp_path: Path) -> None:
    (folder / "vocab.txt").symlink_to("vocab.json")
    assert folder / "vocab.txt" in auxiliary_files(folder)
    (folder / "added_tokens.json").symlink_to(tmp_path / "secret.key")
    with pytest.raises(UserError, match=r"model/added_tokens\.json: is a link to .*secret\.key, outside of its folder"):
        auxiliary_files(folder)


def test_a_snapshot_of_a_hub_cache_is_links_into_its_blobs(tmp_path: Path) -> None:
    cache = tmp_path / "models--org--name"
    (cache / "blobs").mkdir(parents=True)
    (cache / "blobs" / "a1b2").write_text("{}")
    (tmp_path / "secret.key").write_text(SECRET)
    snapshot = cache / "snapshots" / "c3d4"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").symlink_to("../../blobs/a1b2")
    assert auxiliary_files(snapshot) == [snapshot / "config.json"]
    (snapshot / "tokenizer.json").symlink_to("../../../secret.key")
    with pytest.raises(UserError, match="outside of its folder"):
        auxiliary_files(snapshot)


def test_a_folder_whose_own_name_is_a_link_is_no_other(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "linked").symlink_to(folder)
    assert len(auxiliary_files(tmp_path / "linked")) == len(auxiliary_files(folder))
