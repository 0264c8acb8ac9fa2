import re
from pathlib import Path

import peft
import pytest
import torch
from peft.optimizers import create_loraplus_optimizer
from torch import nn
from torch.func import functional_call

from imprint.models.network import Network
from imprint.quant.linear import QuantizedLinear
from imprint.tune.lora.lora import LORA_A, LORA_B, PEFT_PREFIX, Lora
from imprint.tune.lora.section import LoraSection
from tests.cases import difference, plain_twin
from tests.tune.lora.steps import QKV, base, golden_batch, gradients, lora_of, losses, scattered, tuner
from tests.tune.test_tuner import Products

STARTS: list[dict[str, object]] = [
    {},
    {"rslora": True, "alpha": 3.0},
    {"targets": "all"},
    {"start": "gaussian"},
    {"start": "orthogonal"},
    {"start": "olora"},
    {"start": "pissa"},
    {"start": "pissa", "rslora": True, "targets": ("dense",)},
    {"start": "mica"},
    {"dora": True},
]


def section(knobs: dict[str, object]) -> LoraSection:
    return LoraSection.model_validate({"method": "lora", "rank": 4, **knobs})


def peft_twin(one: LoraSection) -> nn.Module:
    """The same LoRA on the same base, by peft itself."""
    torch.manual_seed(5)
    config = peft.LoraConfig(
        r=one.rank or 8,
        lora_alpha=one.alpha or 8,  # type: ignore[arg-type]
        target_modules=["query_key_value"] if one.targets is None else "all-linear" if one.targets == "all" else list(one.targets),
        use_rslora=bool(one.rslora),
        use_dora=bool(one.dora),
        init_lora_weights=one.init,  # type: ignore[arg-type]
    )
    return peft.inject_adapter_in_model(config, base())


@pytest.mark.parametrize("knobs", STARTS, ids=str)
def test_losses_are_those_of_peft_step_by_step(knobs: dict[str, object]) -> None:
    ours = tuner(base(), section=section(knobs))
    ours.network.double()  # the golden base multiplies each rounding by a thousand
    reference = peft_twin(section(knobs)).double()
    assert isinstance(reference, Network)
    if knobs.get("start") == "orthogonal":  # the random generator is in another state
        theirs = {name.replace(".default", ""): tensor.detach() for name, tensor in reference.named_parameters() if "lora_" in name}
        lora_of(ours).load_tensors({f"{PEFT_PREFIX}{name}": tensor for name, tensor in theirs.items()})
    batch = golden_batch(ours.network)

    values = losses(ours, batch, 6, rate=0.002)

    trainable = [parameter for parameter in reference.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=0.002, weight_decay=0.0)
    expected = []
    for _ in range(6):
        hidden = reference(batch)
        loss = nn.functional.cross_entropy(reference.logits(hidden[batch.targets]).float(), batch.labels)
        expected.append(float(loss.detach()))
        loss.backward()
        nn.utils.clip_grad_norm_(trainable, 1.0)
        optimizer.step()
        optimizer.zero_grad()
    assert values[-1] < values[0]
    assert difference(torch.tensor(values), torch.tensor(expected)) <= 5e-4


def test_the_second_matrix_learns_faster_as_with_pefts_optimizer() -> None:
    knobs: dict[str, object] = {"plus_ratio": 16.0}
    ours = tuner(base(), section=section(knobs))
    ours.network.double()
    reference = peft_twin(section({})).double()
    batch = golden_batch(ours.network)
    optimizer = create_loraplus_optimizer(reference, torch.optim.AdamW, lr=0.0005, loraplus_lr_ratio=16.0, loraplus_weight_decay=0.0)  # type: ignore[arg-type]

    values = losses(ours, batch, 4, rate=0.0005)

    expected = []
    for _ in range(4):
        hidden = reference(batch)
        loss = nn.functional.cross_entropy(reference.logits(hidden[batch.targets]).float(), batch.labels)  # type: ignore[operator]
        expected.append(float(loss.detach()))
        loss.backward()
        nn.utils.clip_grad_norm_([parameter for parameter in reference.parameters() if parameter.requires_grad], 1.0)
        optimizer.step()
        optimizer.zero_grad()
    assert difference(torch.tensor(values), torch.tensor(expected)) <= 5e-4
    assert values[-1] < losses(tuner(base(), section=section({})), batch, 4, rate=0.0005)[-1] - 0.01


