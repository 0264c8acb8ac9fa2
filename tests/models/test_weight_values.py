from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from imprint.export.quantized import quantize
from imprint.messages import UserError
from imprint.models import checkpoint, weight_values
from imprint.models.checkpoint import load_network, load_pickle, save_network
from imprint.models.weight_files import weight_files
from imprint.models.weight_values import equal_in_chunks, is_finite, nearly_equal, not_finite_error, same_values
from imprint.quant.names import FormatName
from tests.cases import format_of, small_fields, small_network, write_config

TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.float8_e4m3fn)


def values(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("dtype", TYPES)
def test_a_value_that_is_not_finite_is_found_wherever_it_is(dtype: torch.dtype) -> None:
    assert is_finite(values(7, 33).to(dtype))
    for place in (0, 100, 230):
        for wrong in (float("nan"), float("inf"), float("-inf")):
            if dtype != torch.float8_e4m3fn or wrong != wrong:  # which has no infinity
                tensor = values(231)
                tensor[place] = wrong
                assert not is_finite(tensor.to(dtype).reshape(7, 33))


def test_large_values_integers_and_empty_tensors_are_finite() -> None:
    assert is_finite(torch.full((1000,), torch.finfo(torch.float32).max))
    assert is_finite(torch.full((1000,), 65504.0, dtype=torch.float16))
    assert is_finite(torch.arange(5))
    assert is_finite(torch.zeros(0))
    assert is_finite(values(6, 8).t())


def test_tensors_are_compared_in_every_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weight_values, "CHUNK", 16)
    one = values(9, 7)
    assert nearly_equal(one, one.clone())
    for place in range(63):
        other = one.clone()
        other.view(-1)[place] += 0.5
        assert not nearly_equal(one, other)
        assert not nearly_equal(other.bfloat16(), one.bfloat16())
    assert not nearly_equal(one, one[:, :6])
    assert not nearly_equal(one[0, 0], one)


def test_rounding_to_sixteen_bits_is_no_difference() -> None:
    one = values(9, 7)
    assert nearly_equal(one.bfloat16(), one)
    assert nearly_equal(one, one.half())
    assert nearly_equal(one.half(), one.bfloat16())


def test_tensors_that_lie_anywhere_in_their_memory_are_compared() -> None:
    one = values(50)
    assert nearly_equal(one[1:47], one[1:47].clone())
    assert nearly_equal(one.half()[3:19], one.half()[3:19].clone())
    assert nearly_equal(one.reshape(5, 10).t(), one.reshape(5, 10).t().contiguous())
    assert nearly_equal(torch.tensor([0.0, 1.0]), torch.tensor([-0.0, 1.0]))


def test_the_error_counts_the_values_and_says_where_the_first_is() -> None:
    tensor = values(4, 5)
    tensor[1, 2], tensor[3, 0] = float("nan"), float("inf")
    assert str(not_finite_error("model.safetensors", "a.weight", tensor)).startswith(
        "model.safetensors: 'a.weight' holds NaN or infinity: 2 of its 20 values, the first at [1, 2]. The model would compute nothing"
    )
    assert "[]" in str(not_finite_error("model.safetensors", "a.scale", torch.tensor(float("nan"))))


def sharded(folder: Path, *, as_bin: bool) -> Path:
    save_network(small_network(), write_config(folder.with_name("source"), small_fields()), folder, as_bin=as_bin, shard_bytes=20_000)
    return folder


def content_of(file: Path) -> dict[str, Tensor]:
    read = load_pickle(file) if file.suffix == ".bin" else load_file(file)
    return {name: tensor.clone() for name, tensor in read.items()}  # what is mapped must not be written over


def refusal(folder: Path, dtype: torch.dtype = torch.float32, bits: FormatName | None = None) -> str:
    with pytest.raises(UserError) as caught:
        load_network(folder, dtype=dtype, device=torch.device("cpu"), weight_format=format_of(bits))
    return str(caught.value)


def changed(folder: Path, name: str, value: float, *where: int) -> Path:
    """Write a value into a tensor of a folder; the file that holds it."""
    (file,) = [path for path in weight_files(folder) if name in content_of(path)]
    tensors = content_of(file)
    tensors[name][where] = value
    torch.save(tensors, file) if file.suffix == ".bin" else save_file(tensors, file, {"format": "pt"})
    return file


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("as_bin", [True, False])
def test_a_value_of_a_base_that_is_not_finite_is_named_with_its_file(tmp_path: Path, value: float, as_bin: bool) -> None:  # noqa: FBT001
    folder, name = sharded(tmp_path / "base", as_bin=as_bin), "transformer.layers.1.mlp.dense_4h_to_h.weight"
    file = changed(folder, name, value, 2, 3)
    for bits in (None, 8):
        assert f"{file}: {name!r} holds NaN or infinity: 1 of its 1536 values, the first at [2, 3]. " in refusal(folder, bits=bits)
    with pytest.raises(UserError, match=r"holds NaN or infinity: 1 of its 1536 values, the first at \[2, 3\]"):
        quantize(folder, tmp_path / "quantized", 8)
    assert not (tmp_path / "quantized").exists()


