import json
import os
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from imprint.export.quantized import quantize
from imprint.messages import UserError
from imprint.models import checkpoint
from imprint.models.checkpoint import load_network, load_pickle, save_network
from imprint.models.network import Network
from imprint.models.stored_weights import is_plain, plain_name
from imprint.models.weight_files import weight_files
from tests import reference_models
from tests.bases import base_of
from tests.cases import difference
from tests.reference_models import ROWS, our_logits
from tests.tiny import tiny_base

CPU = torch.device("cpu")
HEAD = "transformer.layers.0.mlp.dense_h_to_4h.weight"


def loaded(folder: Path) -> Network:
    return load_network(folder, dtype=torch.float32, device=CPU)


def folder_with(tmp_path: Path, tensors: dict[str, Tensor] | None = None, *, content: object = None) -> Path:
    """The tiny base with other weights: safetensors, or what torch saves."""
    folder = tiny_base(tmp_path / "base")
    if content is None:
        assert tensors is not None
        save_file(tensors, folder / "model.safetensors")
        return folder
    (folder / "model.safetensors").unlink()
    torch.save(content, folder / "pytorch_model.bin")
    return folder


@pytest.fixture
def tensors(tmp_path: Path) -> dict[str, Tensor]:
    return load_file(tiny_base(tmp_path / "whole") / "model.safetensors")


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "base_model.model.", "module._orig_mod.", "_forward_module.", "_fsdp_wrapped_module."]
)
@pytest.mark.parametrize("key", [None, "module", "state_dict", "model_state_dict", "model", "ema"])
def test_names_of_wrappers_are_read(tmp_path: Path, tensors: dict[str, Tensor], prefix: str, key: str | None) -> None:
    expected = our_logits(loaded(tmp_path / "whole"), ROWS[:1])[0]
    wrapped = {f"{prefix}{name}": tensor for name, tensor in tensors.items()}

    network = loaded(folder_with(tmp_path, content=wrapped if key is None else {key: wrapped, "global_steps": 3}))

    assert difference(our_logits(network, ROWS[:1])[0], expected) == 0


@pytest.mark.parametrize("wrapper", ["model.", "base_model.", "policy.", "module.net.", "pretrained_model.model."])
@pytest.mark.parametrize("tied", [False, True])
def test_the_attribute_that_holds_a_model_is_read_past(tmp_path: Path, wrapper: str, *, tied: bool) -> None:
    model = reference_models.random_model("llama", {**reference_models.FIELDS, "tie_word_embeddings": tied})
    folder = reference_models.saved(model, tmp_path)
    tensors = load_file(folder / "model.safetensors")
    save_file({f"{wrapper}{name}": tensor for name, tensor in tensors.items()}, folder / "model.safetensors")

    assert difference(our_logits(loaded(folder), ROWS[:1])[0], reference_models.logits(model, ROWS[0])) <= 1e-4

    save_file(
        {**{f"{wrapper}{name}": tensor for name, tensor in tensors.items()}, "loss.weight": torch.ones(2)}, folder / "model.safetensors"
    )
    assert "which config.json does not call for" in refusal(folder)


def test_a_tied_head_that_is_stored_in_place_of_the_embedding_is_read(tmp_path: Path) -> None:
    model = reference_models.random_model("qwen2", {**reference_models.FIELDS, "tie_word_embeddings": True})
    folder = reference_models.saved(model, tmp_path)
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] = tensors.pop("model.embed_tokens.weight")
    save_file(tensors, folder / "model.safetensors")

    network = loaded(folder)

    assert network.head_weight is network.get_parameter("model.embed_tokens.weight")
    assert difference(our_logits(network, ROWS[:1])[0], reference_models.logits(model, ROWS[0])) <= 1e-4

    rounded = loaded(quantize(folder, tmp_path / "rounded", 8))
    assert rounded.head_weight.shape == network.head_weight.shape

    save_file({**tensors, "lm_head.weight": tensors["lm_head.weight"] * float("inf")}, folder / "model.safetensors")
    assert "'lm_head.weight' holds NaN or infinity" in refusal(folder)