@pytest.mark.parametrize("targets", [None, "all"])
@pytest.mark.parametrize("precision", ["float32", "INT8", "INT4"])
def test_gradients_are_those_of_the_merged_weight(precision: str, targets: str | None) -> None:
    network = base(precision)
    plain = plain_twin(network).double()
    one = tuner(network.double(), section=section({"targets": targets, "alpha": 6.0}))
    lora = scattered(lora_of(one))
    batch = golden_batch(network)

    grads = gradients(one, batch)

    again = {name: tensor.detach().clone().requires_grad_(True) for name, tensor in lora.named_tensors().items()}
    weights = {}
    for name in lora.layers:
        product = again[f"{PEFT_PREFIX}{name}.{LORA_B}"] @ again[f"{PEFT_PREFIX}{name}.{LORA_A}"]
        weights[f"{name}.weight"] = plain.get_parameter(f"{name}.weight") + 6.0 / 4 * product
    hidden = functional_call(plain, weights, (batch,))
    nn.functional.cross_entropy(plain.logits(hidden[batch.targets]), batch.labels, reduction="sum").backward()
    assert grads.keys() == again.keys()
    for name, tensor in again.items():
        assert tensor.grad is not None
        assert difference(grads[name], tensor.grad) <= 1e-4 * float(tensor.grad.abs().max()), name


@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "INT4"])
def test_checkpointing_changes_no_gradient(precision: str, dropout: float) -> None:
    results = []
    for checkpointing in (False, True):
        one = tuner(base(precision), checkpointing=checkpointing, section=section({"dropout": dropout, "targets": "all"}))
        scattered(lora_of(one))
        torch.manual_seed(3)
        results.append(gradients(one, golden_batch(one.network)))

    assert results[0].keys() == results[1].keys() != set()
    for name, gradient in results[0].items():
        assert difference(gradient, results[1][name]) <= 1e-6 * float(gradient.abs().max()), name


@pytest.mark.parametrize("precision", ["float32", "INT8", "INT4"])
def test_no_gradient_of_a_frozen_weight_is_computed(precision: str) -> None:
    one = tuner(base(precision))
    layer = lora_of(one).layers[QKV]
    size = (layer.linear.out_features, layer.linear.in_features)

    with Products() as products:
        grads = gradients(one, golden_batch(one.network))

    assert not products.shapes & {size, size[::-1]}
    assert len(grads) == len(one.trainable_parameters())
    assert all(parameter.grad is None for name, parameter in one.network.named_parameters() if "lora_" not in name)
    assert isinstance(layer.linear, QuantizedLinear) == (precision != "float32")


@pytest.mark.parametrize("knobs", STARTS, ids=str)
def test_trained_parameters_are_fp32_and_the_base_keeps_its_dtype(knobs: dict[str, object]) -> None:
    network = base("bfloat16")
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    batch = golden_batch(network)
    plain = network.logits(network(batch)).float()

    one = tuner(network, section=section(knobs))

    assert {parameter.dtype for parameter in one.trainable_parameters().values()} == {torch.float32}
    with torch.no_grad():
        assert difference(network.logits(network(batch)).float(), plain) <= 0.3  # the start is the base, up to rounding
        hidden = network(batch)
    assert hidden.dtype == torch.bfloat16
    with one.adapter_off():
        assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_dropout_acts_while_training_only() -> None:
    one = tuner(base(), section=section({"dropout": 0.5}))
    scattered(lora_of(one))
    batch = golden_batch(one.network)

    assert len({float(one.train()(batch).detach()) for _ in range(3)}) == 3
    assert len({float(one.eval()(batch).detach()) for _ in range(3)}) == 1


def test_the_start_equals_the_base_in_fp32_too() -> None:
    for start in ("olora", "pissa"):
        network = base()
        batch = golden_batch(network)
        plain = network(batch)
        lora = Lora(network, lora_of(tuner(base(), section=section({"start": start}))).shape, init=start)

        assert difference(network(batch), plain) <= 1e-4
        assert all(layer.initial_part is not None and float(layer.matrix_b.detach().abs().max()) > 0 for layer in lora.layers.values())


def test_peft_which_takes_seconds_is_imported_only_for_a_lora(repo: Path) -> None:
    sources = {path.relative_to(repo).as_posix(): path.read_text(encoding="utf-8") for path in (repo / "imprint").rglob("*.py")}
    assert [path for path, text in sources.items() if re.search(r"^(from|import) peft", text, re.MULTILINE)] == [
        "imprint/tune/lora/layer.py"
    ]
    assert not [path for path, text in sources.items() if re.search(r"^from imprint\.tune\.lora\.layer ", text, re.MULTILINE)]
