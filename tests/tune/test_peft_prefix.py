import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import save_file

from imprint.messages import UserError
from imprint.models.checkpoint import load_network
from imprint.models.hf import VERIFIED
from imprint.models.network import Network
from imprint.pack import pack
from imprint.tune.adapter_folder import load_adapter
from imprint.tune.peft_files import CONFIG_FILE, TENSORS_FILE
from imprint.tune.peft_prefix import TENSOR, write_peft_prefix
from imprint.tune.prefix import TENSOR_PREFIX, PrefixEncoder
from tests import reference_models
from tests.cases import difference, small_chatglm2, small_network
from tests.reference_models import ROWS

KINDS = sorted({*VERIFIED, "bloom"})
LENGTH = 5
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore:Position ids are not supported")  # of peft, about itself


def pair(kind: str, folder: Path, **change: object) -> tuple[Any, Network]:
    """transformers' model and ours."""
    fields = {**reference_models.FIELDS, **change}
    if kind == "bloom":
        fields = {"vocab_size": 60, "hidden_size": 32, "n_layer": 2, "n_head": 4}
    model = reference_models.random_model(kind, fields)
    return model, load_network(reference_models.saved(model, folder), dtype=torch.float32, device=torch.device("cpu"))


def config_of(method: str) -> Any:
    config = {"PREFIX_TUNING": peft.PrefixTuningConfig, "PROJECTION": peft.PrefixTuningConfig, "CARTRIDGE": peft.CartridgeConfig}[method]
    more = {"PROJECTION": {"prefix_projection": True, "encoder_hidden_size": 12}}.get(method, {})
    return config(task_type="CAUSAL_LM", num_virtual_tokens=LENGTH, **more)


