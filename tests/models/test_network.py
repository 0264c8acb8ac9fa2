import torch

from imprint.models.network import Network, Shape
from imprint.pack import Layout
from tests.cases import small_network

SHAPE = Shape(vocabulary=10, layers=2, kv_heads=3, head_size=4, hidden=24, longest=64)


def test_a_network_that_says_nothing_else_is_causal_and_counts_from_zero() -> None:
    network = Network(SHAPE, end_ids=frozenset({2}), quantization_bit=None)
    columns = torch.tensor([0, 1, 2])

    assert network.layout([5, 6, 7]) == Layout(0, 0)
    assert network.positions(columns, columns, columns).tolist() == [[0, 1, 2]]
    assert network.vocabulary == 10
    assert network.projection_width == 24
    assert network.own_name("transformer.x.weight") == "transformer.x.weight"


def test_a_cache_has_the_shape_and_the_type_of_its_network() -> None:
    network = small_network().bfloat16()

    cache = network.new_cache(2, 7)

    assert len(cache.keys) == len(cache.values) == network.shape.layers
    assert cache.keys[0].shape == (2, network.shape.kv_heads, 7, network.shape.head_size)
    assert cache.keys[0].dtype == network.dtype == torch.bfloat16
    assert cache.keys[0].device == network.device


def test_the_weights_of_a_network_are_counted() -> None:
    network = small_network()

    assert network.weights == sum(parameter.numel() for parameter in network.parameters())
