import json
import os
import pickle
import random
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from imprint.messages import UserError
from imprint.models import checkpoint
from imprint.models.checkpoint import load_network, load_pickle, read_tensors, save_network
from imprint.models.families import build_network
from imprint.models.network import Network
from imprint.models.quantized_layers import quantized_layers
from imprint.models.weight_files import weight_files
from imprint.quant.weight_format import SCALE
from tests.cases import BITS, Bits, as_chatglm, format_of, quantize, quantized_folder, small_fields, small_network, write_config
from tests.tiny import tiny_base

CPU = torch.device("cpu")
EMBEDDING = "transformer.word_embeddings.weight"
HEAD = "lm_head.weight"
HEAD_SCALE = f"{HEAD}_scale"
SHARD = 20_000
"""Bytes: some five shards."""


def read(folder: Path, dtype: torch.dtype = torch.float32) -> Network:
    return load_network(folder, dtype=dtype, device=CPU)


def weights() -> dict[str, Tensor]:
    network = small_network()
    return {**network.state_dict(), HEAD: network.head_weight}


def base(folder: Path, tensors: dict[str, Tensor]) -> Path:
    """A model folder with all tensors in one pytorch_model.bin."""
    torch.save(tensors, write_config(folder, small_fields()) / "pytorch_model.bin")
    return folder


def sharded(folder: Path, *, as_bin: bool = True) -> Path:
    source = write_config(folder.with_name("source"), small_fields())
    save_network(small_network(), source, folder, as_bin=as_bin, shard_bytes=SHARD)
    return folder


def equal(network: Network, tensors: dict[str, Tensor]) -> bool:
    state = network.state_dict()
    return state.keys() == tensors.keys() - {HEAD, HEAD_SCALE} and all(torch.equal(state[name], tensors[name]) for name in state)


