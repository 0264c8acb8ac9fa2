from pathlib import Path

import pytest
import torch

from imprint.cli import main
from imprint.messages import UserError
from imprint.models.gguf import read_fields_and_tensors, read_metadata
from tests.bounded import cpu_time
from tests.ggufs import gguf_file

pytest.importorskip("gguf", reason='it needs gguf: pip install "imprint[gguf]"')


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GGUF file."""
    return gguf_file(tmp_path_factory.mktemp("gguf") / "tiny.gguf", {})


def test_metadata_and_weights_are_read_under_the_names_of_transformers(file: Path) -> None:
    assert read_metadata(file)["general.architecture"] == "llama"
    fields, tensors = read_fields_and_tensors(file, read_metadata(file), torch.bfloat16)
    assert (fields["model_type"], fields["architectures"], fields["dtype"]) == ("llama", ["LlamaForCausalLM"], "bfloat16")
    assert "quantization_config" not in fields
    assert tensors["model.layers.1.mlp.down_proj.weight"].shape == (16, 32)
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "there is no such file. Give a file that ends in .gguf"),
        (b"PK\x03\x04", "is not a GGUF file: it does not begin with GGUF"),
        (b"GGUF", "cannot be read as a GGUF model"),
        (b"GGUF\x03\0\0\0" + b"\xff" * 16, "cannot be read as a GGUF model"),
        ("half", "cannot be read as a GGUF model"),
    ],
)
def test_what_is_no_gguf_model_is_a_sentence(
    content: bytes | str | None, sentence: str, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = tmp_path / "bad.gguf"
    if content is not None:
        whole = file.read_bytes()
        damaged.write_bytes(content if isinstance(content, bytes) else whole[: len(whole) // 2])
    assert main(["import", str(damaged), str(tmp_path / "out")]) == 2
    assert f"error: {damaged}: {sentence}" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_architecture_that_transformers_does_not_convert_is_a_sentence(tmp_path: Path) -> None:
    import gguf

    writer = gguf.GGUFWriter(tmp_path / "other.gguf", "marvin")
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file, writer.close):
        write()
    with pytest.raises(UserError, match="cannot be read as a GGUF model"):
        read_fields_and_tensors(tmp_path / "other.gguf", {}, torch.bfloat16)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("block_count", 10**9),
        ("block_count", 3),
        ("embedding_length", 10**6),
        ("feed_forward_length", 10**9),
        ("attention.head_count", 10**9),
    ],
)
def test_a_file_that_claims_a_larger_model_than_its_tensors_is_refused_before_it_is_made(
    name: str, value: int, file: Path, tmp_path: Path
) -> None:
    content = file.read_bytes()
    start = content.index(f"llama.{name}".encode()) + len(f"llama.{name}") + 4
    (tmp_path / "large.gguf").write_bytes(content[:start] + value.to_bytes(4, "little") + content[start + 4 :])
    with pytest.raises(UserError, match=rf"cannot be read as a GGUF model \(llama\.{name} is {value}, and its tensors have \d+ at most\)"):
        read_metadata(tmp_path / "large.gguf")


def test_weights_that_are_not_in_the_file_are_not_made_up(file: Path, tmp_path: Path) -> None:
    content = file.read_bytes()
    (tmp_path / "less.gguf").write_bytes(content.replace(b"blk.1.attn_q.weight", b"blk.1.attn_x.weight"))
    with pytest.raises(UserError, match=r"\(model\.layers\.1\.self_attn\.q_proj\.weight is not in it\)"):
        read_fields_and_tensors(tmp_path / "less.gguf", {}, torch.bfloat16)


def test_a_file_of_more_blocks_than_any_model_has_is_refused_before_it_is_made(tmp_path: Path) -> None:
    content = gguf_file(tmp_path / "deep.gguf", {}, tensors={f"blk.{block}.x": 1 for block in range(2, 301)}).read_bytes()
    start = content.index(b"llama.block_count") + len("llama.block_count") + 4
    (tmp_path / "deep.gguf").write_bytes(content[:start] + (301).to_bytes(4, "little") + content[start + 4 :])
    with pytest.raises(UserError, match=r"llama\.block_count is 301, and its tensors have 300 at most"):
        read_metadata(tmp_path / "deep.gguf")


def test_a_file_of_many_blocks_is_read_soon(tmp_path: Path) -> None:
    content = gguf_file(tmp_path / "deep.gguf", {}, tensors={f"blk.{block}.x": 1 for block in range(2, 300)}).read_bytes()
    start = content.index(b"llama.block_count") + len("llama.block_count") + 4
    (tmp_path / "deep.gguf").write_bytes(content[:start] + (300).to_bytes(4, "little") + content[start + 4 :])
    with cpu_time(at_most=20), pytest.raises(UserError, match="is not in it, and 2681 more"):
        read_fields_and_tensors(tmp_path / "deep.gguf", {}, torch.bfloat16)


def test_blocks_that_are_fewer_or_other_than_the_first_are_refused_before_a_model_is_made(tmp_path: Path) -> None:
    whole = gguf_file(tmp_path / "one.gguf", {}, tensors={"blk.2.x": 1}).read_bytes()
    start = whole.index(b"llama.block_count") + len("llama.block_count") + 4
    (tmp_path / "one.gguf").write_bytes(whole[:start] + (3).to_bytes(4, "little") + whole[start + 4 :])
    with pytest.raises(UserError, match="block 2 has 1 tensors, and block 0 has 9"):
        read_metadata(tmp_path / "one.gguf")
    gguf_file(tmp_path / "gap.gguf", {}, tensors={"blk.9.x": 1})
    with pytest.raises(UserError, match="it has 3 blocks, and the last is 9, which should be 2"):
        read_metadata(tmp_path / "gap.gguf")


def test_a_vocabulary_that_is_large_beside_the_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    import gguf

    writer = gguf.GGUFWriter(tmp_path / "empty.gguf", "llama")
    writer.add_token_list([""] * 500_000)
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file, writer.close):
        write()
    with cpu_time(at_most=2), pytest.raises(UserError, match=r"its lists have 500,000 items, and a file of 4,000,\d+ bytes has no weights"):
        read_metadata(tmp_path / "empty.gguf")


def test_tensors_that_share_their_bytes_are_refused(file: Path, tmp_path: Path) -> None:
    content = file.read_bytes()
    name = b"blk.1.attn_q.weight"
    start = content.index(name) + len(name) + 4 + 2 * 8 + 4  # dimensions, two sizes, type
    (tmp_path / "shared.gguf").write_bytes(content[:start] + bytes(8) + content[start + 8 :])
    with pytest.raises(UserError, match=r"has bytes of blk\.\d\.\w+\.weight"):
        read_metadata(tmp_path / "shared.gguf")


def test_sizes_under_the_name_of_another_architecture_are_refused(file: Path, tmp_path: Path) -> None:
    content = file.read_bytes()
    assert content.count(b"llama.vocab_size") == 1
    (tmp_path / "two.gguf").write_bytes(content.replace(b"llama.vocab_size", b"qwen2.vocab_size"))
    with pytest.raises(UserError, match=r"it has qwen2\.vocab_size, and its architecture is llama"):
        read_metadata(tmp_path / "two.gguf")
