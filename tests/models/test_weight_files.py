import json
from pathlib import Path

import pytest

from imprint.messages import UserError
from imprint.models.weight_files import shard_names, weight_files

SHARDS = shard_names("model", "safetensors", 2)


def folder_with(folder: Path, *names: str) -> Path:
    """A folder with files of these names."""
    for name in names:
        (folder / name).touch()
    return folder


def index_of(folder: Path, *names: object) -> Path:
    """The folder with an index of safetensors."""
    content = {"weight_map": {f"tensor.{number}": name for number, name in enumerate(names)}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(content))
    return folder


def refusal(folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        weight_files(folder)
    return str(caught.value)


def test_an_index_without_its_shards_gives_way_to_complete_files(tmp_path: Path) -> None:
    folder = index_of(folder_with(tmp_path, "pytorch_model.bin"), *SHARDS)

    assert [file.name for file in weight_files(folder)] == ["pytorch_model.bin"]

    (folder / SHARDS[0]).touch()  # a download that broke off
    assert f"{folder}: 1 of 2 shards are missing, the first is {SHARDS[1]}" in refusal(folder)


def test_an_index_alone_names_its_shards(tmp_path: Path) -> None:
    assert f"{tmp_path}: 1 of 1 shards are missing, the first is {SHARDS[0]}" in refusal(index_of(tmp_path, SHARDS[0]))


@pytest.mark.parametrize("stem", ["model", "pytorch_model"])
def test_a_complete_set_of_shards_needs_no_index(tmp_path: Path, stem: str) -> None:
    names = shard_names(stem, "bin" if stem == "pytorch_model" else "safetensors", 3)
    folder = folder_with(tmp_path, *names[:2])
    assert f"1 of 3 shards are missing, the first is {names[2]}" in refusal(folder)

    assert [file.name for file in weight_files(folder_with(folder, names[2]))] == names

    folder_with(folder, *shard_names(stem, "bin" if stem == "pytorch_model" else "safetensors", 2))
    assert "no weights; found" in refusal(folder)  # two sets: which one is right is unknown


@pytest.mark.parametrize("name", ["x" * 10_000, "a\0b", "", "../x", "."])
def test_an_index_with_a_name_that_is_none_is_refused(tmp_path: Path, name: str) -> None:
    sentence = refusal(index_of(tmp_path, name))

    assert "names a file outside its folder, " in sentence
    assert len(sentence) < 600


@pytest.mark.parametrize("names", [(), (None,), (1, "a"), ({},), ([],)])
def test_an_index_of_other_things_is_refused(tmp_path: Path, names: tuple[object, ...]) -> None:
    assert 'must be a JSON object with a "weight_map" of tensor names to files' in refusal(index_of(tmp_path, *names))


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("model-q4_1.gguf", "turn it into a folder with `imprint import`"),
        ("zero_to_fp32.py", "run the zero_to_fp32.py in it"),
        ("adapter_model.safetensors", "give it as the adapter (adapter=, tune.adapter), and the base's own folder as the model"),
        ("__0_0.distcp", "convert it with torch.distributed.checkpoint"),
        ("consolidated.00.pth", "download the folder in the layout of transformers"),
        ("notes.txt", "Download what is missing"),
    ],
)
def test_what_a_folder_holds_in_place_of_weights_is_told(tmp_path: Path, name: str, advice: str) -> None:
    sentence = refusal(folder_with(tmp_path, name))

    assert f"no weights; found {name}." in sentence
    assert advice in sentence
