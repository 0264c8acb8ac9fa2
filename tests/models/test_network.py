import torch
from torch import nn

from imprint.models.network import ModelShape, Network
from imprint.pack import ContextSpan
from imprint.quant.dense import DecodingLinear
from imprint.quant.names import KernelChoice
from tests.cases import small_network

SHAPE = ModelShape(vocab_size=10, num_layers=2, num_kv_heads=3, head_dim=4, hidden_size=24, max_length=64)


def test_by_default_a_network_is_causal_and_positions_are_offsets() -> None:
    network = Network(SHAPE, stop_ids=frozenset({2}), weight_format=None)
    offsets = torch.tensor([0, 1, 2])

    assert network.context_span([5, 6, 7]) == ContextSpan(0, 0)
    assert network.positions(offsets, offsets, offsets).tolist() == [[0, 1, 2]]
    assert network.vocab_size == 10
    assert network.projection_width == 24
    assert network.network_name("transformer.x.weight") == "transformer.x.weight"


def test_a_cache_has_the_shape_and_the_type_of_its_network() -> None:
    network = small_network().bfloat16()

    cache = network.new_cache(2, 7)

    assert len(cache.keys) == len(cache.values) == network.shape.num_layers
    assert cache.keys[0].shape == (2, network.shape.num_kv_heads, 7, network.shape.head_dim)
    assert cache.keys[0].dtype == network.dtype == torch.bfloat16
    assert cache.keys[0].device == network.device


def test_all_weights_of_a_network_are_counted() -> None:
    network = small_network()

    assert network.num_parameters == sum(parameter.numel() for parameter in network.parameters())


def test_the_choice_of_kernels_reaches_the_linears_and_changes_nothing_on_a_cpu() -> None:
    network, hidden = small_network(), torch.ones(1, small_network().shape.hidden_size)
    logits = network.logits(hidden)

    kinds: dict[KernelChoice, type[nn.Linear]] = {"auto": DecodingLinear, "plain": nn.Linear}
    for choice, kind in kinds.items():
        network.use_kernels(choice)
        linears = [module for module in network.modules() if isinstance(module, nn.Linear)]
        assert {type(linear) for linear in linears} == {kind}
        assert network.kernels == choice
        assert network.active_backends == (network.attention_backends[-1:] if choice == "plain" else network.attention_backends)
        assert torch.equal(network.logits(hidden), logits)
