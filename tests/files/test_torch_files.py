"""What a file of `torch.save` may hold, and that every number of it comes from the file."""

import io
import pickle
import struct
import tarfile
import time
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from imprint.files.torch_files import read_torch_file
from imprint.messages import UserError
from imprint.models.checkpoint import load_pickle

HEAD = (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True, "protocol_version": 1001, "type_sizes": {"int": 4, "long": 4, "short": 2}})
NUMBERS = (1.0, 2.0, 3.0)


class Call:
    """Pickled as a call, after which a state is set and items are put into what was returned."""

    def __init__(self, function: Any, *arguments: Any, state: Any = None, items: dict[Any, Any] | None = None) -> None:
        self.parts = (function, arguments, state, None, iter((items or {}).items()))

    def __reduce__(self) -> Any:
        return self.parts


class Stored:
    """Pickled as what a tensor stores."""

    def __init__(self, key: str = "0", count: int = 3, kind: Any = torch.FloatStorage, part: Any = ()) -> None:
        self.named = ("storage", kind, key, "cpu", count, *part)


class Writer(pickle.Pickler):
    def persistent_id(self, obj: Any) -> Any:
        return obj.named if isinstance(obj, Stored) else None


def dense(stored: Stored | None = None, size: Any = (3,), stride: Any = (1,), offset: Any = 0) -> Call:
    return Call(torch._utils._rebuild_tensor_v2, stored or Stored(), offset, size, stride, False, OrderedDict())


def pickled(value: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    stream = io.BytesIO()
    Writer(stream, 2).dump(value)
    return stream.getvalue()


def archive(file: Path, value: Any, **others: bytes) -> Path:
    """An archive of a value, with the numbers of one storage."""
    with zipfile.ZipFile(file, "w") as written:
        for name, content in {"data.pkl": pickled(value), "data/0": struct.pack("<3f", *NUMBERS), **others}.items():
            written.writestr(f"file/{name}", content)
    return file


def older(file: Path, value: Any, keys: Any = ("0",), counts: tuple[int, ...] = (3,)) -> Path:
    """A file as from before torch 1.6."""
    numbers = (struct.pack("<q", count) + struct.pack("<3f", *NUMBERS) for count in counts)
    file.write_bytes(b"".join(map(pickled, (*HEAD, value, list(keys)))) + b"".join(numbers))
    return file


def bytes_of(tensor: Tensor) -> list[int]:
    flat: list[int] = tensor.detach().clone(memory_format=torch.contiguous_format).view(-1).view(torch.uint8).tolist()
    return flat


WRITERS = pytest.mark.parametrize("written", [archive, older])


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.filterwarnings("ignore::UserWarning")  # of torch's own quantization
def test_tensors_of_every_kind_are_read_as_torch_reads_them(tmp_path: Path, zipped: bool) -> None:  # noqa: FBT001
    whole = torch.arange(12.0).view(3, 4)
    kinds = (torch.bfloat16, torch.float16, torch.float64, torch.int8, torch.uint8, torch.bool, torch.int64, torch.int32, torch.int16)
    kinds += (torch.complex64, *((torch.uint16, torch.float8_e4m3fn) if zipped else ()))  # torch does not read those of an older file
    state = {
        "views": [whole[:2], whole.t(), whole[:, 1], whole[1, 1], whole[3:], whole.expand(2, 3, 4)],
        "kinds": [whole.to(kind) for kind in kinds],
        "parameter": torch.nn.Parameter(whole),
        "buffer": torch.nn.Buffer(whole),
        "empty": torch.empty(0, 4),
    }
    torch.save(state, tmp_path / "file.bin", _use_new_zipfile_serialization=zipped)
    ours, theirs = read_torch_file(tmp_path / "file.bin"), torch.load(tmp_path / "file.bin", weights_only=True)
    for name in state:
        for one, other in zip(*((found if isinstance(found, list) else [found]) for found in (ours[name], theirs[name])), strict=True):
            assert (one.dtype, one.shape, one.stride()) == (other.dtype, other.shape, other.stride())
            assert bytes_of(one) == bytes_of(other)
    assert ours["views"][0].untyped_storage().data_ptr() == ours["views"][2].untyped_storage().data_ptr()


@pytest.mark.parametrize("zipped", [True, False])
def test_what_checkpoints_hold_beside_tensors_is_read(tmp_path: Path, zipped: bool) -> None:  # noqa: FBT001
    plain = {
        "size": (3, 4),
        "text": "权重",
        "bytes": b"x\xff",
        "set": {1, "a"},
        "count": Counter("aab"),
        "ranks": {-1: 2, None: 3, True: 1},
    }
    plain |= {"numbers": [1, -1, 2**70, 0.5, None, True], "twice": [(0.9, 0.99)] * 2}
    torch.save({**plain, "device": torch.device("cpu"), "type": torch.float16}, tmp_path / "a.bin", _use_new_zipfile_serialization=zipped)
    read = read_torch_file(tmp_path / "a.bin")
    assert {name: read[name] for name in plain} == plain


@WRITERS
def test_two_states_of_one_network_share_what_is_said_of_its_version(tmp_path: Path, written: Callable[..., Path]) -> None:
    told = OrderedDict({"": {"version": 1}})
    both = {name: Call(OrderedDict, state={"_metadata": told}, items={"w": dense()}) for name in ("model", "ema")}
    assert load_pickle(written(tmp_path / "file.bin", both))["w"].tolist() == [1, 2, 3]


@WRITERS
def test_an_ordered_dict_of_python_2_is_read(tmp_path: Path, written: Callable[..., Path]) -> None:
    assert load_pickle(written(tmp_path / "file.bin", Call(OrderedDict, [["w", dense()]])))["w"].tolist() == [1, 2, 3]


def test_numbers_of_the_other_byte_order_are_read(tmp_path: Path) -> None:
    written = archive(tmp_path / "file.bin", {"w": dense()}, byteorder=b"big", **{"data/0": struct.pack(">3f", *NUMBERS)})
    assert load_pickle(written)["w"].tolist() == [1, 2, 3]
    for other in (b"middle", b"\xff", b"little" * 2**10):
        with pytest.raises(ValueError, match=r"the order of its bytes is unknown|can't decode"):
            read_torch_file(archive(tmp_path / "file.bin", {"w": dense()}, byteorder=other))


def test_an_older_file_begins_with_its_two_numbers(tmp_path: Path) -> None:
    tensor = Call(torch._utils._rebuild_meta_tensor_no_storage, torch.float32, (3,), (1,), False)
    for head in ((1, *HEAD[1:]), (HEAD[0], 1.0, HEAD[2]), (tensor, *HEAD[1:]), (HEAD[0], tensor, HEAD[2])):
        (tmp_path / "file.bin").write_bytes(b"".join(map(pickled, (*head, {}, []))))
        with pytest.raises(ValueError, match="it is no file of tensors"):
            read_torch_file(tmp_path / "file.bin")


def test_an_older_file_that_is_a_tar_too_is_never_read_as_one(tmp_path: Path) -> None:
    records = b"6 a=b\n" * 2**16
    header = tarfile.TarInfo("n" * 90)
    header.size, header.type = len(records), tarfile.XHDTYPE
    block = bytearray(header.tobuf(tarfile.USTAR_FORMAT) + records + bytes(-len(records) % 512) + bytes(1024))
    block[:7] = b"\x80\x02X" + struct.pack("<I", len(block) - 7)
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block[:512])
    assert tarfile.TarInfo.frombuf(bytes(block[:512]), "latin-1", "strict").size == len(records)
    (tmp_path / "file.bin").write_bytes(bytes(block) + b"." + pickle.dumps([], 2) * 4)
    begin = time.process_time()
    with pytest.raises(UserError, match="it is no file of tensors"):
        load_pickle(tmp_path / "file.bin")
    assert time.process_time() - begin < 1


