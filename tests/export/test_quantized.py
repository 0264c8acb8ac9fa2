import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file, save_file

import imprint
from imprint.cli import main
from imprint.export import quantized as export
from imprint.messages import UserError
from imprint.models.checkpoint import load_network, read_tensors, save_network
from imprint.models.network import Network
from imprint.quant.fp8 import Fp8
from imprint.quant.group_int4 import GroupInt4
from imprint.quant.weight_format import WeightFormat
from tests import reference_models
from tests.cases import BITS, Bits, Case, difference, quantized_folder, small_fields, small_network, write_config
from tests.tiny import tiny_base
from tests.tinyrun import tiny_recipe, tiny_run

CASE = Case("chatglm1-base")


def stored(folder: Path, dtype: torch.dtype) -> Path:
    """The golden base in a type of the caller's."""
    fields = json.loads((CASE.folder / "config.json").read_text())
    write_config(folder, {**fields, "torch_dtype": str(dtype).removeprefix("torch.")})
    torch.save(
        {name: tensor.to(dtype) for name, tensor in load_file(CASE.folder / "model.safetensors").items()}, folder / "pytorch_model.bin"
    )
    return folder


def refusal(folder: Path, out: Path, bits: Bits = 4) -> str:
    with pytest.raises(UserError) as caught:
        imprint.quantize(folder, out, bits)
    return str(caught.value)


