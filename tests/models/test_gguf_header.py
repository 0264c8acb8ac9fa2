import struct
from pathlib import Path

import pytest

from imprint.models.gguf_header import MAX_ITEMS, refuse_endless_metadata


def text(content: bytes) -> bytes:
    return struct.pack("<Q", len(content)) + content


def head(*, tensors: int = 0, pairs: int = 0) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, pairs)


def listed(kind: int, count: int) -> bytes:
    return head(pairs=1) + text(b"a.b") + struct.pack("<IIQ", 9, kind, count)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (head(pairs=2**62), "a list of 4,611,686,018,427,387,904, and no model has more than"),
        (head(tensors=MAX_ITEMS + 1), "a list of 4,194,305"),
        (head(pairs=1), "it ends in the middle of its metadata"),
        (head(pairs=1) + struct.pack("<Q", 2**62), "it ends in the middle of its metadata"),
        (listed(0, 2**61), "a list of 2,305,843,009,213,693,952"),
        (listed(0, MAX_ITEMS), "it ends in the middle of its metadata"),
        (listed(8, 3) + text(b"x"), "it ends in the middle of its metadata"),
        (listed(9, 1), "a value is of the type 9, or a list of lists"),
        (head(pairs=1) + text(b"a") + struct.pack("<I", 77), "a value is of the type 77"),
        (head(tensors=1) + text(b"t") + struct.pack("<I", 2**31), "it ends in the middle of its metadata"),
        (b"GG", "it ends in the middle of its metadata"),
    ],
)
def test_metadata_of_which_a_file_has_not_the_bytes_are_refused(tmp_path: Path, content: bytes, sentence: str) -> None:
    (tmp_path / "x.gguf").write_bytes(content)
    with pytest.raises(ValueError, match=sentence):
        refuse_endless_metadata(tmp_path / "x.gguf")


def test_sound_metadata_in_either_order_of_bytes_are_gone_through(tmp_path: Path) -> None:
    for order in "<>":
        key = struct.pack(f"{order}Q", 1) + b"k"
        values = [(4, struct.pack(f"{order}I", 7)), (8, key), (9, struct.pack(f"{order}IQ", 8, 2) + key * 2)]
        pairs = b"".join(key + struct.pack(f"{order}I", kind) + value for kind, value in values)
        tensor = key + struct.pack(f"{order}IQQIQ", 2, 4, 4, 0, 0)
        (tmp_path / "x.gguf").write_bytes(b"GGUF" + struct.pack(f"{order}IQQ", 3, 1, 3) + pairs + tensor)
        refuse_endless_metadata(tmp_path / "x.gguf")
        (tmp_path / "x.gguf").write_bytes((tmp_path / "x.gguf").read_bytes()[:-1])
        with pytest.raises(ValueError, match="in the middle of its metadata"):
            refuse_endless_metadata(tmp_path / "x.gguf")
