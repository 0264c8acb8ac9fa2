import pytest
import torch

from imprint.models.network import Network
from imprint.tune.adapter import METADATA, Adapter, AdapterMetadata, LoraMetadata, PrefixMetadata, fp32_tensors
from imprint.tune.lora.lora import Lora
from imprint.tune.lora.section import LoraSection
from imprint.tune.lora.shape import shape_from_section
from imprint.tune.prefix import PrefixShape, init_prefix
from imprint.tune.section import PrefixSection
from tests.cases import small_network


def prefix_on(network: Network) -> Adapter:
    return init_prefix(network, PrefixShape.from_network(network, 3, projection=True), "random", [])


def lora_on(network: Network) -> Adapter:
    return Lora(network, shape_from_section(LoraSection(method="lora", rank=2), network))


@pytest.fixture(params=[prefix_on, lora_on])
def adapter(request: pytest.FixtureRequest) -> Adapter:
    adapter: Adapter = request.param(small_network())
    return adapter


def test_its_trainable_parameters_are_among_its_tensors(adapter: Adapter) -> None:
    assert adapter.trainable_parameters().keys() <= adapter.named_tensors().keys()
    assert all(parameter.requires_grad for parameter in adapter.trainable_parameters().values())


def test_its_settings_are_knobs_of_its_section(adapter: Adapter) -> None:
    knobs = (PrefixSection if adapter.method == "prefix" else LoraSection).model_fields
    assert adapter.settings().keys() <= knobs.keys()


def test_its_facts_are_those_of_its_method(adapter: Adapter) -> None:
    metadata = adapter.metadata("random")
    assert type(metadata) is METADATA[adapter.method]
    assert metadata.start == "random"


def test_only_a_lora_is_mergeable_and_only_a_prefix_has_keys_and_values(adapter: Adapter) -> None:
    assert (adapter.prefix(torch.float32) is None) is adapter.mergeable is (adapter.method == "lora")
    if not adapter.mergeable:
        with pytest.raises(AssertionError, match="not mergeable"):
            adapter.merge()


@pytest.mark.parametrize("attach", [prefix_on, lora_on])
def test_off_and_on_switch_modules_and_names(attach: object) -> None:
    network = small_network()
    names = list(network.state_dict())
    adapter = attach(network)  # type: ignore[operator]
    attached = list(network.state_dict())
    with adapter.off():
        assert list(network.state_dict()) == names
        with adapter.on():
            assert list(network.state_dict()) == attached
    assert list(network.state_dict()) == attached


def test_dropout_acts_in_training_only() -> None:
    encoder = prefix_on(small_network())
    encoder.set_dropout(0.5)
    plain, again, dropped = (encoder.prefix(torch.float32, training=training) for training in (False, False, True))
    assert plain is not None
    assert again is not None
    assert dropped is not None
    assert torch.equal(plain[0][0], again[0][0])
    assert not torch.equal(plain[0][0], dropped[0][0])


def test_tensors_are_saved_in_fp32(adapter: Adapter) -> None:
    assert {tensor.dtype for tensor in fp32_tensors(adapter).values()} == {torch.float32}


def test_the_summary_of_a_description_is_one_line() -> None:
    prefix = AdapterMetadata("base", [], PrefixMetadata(5, False, "text"), "chatglm", step=7)
    lora = AdapterMetadata("base", [], LoraMetadata(8, ("query_key_value",), "standard"), "chatglm")
    assert prefix.summary("x") == "prefix 前缀 x (5 tokens, step 7)"
    assert lora.summary("x") == "LoRA x (rank 8 on query_key_value)"
    assert (prefix.method, lora.method) == ("prefix", "lora")
