import zipfile
from pathlib import Path

import pytest
import torch

from imprint.files import pickles
from imprint.files.pickles import refuse_endless_weights

LEGACY_HEAD = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19." + b"\x80\x02M\xe9\x03." + b"\x80\x02}q\x00."


def doubled(levels: int) -> bytes:
    """A pickle of a dict whose key is a tuple of tuples, each of them twice the one before."""
    pairs = b"".join(b"h" + bytes([level]) + b"\x86q" + bytes([level + 1]) for level in range(1, levels))
    return b"\x80\x02}q\x00(K\x01\x85q\x01" + pairs + b"K\x01u."


def repacked(file: Path, pickle: bytes | None = None, *, name: str = "data.pkl", compression: int = zipfile.ZIP_STORED) -> Path:
    """A file of weights with another pickle, or packed in another way."""
    torch.save({"a": torch.zeros(4)}, file)
    with zipfile.ZipFile(file) as archive:
        entries = {entry: archive.read(entry) for entry in archive.namelist()}
    with zipfile.ZipFile(file, "w", compression) as archive:
        for entry, content in entries.items():
            is_pickle = entry.endswith("data.pkl")
            archive.writestr(entry.replace("data.pkl", name), pickle if is_pickle and pickle is not None else content)
    return file


@pytest.mark.parametrize("zipped", [True, False])
def test_what_torch_writes_is_read_also_where_tensors_are_shared(tmp_path: Path, zipped: bool) -> None:  # noqa: FBT001
    shared = torch.nn.Parameter(torch.zeros(4, 2))
    state = {"a": shared, "b": shared, "c": shared.detach()[1:], **{f"x{number}": torch.ones(3) for number in range(300)}}
    torch.save(state, tmp_path / "file.bin", _use_new_zipfile_serialization=zipped)
    refuse_endless_weights(tmp_path / "file.bin")
    assert torch.load(tmp_path / "file.bin", weights_only=True).keys() == state.keys()


def test_a_tuple_that_would_take_for_ever_to_hash_is_refused(tmp_path: Path) -> None:
    for file in (repacked(tmp_path / "one.bin", doubled(40)), repacked(tmp_path / "two.bin", doubled(40), name="DATA.PKL")):
        with pytest.raises(ValueError, match="a value that holds others is used twice"):
            refuse_endless_weights(file)
    behind = repacked(tmp_path / "zip.bin").read_bytes()
    for end in (b"", behind):  # a sound archive at the end of the file hides nothing
        (tmp_path / "old.bin").write_bytes(LEGACY_HEAD + doubled(40) + end)
        with pytest.raises(ValueError, match="a value that holds others is used twice"):
            refuse_endless_weights(tmp_path / "old.bin")


def test_a_description_that_unpacks_to_any_size_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickles, "MAX_BYTES", 2**16)
    with pytest.raises(ValueError, match="its description is compressed, or larger than that of any model"):
        refuse_endless_weights(repacked(tmp_path / "file.bin", compression=zipfile.ZIP_DEFLATED))
    with pytest.raises(ValueError, match="its description is compressed, or larger than that of any model"):
        refuse_endless_weights(repacked(tmp_path / "file.bin", b"N" * 2**17))
    (tmp_path / "old.bin").write_bytes(b"\x80\x02(" + b"N" * 2**17)
    with pytest.raises(ValueError, match="its description is larger than that of any model"):
        refuse_endless_weights(tmp_path / "old.bin")
