from collections import Counter
from pathlib import Path

import pytest
import torch

from imprint.messages import UserError
from imprint.models.checkpoint import load_network, save_network
from imprint.models.families import build_network
from imprint.models.network import Network
from imprint.models.quantized_layers import folder_format, loaded_dtype, quantized_layers, quantized_tensors, tensors_of, with_format
from imprint.quant.formats import FORMATS
from imprint.quant.fp8 import Fp8
from imprint.quant.row_int import RowInt
from imprint.quant.weight_format import WeightFormat
from tests.cases import Case, chatglm2_fields, small_fields
from tests.reference_models import FIELDS

EVERY_FORMAT = pytest.mark.parametrize("weight_format", FORMATS, ids=lambda one: str(one.title))
FOLDER = Path("nowhere")


@EVERY_FORMAT
def test_the_fields_of_a_format_build_a_network_of_it(weight_format: WeightFormat) -> None:
    network = build_network(with_format(small_fields(), weight_format, FOLDER), FOLDER)

    layers = quantized_layers(network)

    assert network.weight_format == weight_format
    assert len(layers) == 4 * network.shape.num_layers
    assert {layer.weight_format.name for layer in layers.values()} == {weight_format.name}
    parts = {name: stored for one, layer in layers.items() for name, stored in tensors_of(one, layer).items()}
    assert parts == quantized_tensors(network)
    state = network.state_dict()
    assert [name for name, stored in parts.items() if tuple(state[name].shape) != stored.shape] == []


@EVERY_FORMAT
def test_fields_are_changed_once_and_another_format_is_refused(weight_format: WeightFormat) -> None:
    plain = small_fields()
    fields = with_format(plain, weight_format, FOLDER)

    assert folder_format(fields, FOLDER) == weight_format
    assert with_format(fields, weight_format, FOLDER) == with_format(fields, None, FOLDER) == fields
    assert with_format(plain, None, FOLDER) == plain
    for other in FORMATS:
        if other != weight_format:
            with pytest.raises(UserError) as caught:
                with_format(fields, other, FOLDER)
            asked = f"is quantized to {weight_format.label.english} already, and {other.label.english} are asked for"
            assert f"nowhere: {asked}" in str(caught.value)


def test_what_another_program_has_quantized_is_left_to_the_one_who_refuses_it() -> None:
    fields = {**small_fields(), "quantization_config": {"quant_method": "gptq"}}
    assert with_format(fields, FORMATS[-1], FOLDER) == fields
    with pytest.raises(UserError, match=r"^nowhere/config\.json: \"quantization_bit\" must be 8, 4 or null, got 3"):
        folder_format({"quantization_bit": 3}, FOLDER)


def test_integers_and_the_tensors_of_a_format_keep_their_dtype() -> None:
    quantized = {
        "a.weight": RowInt(8).format_tensors(2, 4)["weight"],
        "a.weight_scale": RowInt(8, None).format_tensors(2, 4)["weight_scale"],
    }
    half = torch.zeros(2, dtype=torch.float16)

    assert loaded_dtype("a.weight_scale", half, torch.float32, quantized) is torch.float16
    assert loaded_dtype("a.weight", half.to(torch.int8), torch.float32, quantized) is torch.int8
    assert loaded_dtype("b.weight", half, torch.bfloat16, quantized) is torch.bfloat16
    assert loaded_dtype("b.ids", half.long(), torch.bfloat16, quantized) is torch.int64


@pytest.mark.parametrize("as_bin", [True, False])
@pytest.mark.parametrize("weight_format", FORMATS, ids=lambda one: str(one.title))
def test_a_network_in_any_format_is_saved_and_read_as_it_is(tmp_path: Path, weight_format: WeightFormat, as_bin: bool) -> None:  # noqa: FBT001
    source = Case("chatglm1-base").folder
    network = load_network(source, dtype=torch.float32, device=torch.device("cpu"), weight_format=weight_format)

    save_network(network, source, tmp_path / "saved", as_bin=as_bin, dtype=torch.float16, shard_bytes=10**5)
    again = load_network(tmp_path / "saved", dtype=torch.float32, device=torch.device("cpu"))

    assert again.weight_format == weight_format
    assert {tuple(layer.tensors) for layer in quantized_layers(again).values()} == {tuple(weight_format.format_tensors(2, 2))}
    for name, layer in quantized_layers(network).items():
        other = quantized_layers(again)[name].tensors
        assert all(torch.equal(tensor, other[part]) and tensor.dtype == other[part].dtype for part, tensor in layer.tensors.items())


MANY_BLOCKS: dict[str, dict[str, object]] = {
    "chatglm": small_fields(layers=6),
    "chatglm2": {**chatglm2_fields(), "num_layers": 6},
    "bloom": {"model_type": "bloom", "vocab_size": 60, "hidden_size": 32, "n_layer": 6, "n_head": 4, "eos_token_id": 2},
    "llama": {**FIELDS, "model_type": "llama", "num_hidden_layers": 6},
}


def quantized_blocks(network: Network) -> dict[int, int]:
    """Number of a block -> how many of its linears are quantized."""
    return dict(Counter(next(int(part) for part in name.split(".") if part.isdigit()) for name in quantized_layers(network)))


@pytest.mark.parametrize("family", MANY_BLOCKS)
def test_the_outer_blocks_of_a_network_in_fp8_keep_16_bits(family: str) -> None:
    fields = MANY_BLOCKS[family]
    with torch.device("meta"):
        network, whole = (build_network(with_format(fields, one, FOLDER), FOLDER) for one in (Fp8(), Fp8(plain_ends=0)))

    assert network.weight_format == Fp8()
    linears = 7 if family == "llama" else 4
    assert quantized_blocks(network) == dict.fromkeys(range(1, 5), linears)
    assert quantized_blocks(whole) == dict.fromkeys(range(6), linears)