@pytest.mark.parametrize("content", [{}, {"module": {}, "epoch": 1}])
def test_weights_that_were_saved_empty_are_told(tmp_path: Path, content: object) -> None:
    assert "pytorch_model.bin: was saved empty, it holds no tensors" in refusal(folder_with(tmp_path, content=content))


def test_scales_of_another_program_are_told(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    scaled = {**tensors, f"{HEAD}_scale_inv": torch.ones(1)}

    assert "_scale_inv': they were quantized by another program" in refusal(folder_with(tmp_path, scaled))


def test_numbers_of_8_bits_without_their_scales_are_told(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    rounded = {**tensors, HEAD: tensors[HEAD].to(torch.float8_e4m3fn)}

    assert f"{HEAD!r} holds float8_e4m3fn values, whose scales are not there" in refusal(folder_with(tmp_path, rounded))


def test_weights_inside_several_dicts_are_read(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    network = loaded(folder_with(tmp_path, content={"module": {"model": tensors, "step": 3}, "optimizer": {"state": {}}}))

    assert difference(our_logits(network, ROWS[:1])[0], our_logits(loaded(tmp_path / "whole"), ROWS[:1])[0]) == 0


def test_dicts_that_stand_in_themselves_are_a_user_error(tmp_path: Path) -> None:
    content: dict[str, object] = {}
    content["model"] = content

    assert "cannot be read as plain weights (it has values in values, more than 32 levels)" in refusal(
        folder_with(tmp_path, content=content)
    )


def test_names_of_wrappers_around_single_layers_are_read() -> None:
    assert plain_name("model.layers.0._orig_mod.mlp._checkpoint_wrapped_module.up.weight") == "model.layers.0.mlp.up.weight"
    assert plain_name("_fsdp_wrapped_module.model.layers.3._fsdp_wrapped_module.a.weight") == "model.layers.3.a.weight"


def test_a_tensor_that_is_stored_twice_with_other_values_is_named(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    twice = {**tensors, f"module.{HEAD}": tensors[HEAD] + 1}

    assert f"the weights hold '{HEAD}' twice with different values" in refusal(folder_with(tmp_path, twice))


def test_a_tensor_that_is_stored_twice_with_the_same_values_is_read(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    network = loaded(folder_with(tmp_path, {**tensors, f"module.{HEAD}": tensors[HEAD].clone()}))

    assert difference(our_logits(network, ROWS[:1])[0], our_logits(loaded(tmp_path / "whole"), ROWS[:1])[0]) == 0


def test_a_head_that_is_missing_may_be_the_embedding(tmp_path: Path) -> None:
    model = reference_models.random_model("qwen2", reference_models.FIELDS)
    file = reference_models.saved(model, tmp_path) / "model.safetensors"
    save_file({name: tensor for name, tensor in load_file(file).items() if name != "lm_head.weight"}, file)

    assert "the LM head 'lm_head.weight' is missing. If it is the embedding in this model" in refusal(tmp_path)


def test_one_file_stands_before_an_index(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    folder = folder_with(tmp_path, tensors)
    index = {"weight_map": dict.fromkeys(tensors, "model-00001-of-00001.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    save_file({name: tensor * 2 for name, tensor in tensors.items()}, folder / "model-00001-of-00001.safetensors")

    assert [file.name for file in weight_files(folder)] == ["model.safetensors"]


def test_an_empty_tensor_of_zero_3_is_named(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    with pytest.raises(UserError) as caught:
        loaded(folder_with(tmp_path, {**tensors, HEAD: torch.empty(0)}))

    assert f"'{HEAD}' holds no values, its shape is (0,): DeepSpeed's ZeRO-3 saved it without gathering the weights" in str(caught.value)


def test_a_lora_that_was_not_merged_is_named(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    name = HEAD.removesuffix(".weight")
    unmerged = {f"base_model.model.{key}": tensor for key, tensor in tensors.items() if key != HEAD}
    unmerged |= {
        f"base_model.model.{name}.base_layer.weight": tensors[HEAD],
        f"base_model.model.{name}.lora_A.default.weight": torch.zeros(4, 32),
    }

    with pytest.raises(UserError, match=r"a LoRA beside the base's weights, as a whole model of peft is saved before it is merged"):
        loaded(folder_with(tmp_path, unmerged))


def test_names_without_a_wrapper_stay_as_they_are() -> None:
    assert plain_name("module.base_model.model.model.norm.weight") == "model.norm.weight"
    assert plain_name("model.module.norm.weight") == "model.module.norm.weight"


@pytest.mark.parametrize(
    ("more", "plain"),
    [
        ({}, True),
        ({"mask": torch.ones(2, 2, dtype=torch.bool)}, True),
        ({"a.weight": torch.zeros(4, 4, dtype=torch.uint8)}, False),
        ({"a.weight": torch.zeros(4, 4, dtype=torch.float8_e4m3fn)}, False),
        ({"a.weight.absmax": torch.zeros(4)}, False),
        ({"a.qweight": torch.zeros(4, 4, dtype=torch.int32)}, False),
        ({"a.weight_scale_inv": torch.zeros(4, 4)}, False),
    ],
)
def test_quantized_weights_are_told_by_their_tensors(more: dict[str, Tensor], plain: bool) -> None:  # noqa: FBT001
    assert is_plain({"b.weight": torch.zeros(2, 2, dtype=torch.bfloat16), "b.bias": torch.zeros(2), **more}.items()) == plain
    assert not is_plain([])


def refusal(folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        loaded(folder)
    return str(caught.value)


@pytest.mark.filterwarnings("ignore::UserWarning")  # of torch's own quantization
@pytest.mark.parametrize("kind", ["sparse", "quantized", "meta"])
def test_a_tensor_of_another_layout_is_named(tmp_path: Path, tensors: dict[str, Tensor], kind: str) -> None:
    dense = torch.zeros(5, 5)
    odd = dense.to_sparse() if kind == "sparse" else torch.empty(5, 5, device="meta")
    odd = torch.quantize_per_tensor(dense, 0.1, 0, torch.qint8) if kind == "quantized" else odd

    assert "pytorch_model.bin: 'odd' is no plain tensor" in refusal(folder_with(tmp_path, content={**tensors, "odd": odd}))


def with_leftover(folder: Path, more: dict[str, Tensor]) -> Path:
    """A Qwen3 whose config.json says that its weights are in 4 bits, with further tensors."""
    base_of("Qwen3", folder)
    fields = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps({**fields, "quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}})
    )
    save_file({**load_file(folder / "model.safetensors"), **more}, folder / "model.safetensors")
    return folder


def test_a_quantization_config_left_behind_is_told_and_passed_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = with_leftover(tmp_path / "left", {})

    ours = loaded(folder)

    assert difference(our_logits(ours, ROWS[:1])[0], our_logits(loaded(base_of("Qwen3", tmp_path / "base")), ROWS[:1])[0]) == 0
    assert f'{folder}/config.json: "quantization_config" is left over: the weights are not quantized' in capsys.readouterr().err
    save_network(ours, folder, tmp_path / "saved")
    assert "quantization_config" not in json.loads((tmp_path / "saved" / "config.json").read_text())
    quantize(folder, tmp_path / "small", 8)
    assert "quantization_config" not in json.loads((tmp_path / "small" / "config.json").read_text())


def test_weights_that_are_quantized_by_another_method_are_still_refused(tmp_path: Path) -> None:
    state = {"model.layers.0.mlp.up_proj.weight.absmax": torch.zeros(4)}

    assert "says that the weights are quantized by 'bitsandbytes', which is not supported" in refusal(with_leftover(tmp_path / "4", state))


def test_a_tensor_that_a_few_bytes_are_shown_as_is_refused_before_it_fills_the_memory(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1).expand(2**20, 2**20)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"has the shape \(1048576, 1048576\), and the file holds only 4 bytes for it, which are repeated"):
        load_pickle(tmp_path / "pytorch_model.bin")


def test_names_that_share_their_values_do_not_have_the_file_read_again_for_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = torch.zeros(1000)
    torch.save({str(number): shared for number in range(64)}, tmp_path / "pytorch_model.bin")
    reads: list[Path] = []

    def counted(path: Path) -> dict[str, Tensor]:
        reads.append(path)
        return load_pickle(path)

    monkeypatch.setattr(checkpoint, "load_pickle", counted)
    monkeypatch.setattr(checkpoint, "MAPPED_BYTES", 4000)
    assert len(list(checkpoint.read_tensors(tmp_path))) == 64
    assert len(reads) < 10
    torch.save({str(number): shared for number in range(65)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match="its tensors have 260,000 bytes, and the file holds only 4,000 for them, which many names share"):
        load_pickle(tmp_path / "pytorch_model.bin")


def test_copies_under_the_names_of_wrappers_do_not_have_the_file_read_again_for_each(
    tmp_path: Path, tensors: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    copies = {f"{'module.' * times}{name}": tensor for times in range(20) for name, tensor in tensors.items()}
    folder = folder_with(tmp_path, content=copies)
    reads: list[Path] = []

    def counted(path: Path) -> dict[str, Tensor]:
        reads.append(path)
        return load_pickle(path)

    monkeypatch.setattr(checkpoint, "load_pickle", counted)
    loaded(folder)
    assert len(reads) < 10


@pytest.mark.parametrize("as_bin", [False, True])
@pytest.mark.parametrize("name", ["module." * 200_000 + "prefix_encoder.x", "x" * 1001])
def test_a_name_longer_than_any_model_has_is_refused_before_it_is_looked_at(
    tmp_path: Path, tensors: dict[str, Tensor], name: str, *, as_bin: bool
) -> None:
    content = {**tensors, name: torch.ones(1)}
    error = refusal(folder_with(tmp_path, content=content) if as_bin else folder_with(tmp_path, content))

    assert f"the longest name has {len(name):,} characters; a file of weights has at most 200,000, with names of at most 1,000" in error
    assert f"最长的名称有 {len(name):,} 个字符" in error


def test_a_file_of_more_tensors_than_any_model_has_is_refused(
    tmp_path: Path, tensors: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = folder_with(tmp_path, tensors)
    monkeypatch.setattr("imprint.models.stored_weights.MAX_TENSORS", len(tensors))
    assert loaded(folder)

    save_file(tensors | {"module.transformer.x": torch.ones(1)}, folder / "model.safetensors")

    assert f"names {len(tensors) + 1:,} tensors" in refusal(folder)


def test_copies_in_safetensors_do_not_have_the_file_opened_again_for_each(
    tmp_path: Path, tensors: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    copies = {f"{wrapper}{name}": tensor.clone() for name, tensor in tensors.items() for wrapper in ("", "module.")}
    folder, opened = folder_with(tmp_path, copies), list[Path]()

    def count(path: Path, framework: str) -> object:
        opened.append(path)
        return safe_open(path, framework=framework)

    monkeypatch.setattr("imprint.models.checkpoint.safe_open", count)
    loaded(folder)

    assert 0 < len(opened) < 10 < len(copies)


@pytest.mark.parametrize("as_bin", [False, True])
def test_a_folder_whose_name_is_no_utf_8_is_not_called_damaged(tmp_path: Path, tensors: dict[str, Tensor], *, as_bin: bool) -> None:
    folder = folder_with(tmp_path, content=tensors) if as_bin else folder_with(tmp_path, tensors)

    error = refusal(folder.rename(tmp_path / os.fsdecode("模型".encode("gbk"))))

    assert "the name of this file or of its folder is no UTF-8" in error
    assert "内容没有读取：请改名" in error
    assert "damaged" not in error
