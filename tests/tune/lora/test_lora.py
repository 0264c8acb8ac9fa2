from pathlib import Path

import pytest
import torch
from torch import nn

from imprint.errors import UserError
from imprint.models.checkpoint import load_network, save_network
from imprint.quant import QuantizedLinear
from imprint.tune.lora.lora import OUTER, UP, Lora
from imprint.tune.lora.section import LoraSection
from imprint.tune.lora.shape import LoraShape, shape_for
from tests.cases import Case, difference
from tests.tune.lora.steps import PRECISIONS, QKV, base, golden_batch, greedy, lora_of, losses, scattered, tuner

KINDS: list[dict[str, object]] = [{}, {"targets": "all", "rslora": True}, {"dora": True}, {"start": "pissa"}, {"start": "olora"}]


def learned(precision: str, knobs: dict[str, object]) -> Lora:
    """A LoRA that has learned a little."""
    one = tuner(base(precision), section=LoraSection.model_validate({"method": "lora", "rank": 4, **knobs}))
    losses(one, golden_batch(one.network), 3)
    return scattered(lora_of(one), size=0.05)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_off_it_is_the_base_bit_for_bit_with_the_bases_names(precision: str) -> None:
    network = base(precision)
    batch = golden_batch(network)
    before, state = network(batch), {name: tensor.clone() for name, tensor in network.state_dict().items()}
    lora = scattered(Lora(network, shape_for(LoraSection(method="lora"), network)))

    assert difference(network(batch), before) > 0.01
    with lora.off():
        assert torch.equal(network(batch), before)
        assert network.state_dict().keys() == state.keys()
        assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())
        with lora.on():
            assert difference(network(batch), before) > 0.01
        with lora.off():
            assert torch.equal(network(batch), before)
        assert torch.equal(network(batch), before)
    assert difference(network(batch), before) > 0.01


def test_an_error_inside_puts_it_back() -> None:
    network = base()
    lora = Lora(network, shape_for(LoraSection(method="lora"), network))

    with pytest.raises(ZeroDivisionError), lora.off():
        raise ZeroDivisionError

    assert network.get_submodule(QKV) is lora.layers[QKV]


@pytest.mark.parametrize("knobs", KINDS, ids=str)
def test_merged_it_says_the_same(knobs: dict[str, object], tmp_path: Path) -> None:
    lora = learned("float32", knobs)
    network = lora.network
    batch = golden_batch(network)
    with torch.no_grad():
        before, answers = network(batch), greedy(network)

    lora.merge()

    assert difference(network(batch), before) <= 1e-3
    assert greedy(network) == answers
    assert network.state_dict().keys() == base().state_dict().keys()
    assert all(not parameter.requires_grad for parameter in network.parameters())
    save_network(network, Case("chatglm1-base").folder, tmp_path / "merged")
    assert greedy(load_network(tmp_path / "merged", dtype=torch.float32, device=torch.device("cpu"))) == answers


def test_merging_keeps_16_bits() -> None:
    lora = learned("bfloat16", {"targets": "all"})
    wanted = {name: layer.merged_weight(layer.linear.weight) for name, layer in lora.layers.items()}

    lora.merge()

    for name, weight in wanted.items():
        assert torch.equal(lora.network.get_parameter(f"{name}.weight"), weight.bfloat16())


@pytest.mark.parametrize("precision", ["INT8", "INT4"])
def test_integers_are_merged_on_request_only(precision: str) -> None:
    lora = learned(precision, {})
    network = lora.network
    batch = golden_batch(network)
    with torch.no_grad():
        before, answers = network(batch), greedy(network)

    with pytest.raises(UserError, match=rf"merge: the base holds its weights in {precision[3:]} bits, which cannot take up a LoRA exactly"):
        lora.merge()
    lora.merge(dequantize=True)

    assert not any(isinstance(module, QuantizedLinear) for module in network.modules())
    assert network.quantization_bit is None
    assert difference(network(batch), before) <= 1e-3
    assert greedy(network) == answers
    assert all(isinstance(network.get_submodule(name), nn.Linear) for name in lora.layers)


def test_a_start_from_the_weight_is_saved_for_the_base_as_it_is() -> None:
    lora = learned("float32", {"start": "pissa"})

    shape, tensors = lora.result()

    assert (shape.rank, shape.alpha) == (8, 16.0)
    assert tensors[f"{OUTER}{QKV}.{UP}"].shape[1] == 8
    plain = Lora(base(), shape)
    plain.fill(tensors)
    batch = golden_batch(plain.network)
    with torch.no_grad():
        assert difference(plain.network(batch), lora.network(batch)) <= 1e-3


def test_a_linear_may_have_a_rank_of_its_own() -> None:
    shape = LoraShape(4, 8.0, False, False, (QKV, QKV.replace("0", "1")), {QKV: 2}, {QKV: 5.0})

    lora = Lora(base(), shape)

    assert (lora.layers[QKV].down.shape[0], lora.layers[QKV].scale) == (2, 2.5)
    assert (lora.layers[QKV.replace("0", "1")].down.shape[0], lora.layers[QKV.replace("0", "1")].scale) == (4, 2.0)
