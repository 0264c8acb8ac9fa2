import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

import imprint
from imprint.messages import UserError
from imprint.models.checkpoint import load_network
from imprint.models.network import Network
from imprint.tune.adapter import LoraMetadata
from imprint.tune.adapter_folder import METADATA_FILE, load_adapter
from imprint.tune.lora.files import read_lora
from imprint.tune.lora.section import LoraSection
from imprint.tune.peft_files import CONFIG_FILE, PICKLE_FILE, TENSORS_FILE
from tests import reference_models
from tests.cases import Case, difference, small_network
from tests.tune.lora.steps import QKV, base, golden_batch, greedy, lora_of, saved, scattered, tuner
from tests.tune.test_adapter_folder import Canary

KINDS: list[dict[str, object]] = [
    {},
    {"rslora": True, "alpha": 5.5, "targets": "all"},
    {"targets": ("layers.1.attention.dense",)},
    {"start": "gaussian"},
    {"start": "orthogonal"},
    {"start": "olora", "targets": "all"},
    {"start": "pissa", "rslora": True},
    {"start": "pissa", "pissa_iterations": 4},
    {"start": "mica"},
    {"dora": True},
]


def adapter(folder: Path, knobs: dict[str, object] | None = None, precision: str = "float32") -> tuple[Path, Network]:
    """The folder of a LoRA that has learned something, and the network it is on."""
    one = tuner(base(precision), section=LoraSection.model_validate({"method": "lora", "rank": 4, **(knobs or {})}))
    scattered(lora_of(one), size=0.05)
    return saved(one, folder), one.network


