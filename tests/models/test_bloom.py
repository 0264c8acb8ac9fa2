from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.models.bloom.modeling_bloom import build_alibi_tensor

import imprint
from imprint.model import Model
from imprint.models.bloom import Bloom, alibi_slopes
from imprint.models.checkpoint import load_network, save_network
from imprint.models.configs.bloom import BloomConfig
from imprint.models.quantized_layers import quantized_layers
from imprint.pack import pack
from imprint.quant.names import FORMAT_NAMES, FormatName
from imprint.quant.weight_format import SCALE
from imprint.tune.prefix import PrefixShape, init_prefix
from tests import reference_models
from tests.cases import difference, format_of
from tests.inference.reference import generate_ids
from tests.reference_models import LABELS, ROWS, our_logits, our_loss, prefix_of

HEADS = (2, 3, 6)
CPU = torch.device("cpu")


def fields(heads: int = 3, *, after_norm: bool = False, head_size: int = 8) -> dict[str, object]:
    return {
        "vocab_size": 60,
        "hidden_size": heads * head_size,
        "n_layer": 2,
        "n_head": heads,
        "apply_residual_connection_post_layernorm": after_norm,
    }


def pair(heads: int = 3, *, after_norm: bool = False) -> tuple[Any, Bloom]:
    """transformers' model and ours, of the same random weights."""
    model = reference_models.random_model("bloom", fields(heads, after_norm=after_norm))
    ours = Bloom(BloomConfig.read(model.config.to_dict())).eval()
    ours.load_state_dict({name: tensor for name, tensor in model.state_dict().items() if not name.startswith("lm_head")})
    return model, ours.requires_grad_(requires_grad=False)


@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize("after_norm", [False, True])
class TestAgainstTransformers:
    def test_logits_of_rows_in_one_pack(self, heads: int, after_norm: bool) -> None:  # noqa: FBT001
        model, ours = pair(heads, after_norm=after_norm)

        for row, actual in zip(ROWS, our_logits(ours, ROWS), strict=True):
            assert difference(actual, reference_models.logits(model, row)) <= 1e-4
        for actual, padded in zip(our_logits(ours, ROWS), reference_models.padded_logits(model, ROWS), strict=True):
            assert difference(actual, padded) <= 1e-4

    def test_every_hidden_state(self, heads: int, after_norm: bool) -> None:  # noqa: FBT001
        model, ours = pair(heads, after_norm=after_norm)

        for row, actual in zip(ROWS, Model(ours, None, "ours").hidden_states(ROWS), strict=True):
            expected = reference_models.run(model, row, output_hidden_states=True).hidden_states
            assert len(actual) == len(expected)
            assert max(difference(a, b[0]) for a, b in zip(actual, expected, strict=True)) <= 1e-4

    @pytest.mark.parametrize("checkpointing", [False, True])
    def test_loss_and_the_gradient_of_every_weight(self, *, heads: int, after_norm: bool, checkpointing: bool) -> None:
        model, ours = pair(heads, after_norm=after_norm)
        ours.requires_grad_(requires_grad=True)

        actual, expected = our_loss(ours, checkpointing=checkpointing), reference_models.loss(model, ROWS, LABELS)
        actual.backward()
        expected.backward()

        assert difference(actual, expected) <= 1e-5
        theirs = dict(model.named_parameters())
        for name, parameter in ours.named_parameters():
            assert parameter.grad is not None
            assert difference(parameter.grad, theirs[name].grad) <= 1e-4 * max(1.0, float(theirs[name].grad.abs().max())), name

    @pytest.mark.parametrize("checkpointing", [False, True])
    def test_a_prefix_is_what_stands_before_the_row(self, *, heads: int, after_norm: bool, checkpointing: bool) -> None:
        model, ours = pair(heads, after_norm=after_norm)
        prefix = prefix_of(ours)
        tensors = [tensor for layer in prefix for tensor in layer]

        actual, expected = our_loss(ours, prefix, checkpointing=checkpointing), reference_models.loss(model, ROWS, LABELS, prefix)

        assert difference(actual, expected) <= 1e-5
        for a, b in zip(torch.autograd.grad(actual, tensors), torch.autograd.grad(expected, tensors), strict=True):
            assert difference(a, b) <= 1e-4 * max(1.0, float(b.abs().max()))

    def test_greedy_ids(self, heads: int, after_norm: bool) -> None:  # noqa: FBT001
        model, ours = pair(heads, after_norm=after_norm)

        assert generate_ids(ours, ROWS, 6) == [reference_models.greedy(model, row, 6) for row in ROWS]


@pytest.mark.parametrize("heads", [1, 2, 3, 5, 8, 12, 14, 16, 20, 32, 112])
def test_slopes_are_those_of_transformers(heads: int) -> None:
    theirs = build_alibi_tensor(torch.ones(1, 2, dtype=torch.long), heads, torch.float32)[:, 0, 1]

    assert difference(alibi_slopes(heads, CPU), theirs) <= 1e-6


def test_cached_steps_are_one_pass() -> None:
    _, ours = pair()
    prefix = [(keys.detach(), values.detach()) for keys, values in prefix_of(ours)]

    answers = generate_ids(ours, ROWS, 8, prefix=prefix)

    for row, answer in zip(ROWS, answers, strict=True):
        assert answer
        grown = list(row)
        for token in answer:
            hidden = ours(pack([grown], ours), prefix=prefix)
            assert int(ours.logits(hidden[-1:]).argmax()) == token
            grown.append(token)


