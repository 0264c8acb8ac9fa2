import struct
from pathlib import Path

import pytest

from imprint.models.gguf_header import MAX_ENTRIES, MAX_ITEMS, walk_through_metadata


def text(content: bytes) -> bytes:
    return struct.pack("<Q", len(content)) + content


def head(*, tensors: int = 0, pairs: int = 0) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, pairs)


def listed(kind: int, count: int) -> bytes:
    return head(pairs=1) + text(b"a.b") + struct.pack("<IIQ", 9, kind, count)


def lists(number: int, count: int) -> bytes:
    return head(pairs=number) + (text(b"a.b") + struct.pack("<IIQ", 9, 0, count) + bytes(count)) * number


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (head(pairs=2**62), "4,611,686,018,427,387,904 settings or tensors, and no model has more than"),
        (head(tensors=MAX_ENTRIES + 1), "65,537 settings or tensors"),
        (head(pairs=1), "it ends in the middle of its metadata"),
        (head(pairs=1) + struct.pack("<Q", 2**62), "it ends in the middle of its metadata"),
        (listed(0, 2**61), "its lists have 2,305,843,009,213,693,952 items"),
        (lists(2, MAX_ITEMS // 2 + 1), "its lists have 1,572,866 items, and those of no model have more than 1,572,864"),
        (listed(0, MAX_ITEMS), "it ends in the middle of its metadata"),
        (listed(8, 3) + text(b"x"), "it ends in the middle of its metadata"),
        (listed(9, 1), "a value is of the type 9, or a list of lists"),
        (head(pairs=1) + text(b"a") + struct.pack("<I", 77), "a value is of the type 77"),
        (head(tensors=1) + text(b"t") + struct.pack("<I", 2**31), "a tensor has 2,147,483,648 dimensions"),
        (b"GG", "it ends in the middle of its metadata"),
    ],
)
def test_metadata_of_which_a_file_has_not_the_bytes_are_refused(tmp_path: Path, content: bytes, sentence: str) -> None:
    (tmp_path / "x.gguf").write_bytes(content)
    with pytest.raises(ValueError, match=sentence):
        walk_through_metadata(tmp_path / "x.gguf")


def test_sound_metadata_in_either_order_of_bytes_are_gone_through(tmp_path: Path) -> None:
    for order in "<>":
        key = struct.pack(f"{order}Q", 1) + b"k"
        values = [(4, struct.pack(f"{order}I", 7)), (8, key), (9, struct.pack(f"{order}IQ", 8, 2) + key * 2)]
        pairs = b"".join(key + struct.pack(f"{order}I", kind) + value for kind, value in values)
        tensor = key + struct.pack(f"{order}IQQIQ", 2, 4, 4, 0, 0)
        (tmp_path / "x.gguf").write_bytes(b"GGUF" + struct.pack(f"{order}IQQ", 3, 1, 3) + pairs + tensor)
        assert walk_through_metadata(tmp_path / "x.gguf") == {"k": 16}
        (tmp_path / "x.gguf").write_bytes((tmp_path / "x.gguf").read_bytes()[:-1])
        with pytest.raises(ValueError, match="in the middle of its metadata"):
            walk_through_metadata(tmp_path / "x.gguf")
