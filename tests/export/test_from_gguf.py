import json
from pathlib import Path

import pytest
import torch

import imprint
from imprint.cli import main
from imprint.export.from_gguf import import_gguf
from imprint.messages import UserError
from imprint.models.gguf import link_alone
from tests.ggufs import TEMPLATE, gguf_file

pytest.importorskip("gguf", reason='it needs gguf: pip install "imprint[gguf]"')


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A GGUF file and the folder that is imported from it."""
    folder = tmp_path_factory.mktemp("gguf")
    metadata = {"ggml.add_bos_token": True, "ggml.eot_token_id": 8, "chat_template": TEMPLATE}
    file = gguf_file(folder / "tiny.gguf", metadata)
    return file, import_gguf(file, folder / "tiny")


def test_an_imported_gguf_answers_as_transformers_does(tiny: tuple[Path, Path]) -> None:
    import transformers

    file, folder = tiny
    options = {"quantization_config": transformers.GgufConfig(dequantize=True)} if hasattr(transformers, "GgufConfig") else {}
    with link_alone(file) as alone:
        theirs = transformers.AutoModelForCausalLM.from_pretrained(alone, gguf_file="model.gguf", dtype=torch.bfloat16, **options).float()
    model = imprint.load(folder, device="cpu")
    prompt = model.prompt("这件上衣怎么样？")
    answer = model.generate([prompt], 12)[0]
    full = theirs.generate(torch.tensor([prompt]), max_new_tokens=12, do_sample=False, eos_token_id=sorted(model.network.stop_ids))
    expected = full[0, len(prompt) :].tolist()
    assert answer == [token for token in expected if token not in model.network.stop_ids]


def test_the_licence_of_the_file_is_kept_and_said(tiny: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["import", str(tiny[0]), str(tmp_path / "out")]) == 0
    assert "name tiny, architecture llama, license apache-2.0" in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "import.json").read_text()) == {"file": "tiny.gguf", "licence": "apache-2.0"}
    assert main(["import", str(tiny[0]), str(tmp_path / "out")]) == 0  # written by this command, so it is replaced


def test_a_foreign_folder_is_not_overwritten(tiny: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("a")
    with pytest.raises(UserError, match="is there already and was not written by imprint import"):
        import_gguf(tiny[0], tmp_path / "mine")


@pytest.mark.parametrize(
    ("settings", "tensors", "sentence"),
    [
        ({}, {f"blk.{layer}.attn_{name}.bias": 16 for layer in range(2) for name in "qkv"}, "blk.0.attn_q.bias, blk.0.attn_k.bias,"),
        ({}, {"rope_freqs.weight": 4}, "rope_freqs.weight have no place in the model that transformers makes of it"),
        (
            {},
            {"blk.0.attn_q_norm.weight": 8, "blk.0.post_ffw_norm.weight": 16},
            "blk.0.attn_q_norm.weight, blk.0.post_ffw_norm.weight have",
        ),
        ({}, {"xyz.weight": 421 * 16}, "xyz.weight have no place"),
        ({"rope.scaling.type": "linear", "rope.scaling.factor": 8.0}, {}, "llama.rope.scaling.type linear, llama.rope.scaling.factor 8.0"),
        ({"logit_scale": 0.25}, {}, "transformers does not read llama.logit_scale 0.25: the model would compute something else"),
        ({"attention.sliding_window": 4}, {}, "llama.attention.sliding_window 4"),
        ({"final_logit_softcapping": 1.0}, {}, "llama.final_logit_softcapping 1.0"),
        ({"marvin": 42}, {}, "llama.marvin 42"),
    ],
)
def test_a_file_with_tensors_or_settings_that_are_not_taken_is_refused_by_their_names(
    settings: dict[str, float | str], tensors: dict[str, int], sentence: str, tmp_path: Path
) -> None:
    file = gguf_file(tmp_path / "more.gguf", {}, settings=settings, tensors=tensors)
    with pytest.raises(UserError) as refused:
        import_gguf(file, tmp_path / "out")
    assert sentence in str(refused.value)
    assert not (tmp_path / "out").exists()


def test_settings_that_change_nothing_are_no_reason_to_refuse_a_file(tmp_path: Path) -> None:
    neutral: dict[str, float | str] = {
        "logit_scale": 1.0,
        "rope.scaling.type": "none",
        "rope.dimension_count": 8,
        "attention.key_length": 8,
        "attention.value_length": 8,
        "attention.sliding_window": 128,
        "final_logit_softcapping": 0.0,
    }
    assert (import_gguf(gguf_file(tmp_path / "plain.gguf", {}, settings=neutral), tmp_path / "out") / "config.json").is_file()