@WRITERS
@pytest.mark.parametrize("name", ["items", "keys", "values", "__class__"])
def test_what_is_set_of_a_dict_hides_nothing_in_it(tmp_path: Path, written: Callable[..., Path], name: str) -> None:
    for function in (OrderedDict, "x"):
        hidden = Call(OrderedDict, state={name: function}, items={"w": dense(size=(2**40,), stride=(0,))})
        with pytest.raises(UserError, match="and the file holds only 12 bytes for it, which are repeated"):
            load_pickle(written(tmp_path / "file.bin", hidden))


@WRITERS
@pytest.mark.parametrize("name", ["numel", "untyped_storage", "to", "data", "requires_grad", "__class__"])
def test_what_is_set_of_a_tensor_changes_nothing_of_it(tmp_path: Path, written: Callable[..., Path], name: str) -> None:
    tensor: tuple[Any, ...] = (torch._utils._rebuild_tensor_v2, torch.Tensor, (Stored(), 0, (3,), (1,), False, OrderedDict()), {name: "x"})
    parameter: tuple[Any, ...] = (dense(), False, OrderedDict(), {name: "x"})
    content = {
        "a": Call(torch._tensor._rebuild_from_type_v2, *tensor),
        "b": Call(torch._utils._rebuild_parameter_with_state, *parameter),
    }
    for read in load_pickle(written(tmp_path / "file.bin", content)).values():
        assert vars(read) == {}
        assert read.tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("keys", "counts", "reason"),
    [
        ((), (), "it lists other keys"),
        (("0", "1"), (3, 3), "it lists other keys"),
        (("0", "0"), (3, 3), "it lists other keys"),
        (("1",), (3,), "it lists other keys"),
        ((["0"],), (3,), "it lists other keys"),
        (("0",), (2,), "another count of them"),
        (("0",), (), "ends before the numbers"),
    ],
)
def test_an_older_file_has_numbers_for_every_tensor(tmp_path: Path, keys: Any, counts: tuple[int, ...], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        read_torch_file(older(tmp_path / "file.bin", {"w": dense()}, keys, counts))


@WRITERS
@pytest.mark.parametrize(
    ("tensor", "reason"),
    [
        (dense(size=(4,)), "not within what it stores"),
        (dense(offset=1), "not within what it stores"),
        (dense(size=(2, 2), stride=(2, 1)), "not within what it stores"),
        (dense(offset=2**62), "in an unknown way"),
        (dense(size=(2**40, 2**40), stride=(0, 0)), "in an unknown way"),
        (dense(size=(-1,)), "in an unknown way"),
        (dense(size=(3,), stride=(-1,)), "in an unknown way"),
        (dense(size=(1,) * 65, stride=(1,) * 65), "in an unknown way"),
        (dense(size=(True,)), "in an unknown way"),
        (dense(size=[3]), "in an unknown way"),
        (dense(Stored(count=-3)), "names what a tensor stores in an unknown way"),
        (dense(Stored(kind=torch.nn.Linear)), "names what a tensor stores in an unknown way"),
        ([dense(), dense(Stored(count=2), size=(2,))], "in two ways"),
        ([dense(), dense(Stored(kind=torch.IntStorage))], "in two ways"),
    ],
)
def test_a_tensor_outside_of_what_it_stores_is_refused(tmp_path: Path, written: Callable[..., Path], tensor: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        read_torch_file(written(tmp_path / "file.bin", {"w": tensor}))


@pytest.mark.parametrize("stored", [Stored(count=4), Stored(key="1"), Stored(key="../data/0"), Stored(kind=torch.DoubleStorage)])
def test_an_archive_that_has_fewer_numbers_than_it_names_is_refused(tmp_path: Path, stored: Stored) -> None:
    with pytest.raises(ValueError, match="it has fewer numbers than it names"):
        read_torch_file(archive(tmp_path / "file.bin", {"w": dense(stored)}))


def test_a_part_of_what_is_stored_in_an_older_file_is_within_it(tmp_path: Path) -> None:
    for first, length in ((1, 3), (4, 0), (-1, 2), (1, 2**62)):
        with pytest.raises(ValueError, match="it names a part of what a tensor stores in an unknown way"):
            read_torch_file(older(tmp_path / "file.bin", dense(Stored(part=[("7", first, length)]), size=(1,))))
    part = Stored(part=[("7", 1, 2)])
    with pytest.raises(ValueError, match="not within what it stores"):
        read_torch_file(older(tmp_path / "file.bin", dense(part)))
    assert read_torch_file(older(tmp_path / "file.bin", dense(part, size=(2,)))).tolist() == [2, 3]
    assert read_torch_file(older(tmp_path / "file.bin", dense(Stored(part=[None])))).tolist() == [1, 2, 3]


def test_names_of_a_pickle_import_nothing(tmp_path: Path) -> None:
    tensor: tuple[Any, ...] = (Stored(kind=torch.UntypedStorage, count=12), 0, (3,), (1,), False, OrderedDict())
    written = pickled(Call(torch._utils._rebuild_tensor_v3, *tensor, torch.float32))
    for name in (b"torch\n_inductor", b"torch\nnn", b"torch\n", b"os\nfloat32"):
        named = written.replace(b"ctorch\nfloat32", b"c" + name)
        assert read_torch_file(archive(tmp_path / "file.bin", named)).is_meta
    assert read_torch_file(archive(tmp_path / "file.bin", written)).tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    "call",
    [
        b"ctorch._utils\n_rebuild_tensor\nq\1((X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\0\x30X\3\0\0\0cpuK\1tQK\0K\1\x85K\1\x85t",
        b"ctorch._utils\n_rebuild_meta_tensor_no_storage\nq\1)",
        b"c_codecs\nencode\nq\1X\0\1\0\0" + b"a" * 2**8 + b"X\6\0\0\0latin1\x86",
        pytest.param(b"c__builtin__\nset\nq\1](" + b"K\1" * 2**8 + b"e\x85", marks=pytest.mark.long),
        pytest.param(b"ccollections\nOrderedDict\nq\1](" + b"K\1K\1\x86" * 2**8 + b"e\x85", marks=pytest.mark.long),
    ],
)
def test_a_call_that_is_made_again_and_again_makes_no_more_than_a_model_has(tmp_path: Path, call: bytes) -> None:
    again = b"\x80\x02" + call + b"q\2](" + b"h\1h\2R" * 2**17 + b"e."
    with pytest.raises(ValueError, match="its calls make more than any model has"):
        read_torch_file(archive(tmp_path / "file.bin", again))


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.filterwarnings("ignore::UserWarning")  # of torch's own quantization
def test_a_tensor_that_is_not_dense_has_no_data(tmp_path: Path, zipped: bool) -> None:  # noqa: FBT001
    values = torch.ones(2, 2)
    odd: list[Tensor] = [values.to_sparse(), values.to(torch.complex64).conj(), values.to("meta"), values.to_sparse_csr()]
    odd.append(torch.quantize_per_channel(values, torch.ones(2), torch.zeros(2), 0, torch.qint8))
    torch.save([*odd, values], tmp_path / "file.bin", _use_new_zipfile_serialization=zipped)
    *read, plain = read_torch_file(tmp_path / "file.bin")
    assert all(one.is_meta for one in read)
    assert plain.equal(values)
