import time
from pathlib import Path

import pytest
import torch
from torch import nn

from imprint.messages import UserError
from imprint.models.families import build_network, listing, read_config
from imprint.quant.linear import QuantizedWeight
from imprint.quant.row_int import RowInt
from tests.cases import Bits, chatglm2_fields, small_fields, write_config


def refusal(folder: Path, fields: dict[str, object]) -> str:
    with pytest.raises(UserError) as caught:
        build_network(read_config(write_config(folder, fields)), folder)
    return str(caught.value)


def test_chatglm_6b_is_known_by_its_fields_whatever_its_folder_is_called(tmp_path: Path) -> None:
    folder = write_config(tmp_path / "chatglm2-6b", small_fields())

    network = build_network(read_config(folder), folder)

    assert type(network).__name__ == "ChatGLM"
    assert network.shape.num_layers == 2


def test_bloom_is_known_by_its_type(tmp_path: Path) -> None:
    network = build_network({"model_type": "bloom", "vocab_size": 60, "n_embed": 24, "n_layer": 2, "n_head": 3}, tmp_path)

    assert type(network).__name__ == "Bloom"


def test_what_transformers_knows_is_built_of_its_classes(tmp_path: Path) -> None:
    fields: dict[str, object] = {
        "vocab_size": 60,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 8,
    }

    network = build_network({"model_type": "llama", **fields}, tmp_path)

    assert type(network).__name__ == "TransformersNetwork"
    assert "model.layers.1.self_attn.q_proj.weight" in network.state_dict()


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere: there is no such folder\. Give the folder that holds"):
        read_config(tmp_path / "nowhere")


def test_a_folder_without_a_config_says_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()

    with pytest.raises(UserError, match=r"config\.json is missing; found notes\.txt\. Give the folder"):
        read_config(tmp_path)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b'{"model_type": ', "cannot be read as JSON"),
        (b'{"model_type": ' + b"[" * 100_000, "cannot be read as JSON"),
        (b"\xff\xfe", "cannot be read as JSON"),
        (b"[1, 2]", "must hold one JSON object, found list"),
    ],
)
def test_a_broken_config_is_named(tmp_path: Path, content: bytes, sentence: str) -> None:
    (tmp_path / "config.json").write_bytes(content)

    with pytest.raises(UserError) as caught:
        read_config(tmp_path)

    assert f"config.json: {sentence}" in str(caught.value)
    assert "Download the file again." in str(caught.value)


def test_an_unknown_architecture_is_said_with_what_is_known(tmp_path: Path) -> None:
    sentence = refusal(tmp_path, {"model_type": "new", "hidden_size": 4096})

    assert f"{tmp_path}/config.json: \"model_type\" is 'new', an architecture that is not supported. Supported: ChatGLM-6B" in sentence
    assert "auto_map" not in sentence


def test_a_folder_that_brings_its_own_code_hears_that_it_is_never_run(tmp_path: Path) -> None:
    (tmp_path / "modeling_new.py").write_text("raise SystemExit('ran')")

    sentence = refusal(tmp_path, {"model_type": "new", "auto_map": {"AutoModel": "modeling_new.New"}})

    assert 'Its "auto_map" asks for code from the folder, which is never run.' in sentence


def test_the_officials_auto_map_does_no_harm(tmp_path: Path) -> None:
    fields = {**small_fields(), "auto_map": {"AutoModel": "modeling_chatglm.ChatGLMForConditionalGeneration"}}

    assert build_network(fields, tmp_path).shape.hidden_size == 32


def test_chatglm2_is_known_by_its_fields_whatever_its_folder_is_called(tmp_path: Path) -> None:
    folder = write_config(tmp_path / "chatglm-6b", chatglm2_fields())

    network = build_network(read_config(folder), folder)

    assert type(network).__name__ == "ChatGLM2"
    assert network.shape.num_kv_heads == 2


@pytest.mark.parametrize(("bits", "embeddings"), [(8, False), (4, False), (4, True)])
def test_a_quantized_folder_is_known_by_its_fields(tmp_path: Path, bits: Bits, embeddings: bool) -> None:  # noqa: FBT001
    network = build_network({**small_fields(), "quantization_bit": bits, "quantization_embeddings": embeddings}, tmp_path)

    quantized = {name for name, layer in network.named_modules() if isinstance(layer, QuantizedWeight)}

    assert len(quantized) == 2 * 4 + embeddings
    assert ("transformer.word_embeddings" in quantized) == embeddings
    assert {type(layer) for layer in network.modules()} & {nn.Linear} == set()


@pytest.mark.parametrize("bits", [0, None])
def test_no_bits_are_no_quantization(tmp_path: Path, bits: object) -> None:
    network = build_network({**small_fields(), "quantization_bit": bits, "quantization_embeddings": True}, tmp_path)

    assert not any(isinstance(layer, QuantizedWeight) for layer in network.modules())


@pytest.mark.parametrize("bits", [16, 3, -4, "4", True, [8]])
def test_other_bits_are_refused(tmp_path: Path, bits: object) -> None:
    assert f'{tmp_path}/config.json: "quantization_bit" must be 8, 4 or null' in refusal(
        tmp_path, {**small_fields(), "quantization_bit": bits}
    )


def test_an_odd_width_cannot_share_bytes(tmp_path: Path) -> None:
    sentence = refusal(tmp_path, {**small_fields(), "inner_hidden_size": 49, "quantization_bit": 4})

    assert '"inner_hidden_size" 49 is odd, but at 4 bits two columns share a byte' in sentence
    assert build_network({**small_fields(), "inner_hidden_size": 49, "quantization_bit": 8}, tmp_path).weight_format == RowInt(8)


def test_a_listing_stays_short(tmp_path: Path) -> None:
    assert listing(tmp_path) == "nothing"
    for number in range(8):
        (tmp_path / f"{number}.txt").touch()
    assert listing(tmp_path) == "0.txt, 1.txt, 2.txt, 3.txt, 4.txt, 5.txt and 2 more"


@pytest.mark.parametrize(
    "fields",
    [
        {"model_type": "llama", "num_attention_heads": 2**22, "head_dim": 2**22, "hidden_size": 2**22, "intermediate_size": 2**22},
        {"model_type": "llama", "max_position_embeddings": [1]},
        {"model_type": "llama", "rope_parameters": [1, 2]},
        {"model_type": "llama", "layer_types": 5},
        {"model_type": "qwen2", "eos_token_id": {"a": 1}},
        {"model_type": "opt", "max_position_embeddings": 10**15, "ffn_dim": 2**20},
        {"model_type": "bloom", "vocab_size": 2**22, "hidden_size": 2**22, "n_head": 1, "n_layer": 1, "seq_length": 10**30},
        {"model_type": "chatglm", "inner_hidden_size": 10**12, "hidden_size": 10**12, "num_layers": 10**9, "num_attention_heads": 1},
        {"model_type": "gpt2", "n_layer": 10**6},
    ],
    ids=lambda fields: str(sorted(fields)),
)
def test_fields_that_make_no_network_are_a_sentence_at_once(tmp_path: Path, fields: dict[str, object]) -> None:
    started = time.monotonic()
    try:
        with torch.device("meta"):
            build_network(fields, write_config(tmp_path, fields))
    except UserError as error:
        assert "config.json" in str(error)  # noqa: PT017 - some of these can be built
    assert time.monotonic() - started < 10
