import struct
import time
import zipfile
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch

from imprint.files import pickles, torch_files
from imprint.files.torch_files import read_torch_file
from imprint.messages import UserError
from imprint.models.checkpoint import load_pickle

LEGACY_HEAD = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19." + b"\x80\x02M\xe9\x03." + b"\x80\x02}q\x00."


def doubled(levels: int) -> bytes:
    """A pickle of a dict whose key is a tuple of tuples, each of them twice the one before."""
    pairs = b"".join(b"h" + bytes([level]) + b"\x86q" + bytes([level + 1]) for level in range(1, levels))
    return b"\x80\x02}q\x00(K\x01\x85q\x01" + pairs + b"K\x01u."


def put_twice(levels: int) -> bytes:
    """As `doubled`, but each tuple is put in the memo twice, and taken from its second place."""
    pairs = b"".join(b"h%ch%c\x86q%cq%c" % (2 * level, 2 * level, 2 * level + 1, 2 * level + 2) for level in range(1, levels))
    return b"\x80\x02}q\x00(K\x01\x85q\x01q\x02" + pairs + b"K\x01u."


def with_two_contents(file: Path, pickle: bytes, *, compression: int = zipfile.ZIP_STORED) -> Path:
    """An archive with two tables of contents: that of a sound one stands right before the end, and another is where the end says."""
    hostile = repacked(file, pickle, compression=compression).read_bytes()
    mark = hostile.rindex(b"PK\5\6")
    length, start = struct.unpack("<II", hostile[mark + 12 : mark + 20])
    file.write_bytes(hostile[: start + length] + hostile[start : start + length] + hostile[mark:])
    return file


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
    assert read_torch_file(tmp_path / "file.bin").keys() == state.keys()