def test_a_prefix_that_a_text_has_started_is_that_text_before_the_row() -> None:
    _, ours = pair()
    text = [20, 21, 22, 23, 24, 25]

    encoder = init_prefix(ours, PrefixShape.from_network(ours, len(text), projection=False), "text", text)
    actual = ours(pack(ROWS, ours), prefix=encoder.prefix(torch.float32)).split([len(row) for row in ROWS])

    for row, hidden in zip(ROWS, actual, strict=True):
        assert difference(hidden, ours(pack([text + row], ours))[len(text) :]) <= 1e-4


@pytest.mark.parametrize("start", ["random", "zeros"])
@pytest.mark.parametrize("projection", [False, True])
def test_a_prefix_of_any_start_learns(start: str, projection: bool) -> None:  # noqa: FBT001
    _, ours = pair()
    encoder = init_prefix(ours, PrefixShape.from_network(ours, 4, projection=projection), start, [])

    our_loss(ours, encoder.prefix(torch.float32), checkpointing=True).backward()

    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in encoder.parameters())
    assert any(float(parameter.grad.abs().max()) > 0 for parameter in encoder.parameters() if parameter.grad is not None)


@pytest.mark.parametrize(("dtype", "bound"), [(torch.bfloat16, 0.05), (torch.float16, 0.01)])
def test_in_16_bit_the_loss_is_near(dtype: torch.dtype, bound: float) -> None:
    model, ours = pair()
    expected = reference_models.loss(model, ROWS, LABELS).item()

    assert abs(float(our_loss(ours.to(dtype))) - expected) <= bound * expected


def official(folder: Path, *, kind: str) -> tuple[Any, Path]:
    """A folder as the releases are: names without `transformer.`, no head, in one file or shards of either format."""
    model = reference_models.random_model("bloom", fields())
    reference_models.saved(model, folder, shard="20KB" if kind == "shards" else "1GB")
    if kind in ("bare", "bin"):
        file = folder / "model.safetensors"
        bare = {name.removeprefix("transformer."): tensor for name, tensor in load_file(file).items() if not name.startswith("lm_head")}
        file.unlink()
        torch.save(bare, folder / "pytorch_model.bin") if kind == "bin" else save_file(bare, file, {"format": "pt"})
    return model, folder


@pytest.mark.parametrize("kind", ["full names", "bare", "bin", "shards"])
def test_official_folders_load_and_what_is_saved_loads_in_transformers(tmp_path: Path, kind: str) -> None:
    model, folder = official(tmp_path / "base", kind=kind)

    network = load_network(folder, dtype=torch.float32, device=CPU)
    save_network(network, folder, tmp_path / "saved", as_bin=kind == "bin", shard_bytes=20_000 if kind == "shards" else 10**9)
    again = load_network(tmp_path / "saved", dtype=torch.float32, device=CPU)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "saved", attn_implementation="eager").eval()

    assert (kind == "shards") == ((folder / "model.safetensors.index.json").is_file())
    for row in ROWS:
        expected = reference_models.logits(model, row)
        for actual in (network, again):
            assert difference(our_logits(actual, [row])[0], expected) <= 1e-4
        assert difference(reference_models.logits(theirs, row), expected) <= 1e-4


def test_the_head_is_in_memory_and_in_the_folder_once(tmp_path: Path) -> None:
    _, folder = official(tmp_path / "base", kind="bare")

    network = load_network(folder, dtype=torch.float32, device=CPU)
    save_network(network, folder, tmp_path / "saved")

    assert set(load_file(tmp_path / "saved" / "model.safetensors")) == set(network.state_dict())
    assert network.head_weight is network.get_parameter("transformer.word_embeddings.weight")
    assert not any(parameter.is_meta for parameter in network.parameters())


@pytest.mark.parametrize("bits", FORMAT_NAMES)
class TestQuantized:
    def test_it_computes_with_the_numbers_that_it_stands_for(self, tmp_path: Path, bits: FormatName) -> None:
        model, folder = official(tmp_path / "base", kind="bare")

        ours = load_network(folder, dtype=torch.float32, device=CPU, weight_format=format_of(bits))
        layers = quantized_layers(ours)
        plain = {name: tensor for name, tensor in ours.state_dict().items() if not name.endswith(SCALE)}
        model.load_state_dict({**plain, **{name: layer.dequantize(torch.float32) for name, layer in layers.items()}}, strict=False)

        assert len(layers) == 2 * 4
        assert not any(isinstance(layer, nn.Linear) for layer in ours.modules())
        assert difference(our_loss(ours), reference_models.loss(model, ROWS, LABELS)) <= 1e-5
        prefix = prefix_of(ours)
        tensors = [tensor for layer in prefix for tensor in layer]
        actual = torch.autograd.grad(our_loss(ours, prefix, checkpointing=True), tensors)
        for a, b in zip(actual, torch.autograd.grad(reference_models.loss(model, ROWS, LABELS, prefix), tensors), strict=True):
            assert difference(a, b) <= 1e-4 * max(1.0, float(b.abs().max()))

    def test_a_quantized_folder_is_the_base_quantized_as_it_is_read(self, tmp_path: Path, bits: FormatName) -> None:
        _, folder = official(tmp_path / "base", kind="bare")
        quantized = imprint.load(folder, quantize=bits, dtype="float32", device="cpu")

        ready = imprint.load(imprint.quantize(folder, tmp_path / "quantized", bits), dtype="float32", device="cpu")

        assert ready.network.weight_format == format_of(bits)
        for a, b in zip(quantized.logits(ROWS), ready.logits(ROWS), strict=True):
            assert torch.equal(a, b)
