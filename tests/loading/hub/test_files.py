import pytest

from imprint.loading.hub.files import HubFile, Listing, auxiliary_files, weight_index, weights
from imprint.messages import UserError


def listing(*names: str) -> Listing:
    return Listing("0" * 40, {name: HubFile(name, 1, "0" * 40) for name in names})


def named(files: list[HubFile]) -> list[str]:
    return [file.name for file in files]


def test_config_json_comes_last_and_code_and_other_formats_never() -> None:
    files = listing("config.json", "tokenizer.model", "modeling_chatglm.py", "x.onnx", "sub/config.json", "README.md", "training_args.json")
    assert named(auxiliary_files(files, "a/b")) == ["README.md", "tokenizer.model", "config.json"]


def test_weights_of_one_kind_are_taken_safetensors_first() -> None:
    both = listing("model.safetensors.index.json", "pytorch_model.bin", "model-1.safetensors", "consolidated.safetensors")
    index = weight_index(both)
    assert index is not None
    assert index.name == "model.safetensors.index.json"
    assert named(weights(both, "a/b", ["model-1.safetensors"])) == ["model-1.safetensors"]
    assert weight_index(listing("pytorch_model.bin", "pytorch_model.bin.index.json")) is None
    assert named(weights(listing("pytorch_model.bin", "model.fp16.safetensors"), "a/b")) == ["pytorch_model.bin"]


def test_a_listing_without_a_model_is_a_sentence() -> None:
    with pytest.raises(UserError, match="is no model that can be loaded"):
        auxiliary_files(listing("model.safetensors"), "a/b")
    with pytest.raises(UserError, match=r"Found: config\.json"):
        weights(listing("config.json"), "a/b")