def our_logits(network: Network, encoder: PrefixEncoder, row: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return network.logits(network(pack([row], network), prefix=encoder.prefix(torch.float32)))


@pytest.mark.parametrize("method", ["PREFIX_TUNING", "PROJECTION", "CARTRIDGE"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_prefix_of_peft_gives_the_logits_of_peft(kind: str, method: str, tmp_path: Path) -> None:
    model, network = pair(kind, tmp_path / "base")
    torch.manual_seed(0)
    theirs: Any = peft.get_peft_model(model, config_of(method)).eval()
    theirs.save_pretrained(str(tmp_path / "prefix"))

    encoder, description = load_adapter(tmp_path / "prefix", network)

    assert isinstance(encoder, PrefixEncoder)
    assert (description.method, description.method_metadata.start) == ("prefix", "peft")
    for row in ROWS:
        with torch.no_grad():
            expected = theirs(input_ids=torch.tensor([row]), attention_mask=torch.ones(1, len(row), dtype=torch.long)).logits[0]
        plain = network.logits(network(pack([row], network)))
        assert difference(our_logits(network, encoder, row), expected) <= 1e-4
        assert difference(plain.detach(), expected) > 0.01


@pytest.mark.parametrize("kind", KINDS)
def test_peft_reads_what_is_written(kind: str, tmp_path: Path) -> None:
    model, network = pair(kind, tmp_path / "base")
    torch.manual_seed(0)
    peft.get_peft_model(model, config_of("PREFIX_TUNING")).save_pretrained(str(tmp_path / "prefix"))
    encoder, _ = load_adapter(tmp_path / "prefix", network)
    assert isinstance(encoder, PrefixEncoder)
    with torch.no_grad():
        encoder.embedding.weight.add_(0.1)
    (tmp_path / "written").mkdir()

    write_peft_prefix(tmp_path / "written", encoder, network, "base")

    theirs: Any = peft.PeftModel.from_pretrained(model, str(tmp_path / "written")).eval()
    again, _ = load_adapter(tmp_path / "written", network)
    assert isinstance(again, PrefixEncoder)
    assert difference(again.embedding.weight.detach(), encoder.embedding.weight.detach()) <= 1e-5
    with torch.no_grad():
        expected = theirs(input_ids=torch.tensor([ROWS[0]]), attention_mask=torch.ones(1, len(ROWS[0]), dtype=torch.long)).logits[0]
    assert difference(our_logits(network, encoder, ROWS[0]), expected) <= 1e-4


@pytest.mark.parametrize("network", [small_network(), small_chatglm2()], ids=["chatglm", "chatglm2"])
def test_on_chatglm_it_is_the_embedding_of_the_original(network: Network, tmp_path: Path) -> None:
    shape = network.shape
    torch.manual_seed(0)
    values = torch.randn(LENGTH, shape.num_layers * 2 * shape.num_kv_heads * shape.head_dim)
    torch.save({f"{TENSOR_PREFIX}embedding.weight": values}, tmp_path / "original.bin")
    fields = {"peft_type": "PREFIX_TUNING", "num_virtual_tokens": LENGTH, "num_layers": shape.num_layers, "prefix_projection": False}
    fields |= {"num_attention_heads": shape.num_kv_heads, "token_dim": shape.num_kv_heads * shape.head_dim}
    (tmp_path / "peft").mkdir()
    (tmp_path / "peft" / CONFIG_FILE).write_text(json.dumps(fields))
    save_file({TENSOR: values}, tmp_path / "peft" / TENSORS_FILE)

    original, _ = load_adapter(tmp_path / "original.bin", network)
    ours, _ = load_adapter(tmp_path / "peft", network)

    assert isinstance(ours, PrefixEncoder)
    assert isinstance(original, PrefixEncoder)
    assert torch.equal(ours.embedding.weight, original.embedding.weight)


@pytest.mark.parametrize(
    ("fields", "values", "sentence"),
    [
        ({"num_layers": 3}, None, '"num_layers" is 3, this base has 2. Load the prefix with the base it was trained on.'),
        ({"token_dim": 64}, None, '"token_dim" is 64, this base has 32'),
        ({"num_transformer_submodules": 2}, None, '"num_transformer_submodules" is 2, this base has 1'),
        ({"num_virtual_tokens": 7}, None, "prompt_embeddings must be (7, 128) for this base and adapter_config.json, found (5, 128)"),
        ({}, torch.zeros(5, 96), "prompt_embeddings must be (5, 128) for this base and adapter_config.json, found (5, 96)"),
        ({}, torch.zeros(5, 128).int(), "found (5, 128) of torch.int32"),
        ({}, torch.full((5, 128), float("nan")), "'prompt_embeddings' holds NaN or infinite values"),
        ({"scale_by": 2}, None, "'scale_by' is 2, which is not supported. Supported: a prefix of one decoder."),
        ({"modules_to_save": ["lm_head"]}, None, "'modules_to_save' is ['lm_head'], which is not supported"),
    ],
)
def test_a_prefix_that_does_not_fit_is_refused(
    fields: dict[str, object], values: torch.Tensor | None, sentence: str, tmp_path: Path
) -> None:
    content = {"peft_type": "PREFIX_TUNING", "num_virtual_tokens": LENGTH, **fields}
    (tmp_path / CONFIG_FILE).write_text(json.dumps(content))
    save_file({TENSOR: torch.zeros(5, 128) if values is None else values}, tmp_path / TENSORS_FILE)

    with pytest.raises(UserError) as caught:
        load_adapter(tmp_path, small_network())

    assert sentence in str(caught.value)


def test_a_kind_of_positions_that_was_not_compared_is_refused(tmp_path: Path) -> None:
    model, network = pair("olmo2", tmp_path / "base")
    peft.get_peft_model(model, config_of("PREFIX_TUNING")).save_pretrained(str(tmp_path / "prefix"))

    with pytest.raises(UserError, match=r"a prefix in peft's layout is supported on ChatGLM to GLM-4, BLOOM and glm, .*, not on 'olmo2'"):
        load_adapter(tmp_path / "prefix", network)


@pytest.mark.parametrize("kind", ["linear", "yarn", "llama3"])
def test_scaled_positions_give_the_logits_of_peft(kind: str, tmp_path: Path) -> None:
    rotary = {"rope_type": kind, "factor": 4.0, "rope_theta": 1e4, "original_max_position_embeddings": 16}
    rotary |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0} if kind == "llama3" else {}
    model, network = pair("llama", tmp_path / "base", rope_parameters=rotary)
    torch.manual_seed(0)
    theirs: Any = peft.get_peft_model(model, config_of("PREFIX_TUNING")).eval()
    theirs.save_pretrained(str(tmp_path / "prefix"))

    encoder, _ = load_adapter(tmp_path / "prefix", network)

    assert isinstance(encoder, PrefixEncoder)
    with torch.no_grad():
        expected = theirs(input_ids=torch.tensor([ROWS[0]]), attention_mask=torch.ones(1, len(ROWS[0]), dtype=torch.long)).logits[0]
    assert difference(our_logits(network, encoder, ROWS[0]), expected) <= 1e-4


def test_a_window_that_would_leave_the_prefix_behind_is_told(tmp_path: Path) -> None:
    model, network = pair("mistral", tmp_path / "base", sliding_window=len(ROWS[0]))
    peft.get_peft_model(model, config_of("PREFIX_TUNING")).save_pretrained(str(tmp_path / "prefix"))

    with pytest.raises(
        UserError, match=r"not supported on a base with a sliding window \(9 tokens\): peft counts the prefix as tokens in it"
    ):
        load_adapter(tmp_path / "prefix", network)