def test_a_value_in_a_row_that_no_text_uses_is_found(tmp_path: Path) -> None:
    folder, name = sharded(tmp_path / "base", as_bin=False), "transformer.word_embeddings.weight"
    file = changed(folder, name, float("nan"), 37, 5)
    assert f"{file}: {name!r} holds NaN or infinity: 1 of its 1280 values, the first at [37, 5]" in refusal(folder)
    with pytest.raises(UserError, match=f"'{name}' holds NaN or infinity"):
        quantize(folder, tmp_path / "quantized", 4)


def test_what_overflows_in_the_asked_type_is_a_sentence_and_not_infinite(tmp_path: Path) -> None:
    folder, name = sharded(tmp_path / "base", as_bin=False), "transformer.layers.0.mlp.dense_h_to_4h.weight"
    changed(folder, name, 1e5, 0, 0)
    sentence = refusal(folder, torch.float16)
    assert f"{name!r} holds values that are too large for float16, and would become infinite. Load it in another type: dtype=" in sentence
    for dtype in (torch.float32, torch.bfloat16):
        network = load_network(folder, dtype=dtype, device=torch.device("cpu"))
        assert is_finite(network.get_parameter(name))


def test_tensors_are_compared_in_chunks_each_read_anew() -> None:
    stored, reads = values(100, 33), []

    def read() -> Tensor:
        reads.append(1)
        return stored

    assert equal_in_chunks(read, stored.clone, same_values, 4000)
    assert len(reads) == 4
    for place in (0, 999, 1000, 3299):
        other = stored.clone()
        other.view(-1)[place] *= 1 + 2**-20
        assert not equal_in_chunks(read, lambda other=other: other, same_values, 4000)  # type: ignore[misc]
        assert equal_in_chunks(read, lambda other=other: other, nearly_equal, 4000)  # type: ignore[misc]
    assert not equal_in_chunks(read, stored.t, same_values, 4000)
    assert equal_in_chunks(stored.half().float, stored.half, same_values, 4000)


@pytest.mark.parametrize("zipped", [True, False])
def test_one_other_value_of_a_tensor_that_is_stored_twice_is_found(tmp_path: Path, *, zipped: bool) -> None:
    tensors = small_network(vocabulary=1000).state_dict()
    name = "transformer.word_embeddings.weight"
    folder = write_config(tmp_path / "base", small_fields(vocabulary=1000))
    for place in (None, 1, 31_998):
        twice = tensors[name].clone()
        if place is not None:
            twice.view(-1)[place] += 1
        torch.save({**tensors, f"module.{name}": twice}, folder / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
        if place is None:
            assert torch.equal(load_network(folder, dtype=torch.float32, device=torch.device("cpu")).state_dict()[name], twice)
            continue
        with pytest.raises(UserError, match="twice with different values"):
            load_network(folder, dtype=torch.float32, device=torch.device("cpu"))


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="only Linux tells what is in memory of a mapped file")
@pytest.mark.parametrize("as_bin", [pytest.param(True, marks=pytest.mark.long), False])
def test_a_head_that_is_compared_is_never_whole_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, as_bin: bool) -> None:
    network = small_network(vocabulary=2**18, layers=1)
    source = write_config(tmp_path / "source", small_fields(vocabulary=2**18, layers=1))
    save_network(network, source, tmp_path / "base", dtype=torch.float16, as_bin=as_bin)
    file = str(weight_files(tmp_path / "base")[0])
    seen = []

    def watch(one: Tensor, other: Tensor) -> bool:
        equal = torch.allclose(one.float(), other.float())
        seen.append(resident_kilobytes(file))
        return equal

    monkeypatch.setattr(weight_values, "CHUNK", 2**18)
    monkeypatch.setattr(weight_values, "_nearly_equal", watch)
    monkeypatch.setattr(checkpoint, "MAPPED_BYTES", 2**20)
    load_network(tmp_path / "base", dtype=torch.float32, device=torch.device("cpu"))  # which copies the embedding, but not the head

    assert len(seen) == 32  # of half a mebibyte
    assert max(seen) < 6 * 1024  # of the 16 MiB of the head


def resident_kilobytes(file: str) -> int:
    """How much of a mapped file is in the memory of this process."""
    total, counts = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split(" ")[0]:
            counts = line.endswith(file)
        elif counts and line.startswith("Rss:"):
            total += int(line.split()[1])
    return total