def hidden(network: Any, batch: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = network.eval()(batch)
    return found


def change(file: Path, **fields: object) -> None:
    """Other values in a JSON file; ... takes a field out."""
    content = {**json.loads(file.read_text()), **fields}
    file.write_text(json.dumps({name: value for name, value in content.items() if value is not ...}))


def foreign(folder: Path, knobs: dict[str, object] | None = None) -> Path:
    """A folder as peft leaves it, without our description."""
    path, _ = adapter(folder, knobs)
    (path / METADATA_FILE).unlink()
    return path


def saved_by_peft(folder: Path, model: Any, *targets: str, **options: object) -> Any:
    """A LoRA of peft with values on these linears of a transformers model, saved into a folder."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # such as about tied weights
        theirs: Any = peft.PeftModel(model, peft.LoraConfig(r=2, target_modules=list(targets), init_lora_weights=False))
        theirs.save_pretrained(str(folder), **options)
    return theirs


def refusal(folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        load_adapter(folder, base())
    return str(caught.value)


@pytest.mark.parametrize("knobs", KINDS, ids=str)
def test_peft_reads_what_we_write(knobs: dict[str, object], tmp_path: Path) -> None:
    folder, network = adapter(tmp_path / "adapter", knobs)
    batch = golden_batch(network)

    theirs = peft.PeftModel.from_pretrained(base(), str(folder))

    assert difference(hidden(theirs.base_model.model, batch), hidden(network, batch)) <= 1e-3
    injected = peft.inject_adapter_in_model(peft.PeftConfig.from_pretrained(str(folder)), base())
    missed: Any = peft.set_peft_model_state_dict(injected, load_file(folder / TENSORS_FILE))
    assert not missed.unexpected_keys
    assert difference(hidden(injected, batch), hidden(network, batch)) <= 1e-3


@pytest.mark.parametrize("knobs", KINDS, ids=str)
def test_what_is_saved_comes_back_on_the_base_as_it_is(knobs: dict[str, object], tmp_path: Path) -> None:
    folder, network = adapter(tmp_path / "adapter", knobs)

    model = imprint.load(Case("chatglm1-base").folder, adapter=folder, dtype="float32", device="cpu")

    assert difference(hidden(model.network, golden_batch(network)), hidden(network, golden_batch(network))) <= 1e-3
    assert greedy(model.network) == greedy(network)
    assert model.description is not None
    assert isinstance(model.description.method_metadata, LoraMetadata)
    assert (model.description.method, model.description.step, model.description.scores) == ("lora", 3, {"eval_loss": 1.5})
    assert model.description.method_metadata.start == knobs.get("start", "standard")
    assert sorted(file.name for file in folder.iterdir()) == [METADATA_FILE, CONFIG_FILE, TENSORS_FILE]


@pytest.mark.parametrize(
    "knobs",
    [
        {},
        {"use_rslora": True, "lora_alpha": 3},
        {"use_dora": True},
        {"rank_pattern": {QKV: 2}, "alpha_pattern": {QKV: 5}},
        {"layers_to_transform": [1], "layers_pattern": "layers"},
    ],
)
@pytest.mark.parametrize("pickled", [False, True])
def test_what_peft_writes_is_read(knobs: dict[str, Any], pickled: bool, tmp_path: Path) -> None:  # noqa: FBT001
    torch.manual_seed(0)
    config = peft.LoraConfig(r=4, target_modules=["query_key_value", "dense"], init_lora_weights=False, **knobs)
    theirs = peft.PeftModel(base(), config)
    theirs.save_pretrained(str(tmp_path / "theirs"), safe_serialization=not pickled)

    model = imprint.load(Case("chatglm1-base").folder, adapter=tmp_path / "theirs", dtype="float32", device="cpu")

    batch = golden_batch(model.network)
    assert (tmp_path / "theirs" / (PICKLE_FILE if pickled else TENSORS_FILE)).is_file()
    assert difference(hidden(model.network, batch), hidden(theirs.base_model.model, batch)) <= 1e-3
    assert model.description is not None
    assert isinstance(model.description.method_metadata, LoraMetadata)
    assert (model.description.base, model.description.method_metadata.start) == ("", "peft")
    assert model.description.summary("x").startswith("LoRA x (rank 4 on ")


@pytest.mark.parametrize("precision", ["bfloat16", "INT8", "INT4"])
def test_an_adapter_goes_to_its_base_at_another_precision(precision: str, tmp_path: Path) -> None:
    folder, _ = adapter(tmp_path / "adapter")

    again = saved(tuner(base(precision), section=LoraSection(method="lora", adapter=folder)), tmp_path / "again")

    before, after = load_file(folder / TENSORS_FILE), load_file(again / TENSORS_FILE)
    assert before.keys() == after.keys()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert {tensor.dtype for tensor in after.values()} == {torch.float32}


def test_an_adapter_of_another_base_is_refused(tmp_path: Path) -> None:
    folder, _ = adapter(tmp_path / "adapter")

    with pytest.raises(UserError, match=r"was tuned on another base, 'tiny': the fingerprints differ"):
        load_adapter(folder, small_network())


def test_names_of_older_files_and_other_prefixes_are_read(tmp_path: Path) -> None:
    folder = foreign(tmp_path / "adapter")
    expected = load_file(folder / TENSORS_FILE)
    bare = {name.removeprefix("base_model.model."): tensor for name, tensor in expected.items()}
    for prefix, ending in (
        ("", ".default.weight"),
        ("module.base_model.model.", ".weight"),
        ("base_model.model.", ".sft.weight"),
        ("", ""),
    ):
        save_file({prefix + name.replace(".weight", ending): tensor for name, tensor in bare.items()}, folder / TENSORS_FILE)

        lora = read_lora(folder, base())

        assert all(torch.equal(tensor, expected[name]) for name, tensor in lora.named_tensors().items())


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"peft_type": "LOHA"}, "\"peft_type\" is 'LOHA'; of peft's adapters LORA, PREFIX_TUNING, CARTRIDGE are"),
        ({"init_lora_weights": "pissa"}, "\"init_lora_weights\" is 'pissa', which changes the base"),
        ({"init_lora_weights": "pissa_niter_4"}, "path_initial_model_for_weight_conversion"),
        ({"bias": "all"}, "\"bias\" is 'all': its biases were trained too"),
        ({"init_lora_weights": "OLoRA"}, "\"init_lora_weights\" is 'OLoRA', which changes the base"),
        ({"init_lora_weights": "svd"}, "\"init_lora_weights\" is 'svd', an initialization that is not known"),
        ({"lora_bias": True}, "'lora_bias' is True, which is not supported. Supported: plain LoRA"),
        ({"init_lora_weights": ["pissa"]}, '"init_lora_weights" is "[\'pissa\']", an initialization that is not known'),
        ({"trainable_token_indices": [3]}, "'trainable_token_indices' is [3]"),
        ({"target_parameters": ["weight"]}, "'target_parameters' is ['weight']"),
        ({"layer_replication": [[0, 2]]}, "'layer_replication' is [[0, 2]]"),
        ({"use_qalora": True}, "'use_qalora' is True"),
        ({"alora_invocation_tokens": [1]}, "'alora_invocation_tokens' is [1]"),
        ({"megatron_config": {"a": 1}}, "'megatron_config' is {'a': 1}"),
        ({"scale_of_tomorrow": 0}, "'scale_of_tomorrow' is 0"),
        ({"modules_to_save": ["lm_head"]}, "'modules_to_save' is ['lm_head']"),
        ({"enable_lora": [True, False, True]}, "'enable_lora' is [True, False, True]"),
        ({"r": 8}, "this base and adapter_config.json call for (8, "),
        ({"r": 0}, "must be above 0"),
        ({"r": 4.5}, "must be integers, got 4.5"),
        ({"rank_pattern": {"dense": 2.5}}, "must be integers, got 2.5"),
        ({"lora_alpha": 1e308}, "must be above 0, up to 1e+09"),
        ({"target_modules": ["dense"]}, "'target_modules' is ['dense'], which leaves out"),
        ({"r": "4"}, "must be above 0"),
        ({"lora_alpha": float("inf")}, "must be above 0"),
        ({"lora_alpha": None}, "must be above 0"),
        ({"rank_pattern": [1]}, "'rank_pattern' must be an object"),
        ({"alpha_pattern": 5}, "'alpha_pattern' must be an object"),
        ({"use_rslora": "yes"}, "must be true or false"),
        ({"use_dora": True}, "lora_magnitude_vector is missing"),
    ],
)
def test_an_unsupported_or_damaged_configuration_is_a_user_error(fields: dict[str, object], sentence: str, tmp_path: Path) -> None:
    folder = foreign(tmp_path / "adapter")
    change(folder / CONFIG_FILE, **fields)

    assert sentence in refusal(folder)


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "[" * 100_000])
def test_an_unreadable_configuration_is_a_user_error(content: str, tmp_path: Path) -> None:
    folder = foreign(tmp_path / "adapter")
    (folder / CONFIG_FILE).write_text(content)

    assert "cannot be read as peft's configuration" in refusal(folder)


def test_names_of_a_configuration_are_not_used(tmp_path: Path) -> None:
    folder = foreign(tmp_path / "adapter")
    evil = {"parent_library": "os", "base_model_class": "system"}
    change(
        folder / CONFIG_FILE,
        base_model_name_or_path="https://example.com/evil",
        revision="main",
        auto_mapping=evil,
        target_modules=".*query_key_value",
        exclude_modules="(a+)+$",
        scale_of_tomorrow=None,
    )

    assert len(read_lora(folder, base()).layers) == 3


Damage = Callable[[dict[str, torch.Tensor]], None]


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda tensors: tensors.clear(), "was saved empty, it holds no tensors"),
        (
            lambda tensors: tensors.update({f"base_model.model.{QKV}.lora_A.weight": torch.zeros(0)}),
            "holds no values, its shape is (0,): DeepSpeed's ZeRO-3",
        ),
        (
            lambda tensors: tensors.update({f"base_model.model.{QKV}.lora_A.sft.weight": torch.zeros(4, 96)}),
            "holds more than one adapter: None, sft",
        ),
        (lambda tensors: tensors.update(other=torch.zeros(1)), "holds the tensor 'other', which is no part of a LoRA"),
        (
            lambda tensors: tensors.update({"a.lora_embedding_A": torch.zeros(1)}),
            "'a.lora_embedding_A', which is no part of a LoRA on a linear",
        ),
        (
            lambda tensors: tensors.update({"model.q_proj.lora_A.weight": torch.zeros(4, 96)}),
            "has a LoRA for 'model.q_proj', which this base",
        ),
        (lambda tensors: tensors.pop(f"base_model.model.{QKV}.lora_B.weight"), f"{QKV}.lora_B.weight is missing"),
        (
            lambda tensors: tensors.update({f"base_model.model.{QKV}.lora_A.weight": torch.zeros(4, 95)}),
            "(4, 95) of torch.float32, this base",
        ),
        (lambda tensors: tensors.update({f"base_model.model.{QKV}.lora_A.weight": torch.zeros(4, 96).int()}), "(4, 96) of torch.int32"),
        (
            lambda tensors: tensors[f"base_model.model.{QKV}.lora_A.weight"].fill_(torch.nan),
            "holds NaN or infinite values: the training that wrote",
        ),
        (
            lambda tensors: tensors.update({f"base_model.model.{QKV}.lora_magnitude_vector": torch.zeros(288)}),
            "call for none of finite values",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_a_user_error(damage: Damage, sentence: str, tmp_path: Path) -> None:
    folder = foreign(tmp_path / "adapter")
    tensors = load_file(folder / TENSORS_FILE)
    damage(tensors)
    save_file(tensors, folder / TENSORS_FILE)

    assert sentence in refusal(folder)


@pytest.mark.parametrize("tied", [False, True])
def test_copies_of_the_base_s_own_weights_are_passed_over(tmp_path: Path, *, tied: bool) -> None:
    model = reference_models.random_model("qwen2", {**reference_models.FIELDS, "tie_word_embeddings": tied})
    plain = load_network(reference_models.saved(model, tmp_path / "base"), dtype=torch.float32, device=torch.device("cpu"))
    theirs = saved_by_peft(tmp_path / "theirs", model, "q_proj", save_embedding_layers=True)
    tensors = load_file(tmp_path / "theirs" / TENSORS_FILE)
    assert "base_model.model.model.embed_tokens.weight" in tensors

    read_lora(tmp_path / "theirs", plain)

    row = reference_models.ROWS[0]
    assert difference(reference_models.our_logits(plain, [row])[0], reference_models.logits(theirs, row)) <= 1e-4


@pytest.mark.parametrize("rows", [60, 62], ids=["trained", "resized"])
def test_a_weight_of_the_base_that_was_changed_is_told(tmp_path: Path, rows: int) -> None:
    model = reference_models.random_model("qwen2", reference_models.FIELDS)
    plain = load_network(reference_models.saved(model, tmp_path / "base"), dtype=torch.float32, device=torch.device("cpu"))
    saved_by_peft(tmp_path / "theirs", model, "q_proj")
    file = tmp_path / "theirs" / TENSORS_FILE
    save_file({**load_file(file), "base_model.model.model.embed_tokens.weight": torch.ones(rows, 32)}, file)

    with pytest.raises(UserError, match=r"brings a weight of its own, 'model.embed_tokens.weight'.*merge_and_unload"):
        read_lora(tmp_path / "theirs", plain)


@pytest.mark.parametrize("tied", [False, True])
def test_a_lora_on_the_head_is_told(tmp_path: Path, *, tied: bool) -> None:
    model = reference_models.random_model("qwen2", {**reference_models.FIELDS, "tie_word_embeddings": tied})
    plain = load_network(reference_models.saved(model, tmp_path / "base"), dtype=torch.float32, device=torch.device("cpu"))
    saved_by_peft(tmp_path / "theirs", model, "q_proj", "lm_head", save_embedding_layers=False)

    with pytest.raises(UserError, match="a LoRA on 'lm_head', the LM head, is not supported"):
        read_lora(tmp_path / "theirs", plain)


def test_a_tensor_under_two_names_is_told(tmp_path: Path) -> None:
    folder = foreign(tmp_path / "adapter")
    tensors = load_file(folder / TENSORS_FILE)
    twice = {name.removeprefix("base_model.model."): tensor * 2 for name, tensor in tensors.items()}
    save_file({**tensors, **twice}, folder / TENSORS_FILE)

    assert "lora_A.weight' twice, with and without the prefix of a wrapper" in refusal(folder)


@pytest.mark.parametrize("name", ["module." * 1000, "base_model.model." * 100 + f"{QKV}.lora_A.weight"])
def test_a_name_that_takes_long_to_shorten_is_refused(tmp_path: Path, name: str) -> None:
    folder = foreign(tmp_path / "adapter")
    save_file({name: torch.zeros(1)}, folder / TENSORS_FILE)  # one of 6 MB would take a minute

    assert "names 1 tensors, the longest name has" in refusal(folder)


def test_damaged_and_missing_files_are_user_errors(tmp_path: Path) -> None:
    folder = foreign(tmp_path / "adapter")
    (folder / TENSORS_FILE).write_bytes(b"damaged")
    assert f"{folder / TENSORS_FILE}: cannot be read" in refusal(folder)
    (folder / TENSORS_FILE).unlink()
    assert f"has {CONFIG_FILE} but neither {TENSORS_FILE} nor {PICKLE_FILE}; found {CONFIG_FILE}" in refusal(folder)


def test_code_in_a_pickled_adapter_is_never_run(tmp_path: Path) -> None:
    folder = foreign(tmp_path / "adapter")
    (folder / TENSORS_FILE).unlink()
    torch.save({f"base_model.model.{QKV}.lora_A.weight": Canary(tmp_path / "ran")}, folder / PICKLE_FILE)

    assert "cannot be read as plain weights" in refusal(folder)
    assert not (tmp_path / "ran").exists()


def test_a_dora_is_refused_on_integers(tmp_path: Path) -> None:
    folder, _ = adapter(tmp_path / "adapter", {"dora": True})

    with pytest.raises(UserError, match=r"tune.dora: needs a plain weight, but this base is quantized to 8 bits"):
        load_adapter(folder, base("INT8"))


def test_linears_without_tensors_that_the_configuration_names_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = foreign(tmp_path / "adapter")
    load_adapter(folder, base())
    assert capsys.readouterr().err == ""
    tensors = load_file(folder / TENSORS_FILE)
    save_file({name: tensor for name, tensor in tensors.items() if "layers.1." not in name}, folder / TENSORS_FILE)
    load_adapter(folder, base())
    assert f"has no LoRA for transformer.layers.1.attention.query_key_value, though {CONFIG_FILE} names them" in capsys.readouterr().err