@pytest.mark.parametrize("bits", BITS)
class TestWhatIsWritten:
    @pytest.mark.parametrize(("dtype", "name"), [(torch.float32, ""), (torch.float16, "-from-fp16")])
    def test_integers_and_scales_are_the_originals_and_the_rest_stays(
        self, tmp_path: Path, bits: Bits, dtype: torch.dtype, name: str
    ) -> None:
        source = stored(tmp_path / "base", dtype)

        imprint.quantize(str(source), str(tmp_path / "out"), bits)

        golden = load_file(CASE.folder / f"int{bits}{name}.safetensors")
        written, before = dict(read_tensors(tmp_path / "out")), dict(read_tensors(source))
        assert written.keys() == before.keys() | {key for key in golden if not key.startswith("expected")}
        assert all(torch.equal(tensor, golden.get(key, before.get(key, tensor[:0]))) for key, tensor in written.items())
        assert all(tensor.dtype in (torch.int8, torch.float16) for key, tensor in written.items() if key in golden)

    @pytest.mark.parametrize("shard_bytes", [10**9, 10**5])
    def test_the_folder_loads_and_computes_what_the_original_does(
        self, tmp_path: Path, bits: Bits, shard_bytes: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(export, "SHARD_BYTES", shard_bytes)
        expected = load_file(CASE.folder / f"int{bits}.safetensors")["expected.logits"]

        folder = imprint.quantize(CASE.folder, tmp_path / "out", bits)

        model = imprint.load(folder, dtype="float32", device="cpu")
        for row, logits in enumerate(model.logits(CASE.rows)):
            assert difference(logits, expected[row, -len(logits) :]) <= 1e-4
        assert json.loads((folder / "config.json").read_text())["quantization_bit"] == bits
        assert len(list(folder.glob("*.safetensors"))) == {(10**9, 8): 1, (10**9, 4): 1, (10**5, 8): 6, (10**5, 4): 4}[shard_bytes, bits]

    def test_it_is_what_loading_in_these_bits_gives(self, tmp_path: Path, bits: Bits) -> None:
        source = tiny_base(tmp_path / "base")

        imprint.quantize(source, tmp_path / "out", bits)

        found = imprint.load(tmp_path / "out", device="cpu")
        assert found.identity == imprint.load(source, quantize=bits, device="cpu").identity
        assert found.identity != imprint.load(source, device="cpu").identity
        assert found.tokenizer.decode(found.tokenizer.encode("白色上衣")) == "白色上衣"


class TestInt4G128:
    @pytest.mark.parametrize("shard_bytes", [10**9, 10**5])
    @pytest.mark.parametrize("name", ["chatglm1-base", "chatglm2-base", "glm4-base"])
    def test_the_folder_is_read_back_as_what_loading_gives(
        self, tmp_path: Path, name: str, shard_bytes: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(export, "SHARD_BYTES", shard_bytes)
        case = Case(name)
        expected = imprint.load(case.folder, quantize="int4-g128", dtype="float32", device="cpu")

        folder = imprint.quantize(case.folder, tmp_path / "out", "int4-g128")

        for quantize in (None, "int4-g128"):
            found = imprint.load(folder, quantize=cast(Any, quantize), dtype="float32", device="cpu")
            assert found.network.weight_format == GroupInt4()
            assert all(torch.equal(a, b) for a, b in zip(found.logits(case.rows), expected.logits(case.rows), strict=True))
        fields = json.loads((folder / "config.json").read_text())
        assert "quantization_bit" not in fields
        assert fields["quantization_config"] == {"quant_method": "imprint", "format": "int4-g128", "bits": 4, "group_size": 128}
        assert {tensor.dtype for key, tensor in read_tensors(folder) if key.endswith("weight_scale")} == {torch.float16}

    def test_it_is_another_format_than_4(self, tmp_path: Path) -> None:
        folder = imprint.quantize(CASE.folder, tmp_path / "out", "int4-g128")

        assert f"{folder}: is quantized to int4-g128 already. Give the folder it was made from." in refusal(folder, tmp_path / "again")
        with pytest.raises(UserError, match="is quantized to int4-g128 already, and 4 bits are asked for"):
            imprint.load(folder, quantize=4, device="cpu")

    def test_a_config_of_another_kind_of_weights_is_told(self, tmp_path: Path) -> None:
        folder = imprint.quantize(CASE.folder, tmp_path / "out", "int4-g128")
        fields = json.loads((folder / "config.json").read_text())
        for changed, sentence in (
            ({"quantization_config": None}, r"holds torch\.int8 values, config\.json calls for floating-point values"),
            ({"quantization_config": None, "quantization_bit": 4}, "has the shape"),
            ({"quantization_config": {**fields["quantization_config"], "group_size": 64}}, "which this version does not know"),
        ):
            write_config(folder, {**fields, **changed})
            with pytest.raises(UserError, match=sentence):
                imprint.load(folder, device="cpu")

    def test_the_command_names_the_format(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["quantize", str(CASE.folder), str(tmp_path / "out"), "--format", "int4-g128"]) == 0
        assert "out: int4-g128, 0.31 MB instead of 1.47 MB; read back without a difference" in capsys.readouterr().out


SIX_BLOCKS: dict[str, dict[str, object]] = {
    "llama": {**reference_models.FIELDS, "num_hidden_layers": 6},
    "gpt2": {
        "vocab_size": 60,
        "n_embd": 32,
        "n_layer": 6,
        "n_head": 4,
        "n_inner": 32,
        "n_positions": 64,
    },  # its files hold weights as (K, N)
}


def read(folder: Path, weight_format: WeightFormat | None = None) -> Network:
    return load_network(folder, dtype=torch.float32, device=torch.device("cpu"), weight_format=weight_format)


def same_tensors(one: Network, other: Network) -> bool:
    tensors, others = one.state_dict(), other.state_dict()
    return tensors.keys() == others.keys() and all(torch.equal(tensor, others[name]) for name, tensor in tensors.items())


@pytest.mark.parametrize("kind", SIX_BLOCKS)
class TestFp8:
    def test_a_folder_whose_outer_blocks_keep_16_bits_is_read_back_as_what_loading_gives(self, tmp_path: Path, kind: str) -> None:
        source = reference_models.saved(reference_models.random_model(kind, SIX_BLOCKS[kind]), tmp_path / "base")

        folder = imprint.quantize(source, tmp_path / "out", "fp8")

        expected = read(source, Fp8())
        assert expected.weight_format == read(folder).weight_format == Fp8()
        assert same_tensors(read(folder), expected)
        assert same_tensors(read(folder, Fp8()), expected)
        save_network(expected, folder, tmp_path / "saved")
        assert same_tensors(read(tmp_path / "saved"), expected)

    def test_a_folder_of_the_first_form_is_read_with_all_blocks_in_fp8(self, tmp_path: Path, kind: str) -> None:
        source = reference_models.saved(reference_models.random_model(kind, SIX_BLOCKS[kind]), tmp_path / "base")
        written = read(source, Fp8(plain_ends=0))
        save_network(written, source, tmp_path / "out")

        fields = json.loads((tmp_path / "out" / "config.json").read_text())
        assert fields["quantization_config"] == {"quant_method": "imprint", "format": "fp8", "bits": 8}
        for asked in (None, Fp8()):
            found = read(tmp_path / "out", asked)
            assert found.weight_format == Fp8(plain_ends=0)
            assert same_tensors(found, written)
        assert not same_tensors(read(source, Fp8()), written)


class TestTheCommand:
    def test_it_says_both_sizes_and_that_it_was_read_back(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["quantize", str(CASE.folder), str(tmp_path / "out"), "--bits", "8"]) == 0

        printed = capsys.readouterr().out
        assert "out: 8 bits, 0.48 MB instead of 1.47 MB; read back without a difference" in printed
        assert "quantizing 量化: 2/2" in printed

    def test_its_own_folder_may_be_written_again(self, tmp_path: Path) -> None:
        for bits in (8, "int4-g128", 4):
            imprint.quantize(CASE.folder, tmp_path / "out", cast(Any, bits))

        assert json.loads((tmp_path / "out" / "config.json").read_text())["quantization_bit"] == 4

    def test_head_and_embedding_that_share_their_memory_are_written_both(self, tmp_path: Path) -> None:
        network = small_network()
        tensors = {**network.state_dict(), "lm_head.weight": network.head_weight}
        torch.save(tensors, write_config(tmp_path / "base", small_fields()) / "pytorch_model.bin")

        imprint.quantize(tmp_path / "base", tmp_path / "out", 4)

        assert torch.equal(dict(read_tensors(tmp_path / "out"))["lm_head.weight"], network.head_weight)


class TestRefusals:
    @pytest.mark.parametrize("bits", [2, 16, "4"])
    def test_other_bits(self, tmp_path: Path, bits: Bits) -> None:
        assert refusal(CASE.folder, tmp_path / "out", bits).startswith(f"bits: must be 8, 4, int4-g128 or fp8, got {bits!r}.\n")

    def test_a_folder_that_is_quantized_already(self, tmp_path: Path) -> None:
        source = quantized_folder(tmp_path / "base", 8)

        assert f"{source}: is quantized to 8 bits already. Give the folder it was made from." in refusal(source, tmp_path / "out")

    def test_a_run_whose_adapter_would_be_left_behind(self, tmp_path: Path) -> None:
        run = tiny_run(tiny_recipe(tmp_path), "run", "tune={method: lora, rank: 2}", "train.steps=1")

        assert "the base alone would be written. Use imprint export" in refusal(run.path, tmp_path / "out")
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize("place", ["base", ".", "base/../base"])
    def test_the_folder_that_is_read(self, tmp_path: Path, place: str) -> None:
        source = stored(tmp_path / "base", torch.float16)
        before = sorted(tmp_path.rglob("*"))

        assert f"holds {source}, which is read. Give a folder of its own" in refusal(source, tmp_path / place)
        assert sorted(tmp_path.rglob("*")) == before

    def test_places_that_hold_something_else(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        (tmp_path / "folder").mkdir()
        (tmp_path / "folder" / "thesis.doc").touch()
        other = stored(tmp_path / "other", torch.float16)

        assert "file: is a file." in refusal(CASE.folder, tmp_path / "file")
        for place in (tmp_path / "folder", other):
            assert f"{place}: is there already and holds no quantized model, so it is not replaced." in refusal(CASE.folder, place)
        assert (tmp_path / "folder" / "thesis.doc").exists()

    def test_a_disk_without_room(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        full: Callable[[object], object] = lambda _: shutil._ntuple_diskusage(10**9, 10**9, 1000)  # noqa: E731
        monkeypatch.setattr("imprint.export.quantized.shutil.disk_usage", full)

        sentence = refusal(CASE.folder, tmp_path / "deep" / "out")

        assert "out: 0.31 MB will be written, and the disk has 0.00 MB left. Free some space" in sentence
        assert not (tmp_path / "deep").exists()

    @pytest.mark.parametrize("name", ["transformer.layers.2.mlp.dense_h_to_4h.weight", "transformer.final_layernorm.bias"])
    def test_a_tensor_that_is_missing_or_unknown(self, tmp_path: Path, name: str) -> None:
        source = stored(tmp_path / "base", torch.float16)
        tensors = {key: tensor.clone() for key, tensor in read_tensors(source)}  # what is mapped to a file must not be written over
        torch.save({key: tensor for key, tensor in tensors.items() if key != name}, source / "pytorch_model.bin")
        assert f"1 tensors are missing, the first is {name!r}" in refusal(source, tmp_path / "out")

        torch.save({**tensors, f"{name}.more": torch.zeros(1)}, source / "pytorch_model.bin")
        assert f"the weights hold '{name}.more', which config.json does not call for" in refusal(source, tmp_path / "out")
        assert not (tmp_path / "out").exists()

    def test_a_disk_that_gives_back_other_bytes(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def careless(tensors: dict[str, torch.Tensor], path: Path, metadata: dict[str, str]) -> None:
            save_file(
                {name: tensor + 1 if name.endswith("layers.1.mlp.dense_4h_to_h.weight") else tensor for name, tensor in tensors.items()},
                path,
                metadata,
            )

        monkeypatch.setattr(export, "save_file", careless)

        assert "'transformer.layers.1.mlp.dense_4h_to_h.weight' differs when read back" in refusal(CASE.folder, tmp_path / "out")
        assert list(tmp_path.iterdir()) == []

    def test_a_link_to_a_file_of_this_machine(self, tmp_path: Path) -> None:
        secret = tmp_path / "secret.key"
        secret.write_text("TOP SECRET")
        tiny_base(tmp_path / "model")
        for name in ("notes.txt", "vocab.extra"):
            (tmp_path / "model" / name).symlink_to(secret)
        imprint.quantize(tmp_path / "model", tmp_path / "out", 8)
        assert not {"notes.txt", "vocab.extra"} & {file.name for file in (tmp_path / "out").iterdir()}
        (tmp_path / "model" / "vocab.json").symlink_to(secret)
        assert "vocab.json: is a link to" in refusal(tmp_path / "model", tmp_path / "again", 8)
        assert not (tmp_path / "again").exists()
