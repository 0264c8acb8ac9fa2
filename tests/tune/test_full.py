from pathlib import Path

import pytest
import torch
from torch.nn import functional

from imprint.engine.engine import Engine
from imprint.engine.section import OptimizerSection
from imprint.messages import UserError
from imprint.models.checkpoint import load_network, save_network
from imprint.pack import pack
from imprint.tune.full import unfreeze
from imprint.tune.section import FullSection
from imprint.tune.tuner import Tuner
from tests.cases import Case, difference, format_of, prompt, small_fields, small_network, write_config

CPU = torch.device("cpu")


def test_parameters_are_copied_from_the_mapped_file(tmp_path: Path) -> None:
    source = write_config(tmp_path / "source", small_fields())
    save_network(small_network(), source, tmp_path / "base")
    file = tmp_path / "base" / "model.safetensors"
    before = file.read_bytes()
    network = load_network(tmp_path / "base", dtype=torch.float32, device=CPU)
    addresses = {name: parameter.data_ptr() for name, parameter in network.named_parameters()}

    unfreeze(network)
    for parameter in network.parameters():
        parameter.data.zero_()

    assert all(parameter.data_ptr() != addresses[name] for name, parameter in network.named_parameters())
    assert file.read_bytes() == before


def test_every_parameter_is_trained() -> None:
    network = small_network()
    unfreeze(network)
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    tuner = Tuner(network, FullSection(method="full"), None, checkpointing=False)
    engine = Engine.start(tuner, tuner.trainable_parameters(), OptimizerSection(learning_rate=1e-3, warmup_steps=0), 1, device=CPU)
    rows = [[*prompt(network, 1, 2, 3), 4, 5]]

    engine.backward(tuner(pack(rows, network, rows)), last=True)
    norm, applied = engine.update(1, apply=True)

    assert applied
    assert norm > 0
    assert [name for name, parameter in network.named_parameters() if torch.equal(parameter, before[name])] == []


def test_a_quantized_base_is_refused() -> None:
    network = load_network(Case("chatglm1-base").folder, dtype=torch.float32, device=CPU, weight_format=format_of(4))

    with pytest.raises(
        UserError, match=r"^tune\.method: full tuning of a base quantized to 4 bits is not possible.*Set model\.quantize to null"
    ):
        unfreeze(network)


def test_gradients_are_those_of_plain_cross_entropy() -> None:
    case = Case("chatglm1-base")
    ours, plain = case.load().network, case.load().network
    gradients = []
    for network in (ours, plain):
        unfreeze(network)
        packed = pack(case.rows, network, case.labels)
        hidden = network(packed)
        if network is ours:
            loss = Tuner(network, FullSection(method="full"), None, checkpointing=True).train()(packed)
        else:
            loss = functional.cross_entropy(network.logits(hidden)[packed.targets], packed.labels, reduction="sum")
        loss.backward()
        gradients.append({name: parameter.grad for name, parameter in network.named_parameters()})

    for name, expected in gradients[1].items():
        gradient = gradients[0][name]
        assert expected is not None
        assert gradient is not None
        assert difference(gradient, expected) <= 1e-4 * float(expected.abs().max())