def test_a_checkpoint_with_the_state_of_an_optimizer_of_several_groups_is_read(tmp_path: Path) -> None:
    network = torch.nn.Linear(3, 2)
    groups: list[dict[str, Any]] = [{"params": [network.weight]}, {"params": [network.bias], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=(0.8, 0.9))
    network(torch.ones(3)).sum().backward()
    optimizer.step()
    torch.save({"model": network.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "file.bin")
    assert read_torch_file(tmp_path / "file.bin").keys() == {"model", "optimizer"}


def test_a_key_that_would_take_for_ever_to_hash_is_left_out_with_its_value(tmp_path: Path) -> None:
    assert read_torch_file(repacked(tmp_path / "one.bin", doubled(40))) == {}
    with pytest.raises(ValueError, match="it is an archive of something else"):
        read_torch_file(repacked(tmp_path / "two.bin", doubled(40), name="DATA.PKL"))
    behind = repacked(tmp_path / "zip.bin").read_bytes()
    for end in (b"", behind):  # a sound archive at the end of the file hides nothing
        (tmp_path / "old.bin").write_bytes(LEGACY_HEAD + doubled(40) + b"\x80\x02]." + end)
        assert read_torch_file(tmp_path / "old.bin") == {}


@pytest.mark.parametrize("kind", ["tuple", "list", "dict"])
def test_values_that_are_used_again_and_again_in_one_another_are_refused(tmp_path: Path, kind: str) -> None:
    pickle = doubled(30).replace(b"K\x01u.", b"").replace(b"}q\x00(", b"") + b"."
    if kind != "tuple":  # each holds the one before twice
        fill = (b"](h\x01h\x01e", b"}(K\x01h\x01K\x02h\x01u")[kind == "dict"]
        pickle = b"\x80\x02]q\x01" + b"".join(fill + b"q\x01" for _level in range(30)) + b"."
    begin = time.process_time()
    with pytest.raises(ValueError, match="values that hold others are used again and again in it"):
        read_torch_file(repacked(tmp_path / "file.bin", pickle))
    assert time.process_time() - begin < 5


def test_values_that_are_used_twice_are_read(tmp_path: Path) -> None:
    weights, settings = {"w": torch.arange(3.0)}, {"lr": 0.1, "layers": [1, 2], "pairs": ((1, 2), (3, 4))}
    content = {"model": weights, "ema": weights, "settings": settings, "groups": [settings, {"inner": settings}], "empty": [{}] * 2}
    torch.save(content, tmp_path / "file.bin")

    read = read_torch_file(tmp_path / "file.bin")

    assert {name: read[name] for name in ("settings", "groups", "empty")} == {
        name: content[name] for name in ("settings", "groups", "empty")
    }
    assert read["model"]["w"].tolist() == read["ema"]["w"].tolist() == [0, 1, 2]
    assert load_pickle(tmp_path / "file.bin")["w"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    ("beside", "read_as"),
    [
        ({140234567890123: {"step": 3, "exp_avg": torch.ones(2)}}, {}),
        ({0: 4.0, 100_000: 0.5}, {0: 4.0}),
        ({0.5: 1, (0, 1): 2, "a": 3}, {"a": 3}),
        ({1, 100_000, "a"}, {1, "a"}),
        (1 + 2j, 1 + 2j),
        (bytearray(b"a\xff"), b"a\xff"),
        (bytearray(), b""),
    ],
    ids=["ids", "steps", "other keys", "set", "complex", "bytearray", "empty"],
)
def test_weights_are_read_whatever_torch_reads_beside_them(tmp_path: Path, beside: Any, read_as: Any, *, zipped: bool) -> None:
    torch.save({"model": {"w": torch.arange(3.0)}, "other": [beside]}, tmp_path / "file.bin", _use_new_zipfile_serialization=zipped)
    assert torch.load(tmp_path / "file.bin", weights_only=True)

    assert read_torch_file(tmp_path / "file.bin")["other"] == [read_as]
    assert load_pickle(tmp_path / "file.bin")["w"].tolist() == [0, 1, 2]


def test_the_states_of_schedulers_are_read_beside_weights(tmp_path: Path) -> None:
    network = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(network.parameters())
    schedules = torch.optim.lr_scheduler
    parts: list[Any] = [schedules.LinearLR(optimizer), schedules.CosineAnnealingLR(optimizer, 10)]
    states = [schedules.SequentialLR(optimizer, parts, [5]).state_dict(), schedules.MultiStepLR(optimizer, [60_000, 80_000]).state_dict()]
    torch.save({"model": network.state_dict(), "schedulers": states}, tmp_path / "file.bin")

    assert load_pickle(tmp_path / "file.bin").keys() == {"weight", "bias"}


def test_a_description_that_unpacks_to_any_size_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickles, "MAX_BYTES", 2**16)
    monkeypatch.setattr(torch_files, "MAX_BYTES", 2**16)
    with pytest.raises(ValueError, match="its description is compressed, or larger than that of any model"):
        read_torch_file(repacked(tmp_path / "file.bin", compression=zipfile.ZIP_DEFLATED))
    with pytest.raises(ValueError, match="its description is compressed, or larger than that of any model"):
        read_torch_file(repacked(tmp_path / "file.bin", b"N" * 2**17))
    (tmp_path / "old.bin").write_bytes(b"\x80\x02(" + b"N" * 2**17)
    with pytest.raises(ValueError, match="its description is larger than that of any model"):
        read_torch_file(tmp_path / "old.bin")
    monkeypatch.undo()
    monkeypatch.setattr(pickles, "MAX_OPERATIONS", 2**10)
    with pytest.raises(ValueError, match="its description is larger than that of any model"):
        read_torch_file(repacked(tmp_path / "file.bin", b"\x80\x02](" + b"}" * 2**10 + b"e."))


def test_a_tuple_that_is_put_in_the_memo_twice_is_still_one(tmp_path: Path) -> None:
    assert read_torch_file(repacked(tmp_path / "one.bin", put_twice(41))) == {}


def test_the_last_of_the_five_pickles_of_a_legacy_file_is_examined_too(tmp_path: Path) -> None:
    (tmp_path / "old.bin").write_bytes(LEGACY_HEAD + b"\x80\x02}." + doubled(40))
    with pytest.raises(ValueError, match="it lists other keys than its tensors have"):
        read_torch_file(tmp_path / "old.bin")


def test_keys_that_have_one_hash_are_left_out(tmp_path: Path) -> None:
    keys = b"".join(b"\x8a\x09" + (number * (2**61 - 1)).to_bytes(9, "little") + b"N" for number in range(1, 9))
    for pickle in (b"}(" + keys + b"u", b"}K\x01\x85Ns", b"ccollections\nOrderedDict\n](K\x01\x85N\x86e\x85R"):
        assert read_torch_file(repacked(tmp_path / "file.bin", b"\x80\x02" + pickle + b".")) == {}
    assert read_torch_file(repacked(tmp_path / "file.bin", b"\x80\x02c__builtin__\nset\n](K\x01\x85e\x85R.")) == frozenset()


def test_an_archive_of_which_python_and_torch_could_read_different_contents_is_refused(tmp_path: Path) -> None:
    for file in (
        with_two_contents(tmp_path / "one.bin", doubled(40)),
        with_two_contents(tmp_path / "two.bin", b"N" * 2**16, compression=zipfile.ZIP_DEFLATED),
    ):
        with pytest.raises(ValueError, match="its table of contents is not right before its end"):
            read_torch_file(file)


@pytest.mark.parametrize(
    ("pickle", "reason"),
    [
        (b"}X\x01\x00\x00\x00aK\x01" + b"\x85" * 40 + b"s", "more than 32 levels"),
        (b"]q\x00h\x00a", "more than 32 levels"),
        (b"c__builtin__\nbytearray\n\x8a\x05\xff\xff\xff\xff\x7f\x85R", "it calls for __builtin__.bytearray"),
        (b"cbuiltins\nbytearray\n\x8a\x05\xff\xff\xff\xff\x7f\x85R", "it calls for builtins.bytearray"),
        (b"c_codecs\nencode\nX\x01\x00\x00\x00aX\x08\x00\x00\x00punycode\x86R", "it calls for _codecs.encode"),
        (b"ccollections\nOrderedDict\n](NNe\x85R", "a key without a value"),
        (b"ctorch._tensor\n_rebuild_from_type_v2\n(ccollections\nOrderedDict\nNNNtR", "it calls for torch._tensor"),
        (b"ctorch._utils\n_rebuild_wrapper_subclass\n)R", "it calls for torch._utils._rebuild_wrapper_subclass"),
        (b"X\x07\x00\x00\x00storagectorch\nFloatStorage\n(K\x01K\x02tq\x00Q", "in an unknown way"),
        (b"\x8f", "operation EMPTY_SET"),
        (b"s", "damaged"),
    ],
)
def test_a_pickle_that_is_not_written_for_tensors_is_refused(tmp_path: Path, pickle: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        read_torch_file(repacked(tmp_path / "file.bin", b"\x80\x02" + pickle + b"."))


def test_damage_anywhere_in_a_pickle_takes_no_longer_than_the_pickle(tmp_path: Path) -> None:
    random = Random(1)
    torch.save({"a": torch.nn.Parameter(torch.zeros(4)), "b": torch.zeros(2)}, tmp_path / "sound.bin", _use_new_zipfile_serialization=False)
    sound = (tmp_path / "sound.bin").read_bytes()
    begin = time.process_time()
    for _ in range(100):
        damaged, place = bytearray(sound), random.randrange(len(sound))
        damaged[place : place + random.randrange(3)] = random.choice([b"h\1", b"q\1", b"(", b"\x86", b"R", b"t", b"\xff"])
        (tmp_path / "file.bin").write_bytes(damaged)
        with suppress(UserError):
            load_pickle(tmp_path / "file.bin")
    assert time.process_time() - begin < 5
