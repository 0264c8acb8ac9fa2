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
        ({}, {f"blk.{layer}.attn_{name}.bias": 16 for layer in range(2) for name in "qkv"}, "96 of the "),
        ({}, {"rope_freqs.weight": 4}, "4 of the "),
        ({}, {"xyz.weight": 16}, "numbers of its tensors have no place in the model that transformers makes of it"),
        ({"rope.scaling.type": "linear", "rope.scaling.factor": 8.0}, {}, "each position of a text would mean another"),
    ],
)
def test_a_file_with_tensors_or_scalings_that_are_not_taken_is_refused(
    settings: dict[str, float | str], tensors: dict[str, int], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = gguf_file(tmp_path / "more.gguf", {}, settings=settings, tensors=tensors)
    assert main(["import", str(file), str(tmp_path / "out")]) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_setting_that_is_not_taken_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = gguf_file(tmp_path / "scaled.gguf", {}, settings={"logit_scale": 0.25, "attention.scale": 1.0, "rope.scaling.type": "none"})
    assert main(["import", str(file), str(tmp_path / "out")]) == 0
    out = capsys.readouterr()
    assert "transformers does not read llama.logit_scale 0.25: the model may compute something else" in out.out + out.err
