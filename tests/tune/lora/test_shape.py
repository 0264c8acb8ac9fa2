import pytest

from imprint.messages import UserError
from imprint.quant.linear import QuantizedLinear
from imprint.tune.lora.section import LoraSection
from imprint.tune.lora.shape import LoraShape, linears_of, resolve_targets, shape_from_section
from tests.cases import BITS, Bits, small_network
from tests.tune.lora.steps import base

ENDS = ["dense", "dense_4h_to_h", "dense_h_to_4h", "query_key_value"]


def section(**knobs: object) -> LoraSection:
    return LoraSection.model_validate({"method": "lora", **knobs})


def test_by_default_a_network_chooses_the_targets() -> None:
    network = small_network()

    shape = shape_from_section(section(), network)

    assert shape.targets == tuple(f"transformer.layers.{layer}.attention.query_key_value" for layer in range(2))
    assert (shape.rank, shape.alpha, shape.rslora, shape.dora) == (8, 16.0, False, False)
    assert shape_from_section(section(targets="attention"), network) == shape


def test_all_are_the_linears_of_the_blocks() -> None:
    network = small_network()

    shape = shape_from_section(section(targets="all", rank=3, alpha=5.0), network)

    assert sorted({name.rpartition(".")[2] for name in shape.targets}) == ENDS
    assert set(shape.targets) == linears_of(network).keys()
    assert shape.short_names(network) == ENDS


def test_names_match_the_ends_of_linears() -> None:
    network = small_network()

    assert len(resolve_targets(("dense",), network)) == 2
    assert resolve_targets(("layers.1.mlp.dense_h_to_4h",), network) == ("transformer.layers.1.mlp.dense_h_to_4h",)
    with pytest.raises(UserError, match=r'no linear of this base is called "q_proj". It has dense, dense_4h_to_h, dense_h_to_4h, query_'):
        resolve_targets(("dense", "q_proj"), network)


def test_single_linears_are_called_by_their_full_names() -> None:
    network = small_network()
    one = shape_from_section(section(targets=("layers.1.attention.dense",)), network)

    assert one.short_names(network) == ["transformer.layers.1.attention.dense"]


def test_a_rank_above_the_size_of_a_linear_is_refused() -> None:
    with pytest.raises(UserError, match=r"tune.rank: 33 is more than transformer.layers.0.attention.query_key_value has: 32 inputs, 96 o"):
        shape_from_section(section(rank=33), small_network())


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("knobs", [{"dora": True}, {"start": "pissa"}, {"start": "olora"}, {"start": "mica"}], ids=str)
def test_what_needs_a_plain_weight_is_refused_on_a_quantized_base(knobs: dict[str, object], bits: Bits) -> None:
    network = base(f"INT{bits}")
    assert all(isinstance(linear, QuantizedLinear) for linear in linears_of(network).values())

    with pytest.raises(UserError) as caught:
        shape_from_section(section(**knobs), network)

    assert f"needs a plain weight, but this base is quantized to {bits} bits. Use a base that is not quantized" in str(caught.value)
    assert "需要未量化的底座" in str(caught.value)


def test_twice_the_rank_keeps_the_scale() -> None:
    for rslora in (False, True):
        shape = LoraShape(4, 6.0, rslora, False, ("a", "b"), {"b": 2}, {"b": 3.0})

        twice = shape.doubled()

        assert (twice.rank, twice.ranks) == (8, {"b": 4})
        root = 0.5 if rslora else 1
        assert twice.alpha / twice.rank**root == pytest.approx(shape.alpha / shape.rank**root)
        assert twice.alphas["b"] / twice.ranks["b"] ** root == pytest.approx(shape.alphas["b"] / shape.ranks["b"] ** root)
