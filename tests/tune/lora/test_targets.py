from pathlib import Path

import pytest
import torch

from imprint.messages import UserError
from imprint.models.checkpoint import load_network
from imprint.models.network import Network
from imprint.tune.lora.section import LoraSection
from imprint.tune.lora.shape import shape_from_section
from imprint.tune.lora.targets import left_out_by, refuse_head, refuse_untargeted
from tests import reference_models

NAMES = ["model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.v_proj"]
FILE = Path("adapter_config.json")


@pytest.fixture(params=[False, True], ids=["untied", "tied"])
def network(request: pytest.FixtureRequest, tmp_path: Path) -> Network:
    model = reference_models.random_model("qwen2", {**reference_models.FIELDS, "tie_word_embeddings": request.param})
    return load_network(reference_models.saved(model, tmp_path), dtype=torch.float32, device=torch.device("cpu"))


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"target_modules": ["q_proj"]}, "target_modules"),
        ({"target_modules": ["q_proj", "v_proj"], "layers_to_transform": [0]}, "layers_to_transform"),
        ({"target_modules": ["q_proj", "v_proj"], "layers_to_transform": 0}, "layers_to_transform"),
        ({"target_modules": ["q_proj", "v_proj"], "exclude_modules": ["v_proj"]}, "exclude_modules"),
    ],
)
def test_tensors_that_peft_would_pass_over_are_told_with_the_field(fields: dict[str, object], field: str) -> None:
    with pytest.raises(UserError, match=rf"'{field}' is .* leaves out 'model.layers.1.self_attn.v_proj'"):
        refuse_untargeted(FILE, fields, NAMES)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"target_modules": None, "layers_to_transform": None},
        {"target_modules": []},
        {"target_modules": "all-linear"},
        {"target_modules": "(a+)+$", "exclude_modules": "(a+)+$"},
        {"target_modules": ["self_attn.q_proj", "v_proj"]},
        {"target_modules": NAMES, "layers_to_transform": [5]},
        {"target_modules": ["q_proj", "v_proj"], "layers_to_transform": [0, 1]},
        {"target_modules": ["q_proj", "v_proj"], "layers_to_transform": []},
        {"target_modules": ["q_proj", "v_proj"], "layers_to_transform": [3], "layers_pattern": "h"},
        {"target_modules": ["q_proj", "v_proj"], "exclude_modules": ["proj", "k_proj"]},
    ],
)
def test_what_the_lists_name_or_leave_open_is_read(fields: dict[str, object]) -> None:
    assert [left_out_by(fields, name) for name in NAMES] == [None, None]


def test_a_lora_on_the_head_is_refused(network: Network) -> None:
    refuse_head(NAMES, network, "here")

    with pytest.raises(UserError, match="here: a LoRA on 'lm_head', the LM head"):
        refuse_head([*NAMES, "lm_head"], network, "here")


def test_a_recipe_that_names_the_head_is_refused(network: Network) -> None:
    with pytest.raises(UserError, match=r"tune.targets: (a LoRA on|no linear of this base is called)"):
        shape_from_section(LoraSection(method="lora", rank=2, targets=("lm_head",)), network)
