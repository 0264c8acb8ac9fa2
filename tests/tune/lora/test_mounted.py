from dataclasses import fields

import pytest
import torch

from imprint.models.attention import RowAdapters
from imprint.models.network import Network
from imprint.pack import pack
from imprint.tune.lora.lora import Lora
from imprint.tune.lora.mounted import MountedLoras
from imprint.tune.lora.shape import LoraShape, resolve_targets
from tests.cases import difference, small_network

ROWS = [[5, 6, 7, 8], [9, 10], [11, 12, 13]]


def lora_on(network: Network, *, seed: int, rank: int, dora: bool = False, init: str | bool = True) -> Lora:
    torch.manual_seed(seed)
    shape = LoraShape(rank, 2.0 * rank, rslora=False, dora=dora, targets=resolve_targets("all" if rank > 2 else "attention", network))
    lora = Lora(network, shape, init=init)
    for tensor in lora.named_tensors().values():
        if tensor.dim() == 2:
            torch.nn.init.normal_(tensor, std=0.2)
    return lora


def hidden_states(network: Network, rows: list[list[int]], adapters: RowAdapters | None = None) -> list[torch.Tensor]:
    with torch.no_grad():
        return list(network(pack(rows, network), adapters=adapters).split([len(row) for row in rows]))


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("init", [True, "pissa"])
def test_each_token_gets_what_its_lora_alone_computes(dora: bool, init: str | bool) -> None:  # noqa: FBT001
    if dora and init == "pissa":
        pytest.skip("a recipe refuses this pair")
    plain = small_network()
    expected = [hidden_states(plain, [ROWS[0]])[0]]
    for index, rank in enumerate((2, 4), start=1):
        network = small_network()
        lora_on(network, seed=index, rank=rank, dora=dora, init=init)
        expected.append(hidden_states(network, [ROWS[index]])[0])
    network = small_network()
    mounted = MountedLoras(network)
    for index, rank in enumerate((2, 4), start=1):
        lora_on(network, seed=index, rank=rank, dora=dora, init=init).mount(mounted, index)

    found = hidden_states(network, ROWS, RowAdapters(loras=torch.tensor([-1, 1, 2])))

    assert all(difference(a, b) < 2e-5 for a, b in zip(found, expected, strict=True))
    assert difference(hidden_states(plain, ROWS)[1], found[1]) > 0.01
    assert all(torch.equal(a, b) for a, b in zip(hidden_states(network, ROWS), hidden_states(plain, ROWS), strict=True))


def test_the_network_keeps_its_modules_and_names() -> None:
    network = small_network()
    before = [*network.state_dict()], [type(module) for module in network.modules()]
    mounted = MountedLoras(network)
    lora_on(network, seed=0, rank=2).mount(mounted, 1)

    assert ([*network.state_dict()], [type(module) for module in network.modules()]) == before

    mounted.remove(1)

    assert len(mounted) == 0
    assert not any(module._forward_hooks for module in network.modules())


def test_every_option_of_a_lora_is_computed_beside_others_too() -> None:
    mounted = {"rank", "ranks", "alpha", "alphas", "rslora", "targets", "dora"}  # by saved_matrices, scale, names and magnitude

    assert {field.name for field in fields(LoraShape)} == mounted
