import time
from pathlib import Path

import pytest
import torch

from imprint.messages import UserError
from imprint.models.checkpoint import load_network
from imprint.models.network import Network
from imprint.tune.lora.patterns import deadline
from imprint.tune.lora.section import LoraSection
from imprint.tune.lora.shape import shape_from_section
from imprint.tune.lora.targets import TargetRule, refuse_head
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
        ({"target_modules": r".*\.0\..*(q|v)_proj"}, "target_modules"),
        ({"target_modules": "all-linear", "exclude_modules": r".*\.v_proj"}, "exclude_modules"),
        ({"target_modules": ["q_proj", "v_proj"], "layers_to_transform": [0], "layers_pattern": "layers"}, "layers_to_transform"),
        ({"target_modules": [NAMES[0], "v_proj"], "layers_to_transform": [1], "layers_pattern": "layers|h"}, "layers_to_transform"),
        ({"target_modules": [NAMES[0], "v_proj"], "layers_to_transform": [1], "layers_pattern": "(?x)layers #"}, "layers_to_transform"),
        ({"target_modules": [NAMES[0], "v_proj"], "layers_to_transform": [0, 1], "layers_pattern": ["h", "blocks"]}, "layers_to_transform"),
    ],
)
def test_tensors_that_peft_would_pass_over_are_told_with_the_field(fields: dict[str, object], field: str) -> None:
    with pytest.raises(UserError, match=rf"'{field}' is .* leaves out 'model.layers.1.self_attn.v_proj'"):
        TargetRule(FILE, fields, deadline()).refuse_untargeted(NAMES)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"target_modules": None, "layers_to_transform": None},
        {"target_modules": []},
        {"target_modules": "all-linear"},
        {"target_modules": r".*(q|v)_proj", "exclude_modules": "(a+)+$"},
        {"target_modules": r"model\.layers\.\d+\.self_attn\.(q|v)_proj", "layers_to_transform": [5]},
        {"target_modules": ["self_attn.q_proj", "v_proj"]},
        {"target_modules": NAMES, "layers_to_transform": [5]},
        {"target_modules": ["q_proj", "v_proj"], "layers_to_transform": [0, 1]},
        {"target_modules": ["q_proj", "v_proj"], "layers_to_transform": []},
        {"target_modules": ["q_proj", "v_proj"], "layers_to_transform": [0, 1], "layers_pattern": ["h", "layers"]},
        {"target_modules": ["q_proj", "v_proj"], "exclude_modules": ["proj", "k_proj"]},
    ],
)
def test_what_the_lists_name_or_leave_open_is_read(fields: dict[str, object]) -> None:
    rule = TargetRule(FILE, fields, deadline())

    assert [rule.left_out_by(name) for name in NAMES] == [None, None]


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"target_modules": "(q_proj"}, "the pattern '(q_proj' in 'target_modules' cannot be used: it is no regular expression"),
        ({"target_modules": r".*(a|aa|a.*)+b"}, "'target_modules' cannot be used: with those before it, it takes more than 5 s"),
        (
            {"target_modules": ["v_proj"], "layers_to_transform": [1], "layers_pattern": "["},
            "the pattern '[' in 'layers_pattern' cannot be used",
        ),
        ({"target_modules": 5}, "'target_modules' must be a text or a list of texts, got 5"),
        ({"exclude_modules": {"v_proj": True}}, "'exclude_modules' must be a text or a list of texts"),
        ({"target_modules": ["v_proj", 5]}, "'target_modules' must be a text or a list of texts"),
    ],
)
def test_a_pattern_that_cannot_be_used_is_told(fields: dict[str, object], sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        TargetRule(FILE, fields, time.monotonic() + 0.2).refuse_untargeted([NAMES[1] + "a" * 200 + "c"])

    assert sentence in str(caught.value)


def test_a_lora_on_the_head_is_refused(network: Network) -> None:
    refuse_head(NAMES, network, "here")

    with pytest.raises(UserError, match="here: a LoRA on 'lm_head', the LM head"):
        refuse_head([*NAMES, "lm_head"], network, "here")


def test_a_recipe_that_names_the_head_is_refused(network: Network) -> None:
    with pytest.raises(UserError, match=r"tune.targets: (a LoRA on|no linear of this base is called)"):
        shape_from_section(LoraSection(method="lora", rank=2, targets=("lm_head",)), network)
