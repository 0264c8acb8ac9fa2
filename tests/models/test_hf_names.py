import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from imprint.export.quantized import quantize
from imprint.models.checkpoint import load_network, save_network
from imprint.models.hf import is_supported
from imprint.models.network import Network
from imprint.quant.names import FORMAT_NAMES, FormatName
from imprint.tune.lora.files import read_lora
from tests import reference_models
from tests.cases import difference, format_of
from tests.inference.reference import generate_ids
from tests.reference_models import LABELS, ROWS, our_logits, our_loss, prefix_of

KINDS = ("gpt2", "gpt_neox", "exaone", "gpt_bigcode")
OLD_NAMES = {
    "gpt2": "transformer.h.0.attn.c_attn.weight",
    "gpt_neox": "embed_out.weight",
    "exaone": "transformer.h.0.attn.attention.q_proj.weight",
    "gpt_bigcode": "transformer.h.0.attn.c_attn.weight",
}


def loaded(folder: Path, *, bits: FormatName | None = None) -> Network:
    return load_network(folder, dtype=torch.float32, device=torch.device("cpu"), weight_format=format_of(bits))


@pytest.fixture(params=KINDS)
def published(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Any, Path]:
    """A kind, transformers' model, and its folder under the names of its published folders."""
    kind = str(request.param)
    if not is_supported(kind):
        pytest.skip(f"this transformers has no {kind}")
    known = AutoConfig.for_model(kind)
    fields = {**reference_models.FIELDS, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_inner": 48, "n_positions": 64}
    fields = {name: value for name, value in fields.items() if hasattr(known, name) and name != "head_dim"}
    model = reference_models.random_model(kind, fields)
    return kind, model, reference_models.saved(model, tmp_path / "base")


def test_a_folder_with_older_names_is_read(published: tuple[str, Any, Path]) -> None:
    kind, model, folder = published
    assert OLD_NAMES[kind] in load_file(folder / "model.safetensors")

    ours = loaded(folder)

    prefix = prefix_of(ours)
    tensors = [tensor for layer in prefix for tensor in layer]
    loss, expected = our_loss(ours, prefix), reference_models.loss(model, ROWS, LABELS, None if kind == "gpt_bigcode" else prefix)
    for row, logits in zip(ROWS, our_logits(ours, ROWS), strict=True):
        assert difference(logits, reference_models.logits(model, row)) <= 1e-4
    assert generate_ids(ours, ROWS, 5) == [reference_models.greedy(model, row, 5) for row in ROWS]
    if kind != "gpt_bigcode":  # its cache is of one head
        assert difference(loss, expected) <= 1e-5
        for a, b in zip(torch.autograd.grad(loss, tensors), torch.autograd.grad(expected, tensors), strict=True):
            assert difference(a, b) <= 1e-4 * max(1.0, float(b.abs().max()))


def test_what_is_saved_has_the_names_that_were_read(published: tuple[str, Any, Path], tmp_path: Path) -> None:
    _, model, folder = published

    save_network(loaded(folder), folder, tmp_path / "saved")
    before, after = load_file(folder / "model.safetensors"), load_file(tmp_path / "saved" / "model.safetensors")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "saved", attn_implementation="eager").eval()

    assert after.keys() == before.keys() - {"lm_head.weight"} if model.config.tie_word_embeddings else after.keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in after.items())
    assert difference(reference_models.logits(theirs, ROWS[0]), reference_models.logits(model, ROWS[0])) <= 1e-5
    assert difference(our_logits(loaded(tmp_path / "saved"), ROWS[:1])[0], reference_models.logits(model, ROWS[0])) <= 1e-4


@pytest.mark.parametrize("bits", [pytest.param(name, marks=[] if name == 8 else pytest.mark.long) for name in FORMAT_NAMES])
def test_a_quantized_folder_computes_what_rounding_at_loading_does(
    published: tuple[str, Any, Path], tmp_path: Path, bits: FormatName
) -> None:
    _, _, folder = published
    expected = our_logits(loaded(folder, bits=bits), ROWS)

    quantize(folder, tmp_path / "small", bits)

    for a, b in zip(our_logits(loaded(tmp_path / "small"), ROWS), expected, strict=True):
        assert torch.equal(a, b)


def test_masks_in_the_files_are_passed_over(published: tuple[str, Any, Path]) -> None:
    kind, model, folder = published
    if kind not in {"gpt2", "gpt_neox"}:
        pytest.skip("its files have none")
    block = "transformer.h.0.attn" if kind == "gpt2" else "gpt_neox.layers.0.attention"
    tensors = load_file(folder / "model.safetensors")
    masks = {f"{block}.bias": torch.ones(1, 1, 64, 64), f"{block}.masked_bias": torch.tensor(-1e4)}
    save_file({**tensors, **masks}, folder / "model.safetensors", {"format": "pt"})

    assert difference(our_logits(loaded(folder), ROWS[:1])[0], reference_models.logits(model, ROWS[0])) <= 1e-4


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_a_lora_of_peft_on_transformers_own_class_computes_the_same(published: tuple[str, Any, Path], tmp_path: Path) -> None:
    kind, model, folder = published
    target = {"gpt_neox": "query_key_value", "exaone": "q_proj"}.get(kind, "c_attn")
    torch.manual_seed(0)
    config = peft.LoraConfig(r=4, target_modules=[target], init_lora_weights=False, fan_in_fan_out=kind == "gpt2", task_type="CAUSAL_LM")
    theirs = peft.get_peft_model(model, config).eval()
    theirs.save_pretrained(str(tmp_path / "lora"))
    ours = loaded(folder)

    read_lora(tmp_path / "lora", ours)

    assert json.loads((tmp_path / "lora" / "adapter_config.json").read_text())["fan_in_fan_out"] == (kind == "gpt2")
    for row, logits in zip(ROWS, our_logits(ours, ROWS), strict=True):
        assert difference(logits.detach(), reference_models.logits(theirs, row).detach()) <= 1e-4