def refusal(folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        read(folder)
    return str(caught.value)


class Canary:
    """Unpickled without care, it makes a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return Path.touch, (self.file,)  # type: ignore[return-value]


class TestLayouts:
    def test_one_bin_file(self, tmp_path: Path) -> None:
        assert equal(read(base(tmp_path / "base", weights())), weights())

    def test_one_safetensors_file(self, tmp_path: Path) -> None:
        folder = write_config(tmp_path / "base", small_fields())
        save_file({name: tensor.clone() for name, tensor in weights().items()}, folder / "model.safetensors")

        assert equal(read(folder), weights())

    @pytest.mark.parametrize("as_bin", [True, False])
    def test_shards_with_an_index(self, tmp_path: Path, as_bin: bool) -> None:  # noqa: FBT001
        folder = sharded(tmp_path / "base", as_bin=as_bin)

        assert len(weight_files(folder)) >= 4
        assert equal(read(folder), weights())

    def test_a_file_from_before_torch_1_6(self, tmp_path: Path) -> None:
        folder = write_config(tmp_path / "base", small_fields())
        torch.save(weights(), folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)

        assert equal(read(folder), weights())

    def test_a_trainers_state_around_the_weights(self, tmp_path: Path) -> None:
        folder = write_config(tmp_path / "base", small_fields())
        torch.save({"state_dict": weights(), "step": 3}, folder / "pytorch_model.bin")

        assert equal(read(folder), weights())

    def test_safetensors_stand_before_bin(self, tmp_path: Path) -> None:
        folder = base(tmp_path / "base", {})
        save_file({name: tensor.clone() for name, tensor in weights().items()}, folder / "model.safetensors")

        assert equal(read(folder), weights())

    def test_tensors_that_the_network_computes_itself_are_ignored(self, tmp_path: Path) -> None:
        extra = {
            "transformer.layers.0.attention.rotary_emb.inv_freq": torch.zeros(8),
            "transformer.prefix_encoder.embedding.weight": torch.zeros(4, 128),
        }

        assert equal(read(base(tmp_path / "base", {**weights(), **extra})), weights())

    def test_every_mapping_limit_gives_the_same(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(checkpoint, "MAPPED_BYTES", 5000)
        for as_bin in (True, False):
            assert equal(read(sharded(tmp_path / str(as_bin), as_bin=as_bin)), weights())

    def test_the_network_is_frozen_and_has_the_requested_dtype(self, tmp_path: Path) -> None:
        network = read(base(tmp_path / "base", {name: tensor.half() for name, tensor in weights().items()}), torch.bfloat16)

        assert {parameter.dtype for parameter in network.parameters()} == {torch.bfloat16}
        assert not any(parameter.requires_grad for parameter in network.parameters())
        assert not network.training


class TestBrokenFolders:
    def test_missing_shards_are_counted_and_one_is_named(self, tmp_path: Path) -> None:
        folder = sharded(tmp_path / "base")
        shards = weight_files(folder)
        shards[1].unlink()
        shards[2].unlink()

        assert f"{folder}: 2 of {len(shards)} shards are missing, the first is {shards[1].name}." in refusal(folder)

    def test_a_folder_without_weights_says_what_it_holds(self, tmp_path: Path) -> None:
        folder = write_config(tmp_path / "base", small_fields())
        (folder / "weights-1.bin").touch()

        sentence = refusal(folder)

        assert "no weights; found config.json, weights-1.bin. Allowed: model.safetensors" in sentence

    def test_a_missing_tensor_is_named(self, tmp_path: Path) -> None:
        tensors = weights()
        del tensors["transformer.layers.1.mlp.dense_h_to_4h.bias"], tensors["transformer.layers.0.attention.dense.bias"]

        sentence = refusal(base(tmp_path / "base", tensors))

        assert "2 tensors are missing, the first is 'transformer.layers.0.attention.dense.bias'" in sentence

    def test_a_head_alone_is_the_embedding(self, tmp_path: Path) -> None:
        tensors = weights()
        del tensors[EMBEDDING]

        network = load_network(base(tmp_path / "base", tensors), dtype=torch.float32, device=torch.device("cpu"))

        assert torch.equal(network.head_weight, tensors["lm_head.weight"])

    def test_a_wrong_shape_is_named_with_both_shapes(self, tmp_path: Path) -> None:
        sentence = refusal(base(tmp_path / "base", {**weights(), EMBEDDING: torch.zeros(41, 32)}))

        assert f"'{EMBEDDING}' has the shape (41, 32), config.json calls for (40, 32)" in sentence

    def test_an_extra_tensor_is_named(self, tmp_path: Path) -> None:
        sentence = refusal(base(tmp_path / "base", {**weights(), "transformer.layers.2.mlp.dense_h_to_4h.bias": torch.zeros(48)}))

        assert "the weights hold 'transformer.layers.2.mlp.dense_h_to_4h.bias', which config.json does not call for" in sentence

    @pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
    def test_a_git_lfs_pointer_is_called_so(self, tmp_path: Path, name: str) -> None:
        folder = write_config(tmp_path / "base", small_fields())
        (folder / name).write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")

        assert f"{folder / name} is a Git LFS pointer, not the file itself. Run `git lfs pull`" in refusal(folder)

    @pytest.mark.parametrize("dtype", [torch.int8, torch.bool])
    @pytest.mark.parametrize("name", [EMBEDDING, HEAD])
    def test_weights_that_are_no_floating_point_numbers_are_refused(self, tmp_path: Path, name: str, dtype: torch.dtype) -> None:
        tensors = weights()

        sentence = refusal(base(tmp_path / "base", {**tensors, name: torch.ones(tensors[name].shape, dtype=dtype)}))

        assert f'{name!r} holds {dtype} values, config.json calls for floating-point values ("quantization_bit" says' in sentence
        assert "Take config.json from the folder the weights come from." in sentence

    def test_a_head_that_is_not_the_embedding_in_any_row_is_refused(self, tmp_path: Path) -> None:
        for row in range(40):
            head = weights()[HEAD].clone()
            head[row, row % 32] += 1
            assert "'lm_head.weight' is not the embedding, but in this architecture they are one" in refusal(
                base(tmp_path / f"row-{row}", {**weights(), HEAD: head})
            )
        for number, other in enumerate((head[:39, :8], head[0, 0])):
            assert "'lm_head.weight' is not the embedding" in refusal(base(tmp_path / str(number), {**weights(), HEAD: other.clone()}))

    def test_a_head_stored_in_another_type_is_the_embedding(self, tmp_path: Path) -> None:
        assert equal(read(base(tmp_path / "base", {**weights(), HEAD: weights()[HEAD].bfloat16()})), weights())

    def test_plain_pickle_is_refused_without_a_warning(self, tmp_path: Path) -> None:
        folder = write_config(tmp_path / "base", small_fields())
        (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"a": [1.0]}, protocol=4))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")

            assert "cannot be read as plain weights" in refusal(folder)

        assert caught == []

    @pytest.mark.parametrize("name", ["../outside.bin", "/etc/hostname", "sub/inside.bin"])
    def test_an_index_names_no_file_outside_its_folder(self, tmp_path: Path, name: str) -> None:
        folder = write_config(tmp_path / "base", small_fields())
        torch.save(weights(), tmp_path / "outside.bin")
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": {EMBEDDING: name}}))

        assert f"names a file outside its folder, {name!r}." in refusal(folder)

    @pytest.mark.parametrize(
        "content", ["", "{", "[]", "{}", "[" * 100_000, '{"weight_map": []}', '{"weight_map": {"a": 5}}', '{"weight_map": {"a": []}}']
    )
    def test_a_broken_index_is_named(self, tmp_path: Path, content: str) -> None:
        folder = write_config(tmp_path / "base", small_fields())
        (folder / "model.safetensors.index.json").write_text(content)

        assert 'model.safetensors.index.json: must be a JSON object with a "weight_map"' in refusal(folder)

    def test_an_index_larger_than_any_is_not_read(self, tmp_path: Path) -> None:
        folder = write_config(tmp_path / "base", small_fields())
        (folder / "model.safetensors.index.json").write_text('{"weight_map": {' + " " * 2**24 + "}}")

        assert "model.safetensors.index.json has more than 16 MiB, which no file of its kind has" in refusal(folder)

    @pytest.mark.parametrize("kind", ["bin", "legacy", "safetensors"])
    def test_a_file_cut_anywhere_is_a_user_error(self, tmp_path: Path, kind: str) -> None:
        folder = write_config(tmp_path / "base", small_fields())
        file = folder / ("model.safetensors" if kind == "safetensors" else "pytorch_model.bin")
        if kind == "safetensors":
            save_file({name: tensor.clone() for name, tensor in weights().items()}, file)
        else:
            torch.save(weights(), file, _use_new_zipfile_serialization=kind == "bin")
        content = file.read_bytes()
        generator = random.Random(0)

        for size in [0, 1, 2, 8, 100, len(content) - 1, *(generator.randrange(len(content)) for _ in range(20))]:
            file.write_bytes(content[:size])
            assert f"{file}: " in refusal(folder)
            assert "Download the file again" in refusal(folder)

    @pytest.mark.parametrize("content", [[1, 2], {"step": 3}, {1: torch.zeros(1)}, {"a": {"b": 1}}, {"a": {"b": torch.zeros(1)}, "c": {}}])
    def test_a_file_of_anything_but_tensors_is_a_user_error(self, tmp_path: Path, content: object) -> None:
        file = tmp_path / "pytorch_model.bin"
        torch.save(content, file)

        with pytest.raises(UserError, match=r"pytorch_model\.bin: must hold a dict of tensors"):
            load_pickle(file)

    @pytest.mark.parametrize("zipped", [True, False])
    def test_code_in_a_file_is_never_run(self, tmp_path: Path, zipped: bool) -> None:  # noqa: FBT001
        canary = tmp_path / "ran"
        folder = write_config(tmp_path / "base", small_fields())
        torch.save({EMBEDDING: Canary(canary)}, folder / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)

        sentence = refusal(folder)

        assert not canary.exists()
        assert "(it calls for " in sentence
        assert "or holds code, which is never run" in sentence

    def test_the_canary_would_run_in_an_unsafe_load(self, tmp_path: Path) -> None:
        torch.save({EMBEDDING: Canary(tmp_path / "ran")}, tmp_path / "file.bin")

        torch.load(tmp_path / "file.bin", weights_only=False)

        assert (tmp_path / "ran").exists()


class TestSaving:
    @pytest.mark.parametrize("as_bin", [True, False])
    @pytest.mark.parametrize("shard_bytes", [SHARD, 10**9])
    def test_what_is_written_loads_equal(self, tmp_path: Path, as_bin: bool, shard_bytes: int) -> None:  # noqa: FBT001
        source = write_config(tmp_path / "source", small_fields())
        folder = tmp_path / "written"

        save_network(small_network(), source, folder, as_bin=as_bin, shard_bytes=shard_bytes)

        stem, ending = ("pytorch_model", "bin") if as_bin else ("model", "safetensors")
        index = folder / f"{stem}.{ending}.index.json"
        assert equal(read(folder), weights())
        assert index.exists() == (shard_bytes == SHARD)
        names = [path.name for path in weight_files(folder)]
        assert names == (
            [f"{stem}-{i + 1:05d}-of-{len(names):05d}.{ending}" for i in range(len(names))] if index.exists() else [f"{stem}.{ending}"]
        )

    def test_the_index_tells_where_each_tensor_is_and_how_large_all_are(self, tmp_path: Path) -> None:
        folder = sharded(tmp_path / "base")

        index = json.loads((folder / "pytorch_model.bin.index.json").read_text())

        files = {name: path.name for path in weight_files(folder) for name in load_pickle(path)}
        assert index["weight_map"] == files
        assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in weights().values())

    def test_no_shard_is_larger_than_asked_unless_one_tensor_is(self, tmp_path: Path) -> None:
        folder = sharded(tmp_path / "base")

        shards = [[tensor.nbytes for tensor in load_pickle(path).values()] for path in weight_files(folder)]

        assert all(sum(sizes) <= SHARD or len(sizes) == 1 for sizes in shards)

    @pytest.mark.parametrize(("tied_once", "heads"), [(False, 1), (True, 0)])
    def test_the_head_is_stored_as_the_official_folder_does_or_once(self, tmp_path: Path, tied_once: bool, heads: int) -> None:  # noqa: FBT001
        source = write_config(tmp_path / "source", small_fields())
        folder = tmp_path / "written"

        save_network(small_network(), source, folder, tied_once=tied_once)

        tensors = dict(read_tensors(folder))
        assert sum(name == HEAD for name in tensors) == heads
        assert all(torch.equal(tensor, tensors[EMBEDDING]) for name, tensor in tensors.items() if name == HEAD)
        assert equal(read(folder), weights())

    def test_another_type_is_written_and_noted_in_the_config(self, tmp_path: Path) -> None:
        source = write_config(tmp_path / "source", {**small_fields(), "torch_dtype": "float32"})

        save_network(small_network(), source, tmp_path / "written", dtype=torch.float16)

        assert json.loads((tmp_path / "written" / "config.json").read_text())["torch_dtype"] == "float16"
        assert {tensor.dtype for tensor in load_file(tmp_path / "written" / "model.safetensors").values()} == {torch.float16}

    def test_auxiliary_files_are_copied_and_old_weights_are_not(self, tmp_path: Path) -> None:
        source = sharded(tmp_path / "base")
        (source / "ice_text.model").write_bytes(b"pieces")
        (source / "cache").mkdir()

        save_network(small_network(), source, tmp_path / "written")

        assert sorted(path.name for path in (tmp_path / "written").iterdir()) == ["config.json", "ice_text.model", "model.safetensors"]

    def test_a_folder_may_be_replaced_by_what_was_read_from_it(self, tmp_path: Path) -> None:
        folder = sharded(tmp_path / "base", as_bin=False)

        save_network(read(folder), folder, folder)

        assert equal(read(folder), weights())

    @pytest.mark.parametrize("size", [130528, 150528])
    def test_both_editions_of_the_vocabulary_load_without_special_ids(self, tmp_path: Path, size: int) -> None:
        fields = {key: value for key, value in small_fields().items() if not key.endswith("token_id")}
        fields |= {"vocab_size": size, "hidden_size": 8, "inner_hidden_size": 8, "num_layers": 1, "num_attention_heads": 1}
        source = write_config(tmp_path / "source", fields)
        with torch.device("meta"):
            network = build_network(fields, source)
        network.to_empty(device="cpu").half().load_state_dict({name: torch.zeros_like(t) for name, t in network.state_dict().items()})
        save_network(network, source, tmp_path / "base", tied_once=True)

        loaded = read(tmp_path / "base", torch.float16)

        special_ids = as_chatglm(loaded).config.special_ids
        assert (special_ids.mask, special_ids.gmask, special_ids.sop, special_ids.eop) == tuple(
            size - 528 + offset for offset in (0, 1, 4, 5)
        )
        assert loaded.stop_ids == {size - 523}


@pytest.mark.parametrize("bits", BITS)
class TestQuantized:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
    def test_weights_are_quantized_from_the_type_they_are_stored_in(self, tmp_path: Path, bits: Bits, dtype: torch.dtype) -> None:
        tensors = {name: tensor.half() for name, tensor in weights().items()}

        network = load_network(base(tmp_path / "base", tensors), dtype=dtype, device=CPU, weight_format=format_of(bits))

        layers = quantized_layers(network)
        assert len(layers) == 8
        for name, layer in layers.items():
            integers, scale = quantize(tensors[name], bits)
            assert torch.equal(layer.weight, integers)
            assert torch.equal(layer.tensors[SCALE], scale)
        assert {parameter.dtype for parameter in network.parameters()} == {dtype}
        assert not any(tensor.requires_grad for tensor in network.state_dict().values())

    @pytest.mark.parametrize("embeddings", [False, True])
    def test_a_quantized_folder_is_read_as_it_is(self, tmp_path: Path, bits: Bits, embeddings: bool) -> None:  # noqa: FBT001
        folder = quantized_folder(tmp_path / "base", bits, embeddings=embeddings)
        tensors = load_pickle(folder / "pytorch_model.bin")

        for requested in (None, bits):
            assert equal(load_network(folder, dtype=torch.float32, device=CPU, weight_format=format_of(requested)), tensors)

    def test_other_bits_than_the_folders_are_refused(self, tmp_path: Path, bits: Bits) -> None:
        folder = quantized_folder(tmp_path / "base", bits)

        with pytest.raises(UserError) as caught:
            load_network(folder, dtype=torch.float32, device=CPU, weight_format=format_of(4 if bits == 8 else 8))

        asked = f"{folder}: is quantized to {bits} bits already, and {12 - bits} bits are asked for. Leave `quantize` out"
        assert asked in str(caught.value)

    def test_the_config_of_another_folder_is_refused(self, tmp_path: Path, bits: Bits) -> None:
        folder = quantized_folder(tmp_path / "base", bits)
        fields = json.loads((folder / "config.json").read_text())

        write_config(folder, {**fields, "quantization_bit": None})
        assert "weight' holds torch.int8 values, config.json calls for floating-point values" in refusal(folder)
        with pytest.raises(UserError, match=r'holds torch\.int8 values, but config.json has no "quantization_bit"'):
            load_network(folder, dtype=torch.float32, device=CPU, weight_format=format_of(bits))
        write_config(folder, {**fields, "quantization_bit": 12 - bits})
        assert "has the shape" in refusal(folder)
        write_config(folder, {**fields, "quantization_embeddings": True})
        assert "holds torch.float32 values, config.json calls for torch.int8 values" in refusal(folder)
        write_config(base(tmp_path / "plain", weights()), {**small_fields(), "quantization_bit": bits})
        assert "weight' holds torch.float32 values, config.json calls for torch.int8 values" in refusal(tmp_path / "plain")

    def test_scales_that_are_missing_are_named(self, tmp_path: Path, bits: Bits) -> None:
        folder = quantized_folder(tmp_path / "base", bits)
        tensors = {key: tensor.clone() for key, tensor in read_tensors(folder)}  # what is mapped must not be written over
        name = "transformer.layers.1.mlp.dense_4h_to_h.weight_scale"
        torch.save({key: tensor for key, tensor in tensors.items() if key != name}, folder / "pytorch_model.bin")

        assert f"1 tensors are missing, the first is {name!r}" in refusal(folder)

    def test_weights_that_are_not_finite_or_of_another_shape_are_named(self, tmp_path: Path, bits: Bits) -> None:
        name = "transformer.layers.1.attention.dense.weight"
        wrong = weights()[name].clone()
        wrong[3, 5] = float("nan")
        for tensor, sentence in ((wrong, "NaN or infinity"), (torch.zeros(32, 30), r"has the shape \(32, 30\)")):
            with pytest.raises(UserError, match=f"'{name}' (holds )?{sentence}"):
                folder = base(tmp_path / "base", {**weights(), name: tensor})
                load_network(folder, dtype=torch.float32, device=CPU, weight_format=format_of(bits))

    def test_a_quantized_head_that_is_not_the_embedding_is_refused(self, tmp_path: Path, bits: Bits) -> None:
        folder = quantized_folder(tmp_path / "base", bits, embeddings=True)
        tensors = {key: tensor.clone() for key, tensor in read_tensors(folder)}
        for name in (HEAD, f"{HEAD}_scale"):
            changed = tensors[name].clone()
            changed[0] += 1
            torch.save({**tensors, name: changed}, folder / "pytorch_model.bin")
            assert f"{name!r} is not the embedding" in refusal(folder)

    @pytest.mark.parametrize("embeddings", [False, True])
    @pytest.mark.parametrize("as_bin", [True, False])
    def test_what_is_saved_is_what_was_loaded(self, tmp_path: Path, bits: Bits, embeddings: bool, as_bin: bool) -> None:  # noqa: FBT001
        source = quantized_folder(tmp_path / "base", bits, embeddings=embeddings)

        save_network(read(source), source, tmp_path / "saved", dtype=torch.float16, as_bin=as_bin, shard_bytes=SHARD)

        written = dict(read_tensors(tmp_path / "saved"))
        expected = load_pickle(source / "pytorch_model.bin")
        assert written.keys() == expected.keys()
        for name, tensor in expected.items():
            assert torch.equal(written[name], tensor if tensor.dtype == torch.int8 else tensor.half())
        assert json.loads((tmp_path / "saved" / "config.json").read_text())["quantization_bit"] == bits

    def test_what_was_quantized_as_it_was_read_is_saved_as_a_quantized_folder(self, tmp_path: Path, bits: Bits) -> None:
        source = base(tmp_path / "base", weights())
        network = load_network(source, dtype=torch.float32, device=CPU, weight_format=format_of(bits))

        save_network(network, source, tmp_path / "saved")

        assert equal(read(tmp_path / "saved"), network.state_dict())
        assert json.loads((tmp_path / "saved" / "config.json").read_text())["quantization_bit"] == bits


@pytest.mark.long
def test_loading_two_gigabytes_holds_no_second_copy(tmp_path: Path, repo: Path) -> None:
    command = [sys.executable, str(repo / "benchmarks" / "loading.py"), str(tmp_path / "weights"), "--json"]

    environment = {**os.environ, "PYTHONPATH": str(repo)}
    figures = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout)

    assert len(figures) == 8  # two kinds of files, in the same type, converted, and quantized in two ways
    limits = {row["kind"]: 0.4 if "int" in row["kind"] else 0.15 * row["weights_gib"] for row in figures}  # of 1.9 GiB that are read
    assert {row["kind"]: row for row in figures if row["peak_gib"] > row["weights_gib"] + limits[row["kind"]]} == {}
    assert all(row["share"] > 0.9 for row in figures)  # everything was read, so the figure is of the whole


def test_what_reads_back_other_than_it_was_written_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from safetensors.torch import save_file

    def faulty(tensors: dict[str, Tensor], file: Path, metadata: dict[str, str]) -> None:
        save_file({name: tensor + 1 for name, tensor in tensors.items()}, file, metadata)

    monkeypatch.setattr("imprint.models.checkpoint.save_file", faulty)
    with pytest.raises(UserError, match="differs when read back: the disk or the memory is faulty"):
        tiny_base(tmp_path / "base")
    assert not (tmp_path / "base").exists()
