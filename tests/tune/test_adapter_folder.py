import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import imprint
from imprint.messages import UserError
from imprint.models.network import Network
from imprint.quant.names import FORMAT_NAMES, FormatName
from imprint.tune.adapter import Adapter, AdapterMetadata, PrefixMetadata
from imprint.tune.adapter_folder import METADATA_FILE, ORIGINAL_FILE, load_adapter, save_adapter
from imprint.tune.fingerprint import fingerprint
from imprint.tune.prefix import TENSOR_PREFIX, TENSORS_FILE, PrefixEncoder, PrefixShape, init_prefix
from tests.cases import TUNED, Case, difference, small_network


class Canary:
    """Unpickled without care, it makes a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Callable[[Path], object], tuple[Path]]:
        return Path.touch, (self.file,)


def encoder_for(network: Network, *, projection: bool = False) -> PrefixEncoder:
    return init_prefix(network, PrefixShape.from_network(network, 5, projection=projection), "random", [])


def saved(folder: Path, network: Network, *, projection: bool = False, original: bool = False) -> PrefixEncoder:
    encoder = encoder_for(network, projection=projection)
    description = AdapterMetadata("base/one", fingerprint(network), PrefixMetadata(5, projection, "random"), "chatglm", 120, {"loss": 1.25})
    save_adapter(folder, encoder, description, original=original)
    return encoder


def refusal(path: Path, network: Network) -> str:
    with pytest.raises(UserError) as caught:
        load_adapter(path, network)
    return str(caught.value)


def same(one: Adapter, other: PrefixEncoder) -> bool:
    assert isinstance(one, PrefixEncoder)
    first, second = one.state_dict(), other.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def change(folder: Path, **fields: object) -> None:
    file = folder / METADATA_FILE
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


class TestOurFolder:
    @pytest.mark.parametrize("projection", [False, True])
    def test_a_saved_adapter_is_loaded_again(self, tmp_path: Path, projection: bool) -> None:  # noqa: FBT001
        network = small_network()
        encoder = saved(tmp_path / "adapter", network, projection=projection)

        loaded, description = load_adapter(tmp_path / "adapter", network)

        assert same(loaded, encoder)
        assert description == AdapterMetadata(
            "base/one", fingerprint(network), PrefixMetadata(5, projection, "random"), "chatglm", 120, {"loss": 1.25}
        )

    def test_the_folder_describes_itself(self, tmp_path: Path) -> None:
        saved(tmp_path / "adapter", small_network())

        fields = json.loads((tmp_path / "adapter" / METADATA_FILE).read_text())

        assert sorted(path.name for path in (tmp_path / "adapter").iterdir()) == [METADATA_FILE, TENSORS_FILE]
        assert fields["method"] == "prefix"
        assert {"base", "base_fingerprint", "length", "projection", "template", "scores", "format"} <= fields.keys()

    def test_on_request_the_originals_file_is_written_too(self, tmp_path: Path) -> None:
        encoder = saved(tmp_path / "adapter", small_network(), projection=True, original=True)

        tensors = torch.load(tmp_path / "adapter" / ORIGINAL_FILE, weights_only=True)

        assert tensors.keys() == encoder.named_tensors().keys()
        assert all(torch.equal(tensors[name], parameter) for name, parameter in encoder.named_tensors().items())

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_the_same_base_in_16_bits_is_the_same_base(self, tmp_path: Path, dtype: torch.dtype) -> None:
        encoder = saved(tmp_path / "adapter", small_network())

        loaded, _ = load_adapter(tmp_path / "adapter", small_network().to(dtype))

        assert same(loaded, encoder)

    def test_another_base_of_the_same_shape_is_refused(self, tmp_path: Path) -> None:
        saved(tmp_path / "adapter", small_network(seed=0))

        sentence = refusal(tmp_path / "adapter", small_network(seed=1))

        assert f"{tmp_path / 'adapter'}: was tuned on another base, 'base/one': the fingerprints differ." in sentence

    def test_another_shape_of_base_is_refused(self, tmp_path: Path) -> None:
        network = small_network()
        saved(tmp_path / "adapter", network)
        deeper = small_network(layers=3)
        change(tmp_path / "adapter", base_fingerprint=fingerprint(deeper))

        assert "embedding.weight is (5, 128) of torch.float32, this base needs (5, 192) (3 layers, hidden size 32)" in refusal(
            tmp_path / "adapter", deeper
        )

    def test_the_adapter_a_killed_save_was_about_to_replace_is_loaded(self, tmp_path: Path) -> None:
        network = small_network()
        encoder = saved(tmp_path / "adapter", network)
        (tmp_path / "adapter").rename(tmp_path / ".adapter.old")

        assert same(load_adapter(tmp_path / "adapter", network)[0], encoder)


class TestTheOriginalsFile:
    @pytest.mark.parametrize("name", TUNED)
    def test_it_may_have_any_name_and_no_description(self, tmp_path: Path, name: str) -> None:
        case = Case(name)
        assert case.adapter is not None
        file = shutil.copyfile(case.adapter, tmp_path / "我的前缀.bin")

        model = imprint.load(case.folder, adapter=file, dtype="float32", device="cpu")

        assert difference(torch.cat(model.logits(case.rows)), torch.cat(case.per_row("logits"))) <= 1e-4
        assert model.description is not None
        assert model.description.method_metadata.start == "original"
        assert isinstance(model.description.method_metadata, PrefixMetadata)
        assert model.description.method_metadata.projection == name.endswith("projection")

    def test_a_checkpoint_folder_of_the_original_is_loaded(self, tmp_path: Path) -> None:
        case = Case(TUNED[0])
        assert case.adapter is not None
        (tmp_path / "checkpoint-3000").mkdir()
        shutil.copyfile(case.adapter, tmp_path / "checkpoint-3000" / ORIGINAL_FILE)

        model = imprint.load(case.folder, adapter=tmp_path / "checkpoint-3000", dtype="float32", device="cpu")

        assert difference(torch.cat(model.logits(case.rows)), torch.cat(case.per_row("logits"))) <= 1e-4

    def test_names_without_the_outer_module_are_loaded(self, tmp_path: Path) -> None:
        network = small_network()
        encoder = encoder_for(network)
        torch.save({"prefix_encoder.embedding.weight": encoder.embedding.weight.data.half()}, tmp_path / "prefix.bin")

        loaded, _ = load_adapter(tmp_path / "prefix.bin", network)

        assert isinstance(loaded, PrefixEncoder)
        assert loaded.embedding.weight.dtype is torch.float32
        assert difference(loaded.embedding.weight, encoder.embedding.weight) < 2e-3


class TestRefusals:
    def test_a_path_that_is_not_there(self, tmp_path: Path) -> None:
        assert "gone: there is no such file or folder. Give an adapter folder" in refusal(tmp_path / "gone", small_network())

    def test_a_folder_without_an_adapter_says_what_it_holds(self, tmp_path: Path) -> None:
        (tmp_path / "log.jsonl").touch()

        assert "holds no adapter; found log.jsonl. Allowed: adapter.json with prefix.safetensors" in refusal(tmp_path, small_network())

    @pytest.mark.parametrize("zipped", [True, False])
    def test_code_in_a_prefix_file_is_never_run(self, tmp_path: Path, zipped: bool) -> None:  # noqa: FBT001
        canary, file = tmp_path / "ran", tmp_path / "prefix.bin"
        torch.save({TENSOR_PREFIX + "embedding.weight": Canary(canary)}, file, _use_new_zipfile_serialization=zipped)

        sentence = refusal(file, small_network())

        assert not canary.exists()
        assert "prefix.bin: cannot be read as plain weights" in sentence

    @pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"hello", b"\x80\x02"])
    def test_a_damaged_prefix_file(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "prefix.bin").write_bytes(content)

        assert "prefix.bin: cannot be read as plain weights" in refusal(tmp_path / "prefix.bin", small_network())

    def test_damaged_or_missing_tensors_of_our_folder(self, tmp_path: Path) -> None:
        network = small_network()
        saved(tmp_path / "adapter", network)
        file = tmp_path / "adapter" / TENSORS_FILE

        file.write_bytes(file.read_bytes()[:-1])
        assert f"{file}: cannot be read" in refusal(tmp_path / "adapter", network)
        file.unlink()
        assert f"{file}: cannot be read" in refusal(tmp_path / "adapter", network)

    @pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"format": 1}', '{"format": 1, "colour": "red"}', "[" * 100_000])
    def test_damaged_metadata(self, tmp_path: Path, content: str) -> None:
        network = small_network()
        saved(tmp_path / "adapter", network)
        (tmp_path / "adapter" / METADATA_FILE).write_text(content)

        problem = refusal(tmp_path / "adapter", network)
        assert problem.startswith(f"{tmp_path / 'adapter' / METADATA_FILE}: ")
        assert "is not" in problem or '"format" is None' in problem or '"method" is None' in problem

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            *[("length", value) for value in (None, "4", 1.5, [4], True)],
            *[("projection", value) for value in (None, 1, "yes")],
            *[("start", 5), ("base", None), ("base", {"a": 1}), ("template", 5), ("step", "1"), ("step", [])],
            *[("scores", 5), ("scores", {"eval_loss": "x"}), ("colour", "red"), ("rank", 2)],
        ],
    )
    def test_a_field_of_another_type(self, tmp_path: Path, field: str, value: object) -> None:
        network = small_network()
        saved(tmp_path / "adapter", network)
        file = tmp_path / "adapter" / METADATA_FILE
        file.write_text(json.dumps({**json.loads(file.read_text()), field: value}))

        assert f"{file}: is not what Imprint wrote (" in (problem := refusal(tmp_path / "adapter", network))
        assert field in problem

    @pytest.mark.parametrize("value", [None, 5, "abc", ["a"] * 16, [None] * 16, {"a": 1}])
    def test_a_fingerprint_that_is_none_is_damaged_metadata(self, tmp_path: Path, value: object) -> None:
        network = small_network()
        saved(tmp_path / "adapter", network)
        change(tmp_path / "adapter", base_fingerprint=value)

        assert "is not what Imprint wrote (base_fingerprint" in refusal(tmp_path / "adapter", network)

    def test_a_folder_of_a_later_version(self, tmp_path: Path) -> None:
        network = small_network()
        saved(tmp_path / "adapter", network)
        change(tmp_path / "adapter", format=2)

        assert '"format" is 2, this version reads 1. Use the version of Imprint that wrote it.' in refusal(tmp_path / "adapter", network)

    def test_tensors_that_are_no_prefix(self, tmp_path: Path) -> None:
        network = small_network()
        saved(tmp_path / "adapter", network)
        save_file({"lora": torch.zeros(1)}, tmp_path / "adapter" / TENSORS_FILE)

        assert "holds no prefix" in refusal(tmp_path / "adapter", network)

    def test_a_prefix_of_ours_that_is_not_finite(self, tmp_path: Path) -> None:
        network = small_network()
        saved(tmp_path / "adapter", network)
        file = tmp_path / "adapter" / TENSORS_FILE
        save_file({name: tensor * float("nan") for name, tensor in load_file(file).items()}, file)

        assert "holds NaN or infinite values" in refusal(tmp_path / "adapter", network)


class TestPrecision:
    @pytest.mark.parametrize("bits", FORMAT_NAMES)
    def test_an_adapter_goes_from_a_plain_base_to_a_quantized_one_and_back(self, tmp_path: Path, bits: FormatName) -> None:
        case = Case("chatglm1-base")
        plain, quantized = case.load().network, imprint.load(case.folder, quantize=bits, dtype="float32", device="cpu").network

        for number, (one, other) in enumerate(((plain, quantized), (quantized, plain))):
            encoder = saved(tmp_path / str(number), one)
            assert same(load_adapter(tmp_path / str(number), other)[0], encoder)

    def test_the_adapter_is_fp32_on_disk(self, tmp_path: Path) -> None:
        saved(tmp_path / "adapter", small_network().half())

        assert {tensor.dtype for tensor in load_file(tmp_path / "adapter" / TENSORS_FILE).values()} == {torch.float32}


def test_the_prefix_inside_a_sharded_checkpoint_of_all_weights_is_loaded(tmp_path: Path) -> None:
    network = small_network()
    encoder = encoder_for(network)
    shards = {"pytorch_model-00001-of-00002.bin": {"lm_head.weight": torch.zeros(2, 2)}}
    shards["pytorch_model-00002-of-00002.bin"] = {name: tensor.detach() for name, tensor in encoder.named_tensors().items()}
    for name, tensors in shards.items():
        torch.save(tensors, tmp_path / name)
    weight_map = {key: name for name, tensors in shards.items() for key in tensors}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))

    assert same(load_adapter(tmp_path, network)[0], encoder)
