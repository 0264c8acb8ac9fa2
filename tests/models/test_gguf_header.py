import struct
from pathlib import Path

import pytest

from imprint.models.gguf_header import FREE_ITEMS, MAX_ENTRIES, MAX_ITEMS, walk_through_metadata


def text(content: bytes) -> bytes:
    return struct.pack("<Q", len(content)) + content


def head(*, tensors: int = 0, pairs: int = 0) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, pairs)


def listed(kind: int, count: int, key: bytes = b"tokenizer.ggml.tokens") -> bytes:
    return head(pairs=1) + text(key) + struct.pack("<IIQ", 9, kind, count)


def lists(number: int, count: int) -> bytes:
    return head(pairs=number) + (text(b"tokenizer.ggml.tokens") + struct.pack("<IIQ", 9, 8, count) + bytes(8 * count)) * number


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (head(pairs=2**62), "4,611,686,018,427,387,904 settings or tensors, and no model has more than"),
        (head(tensors=MAX_ENTRIES + 1), "65,537 settings or tensors"),
        (head(pairs=1), "it ends in the middle of its metadata"),
        (head(pairs=1) + struct.pack("<Q", 2**16), "it ends in the middle of its metadata"),
        (listed(8, 2**61), "its lists have 2,305,843,009,213,693,952 items"),
        (listed(8, MAX_ITEMS + 1), "its lists have 1,572,865 items, and those of no model have more than 1,572,864"),
        (lists(2, 50_000), r"its lists have 100,000 items, and a file of 800,\d+ bytes has no weights for so many"),
        (listed(8, FREE_ITEMS), "it ends in the middle of its metadata"),
        (listed(8, 3) + text(b"x"), "it ends in the middle of its metadata"),
        (listed(9, 1, b"a.b"), "a value is of the type 9, or a list of lists"),
        (head(pairs=1) + text(b"a") + struct.pack("<I", 77), "a value is of the type 77"),
        (head(tensors=1) + text(b"t") + struct.pack("<I", 2**31), "a tensor has 2,147,483,648 dimensions"),
        (listed(4, 2), r"tokenizer\.ggml\.tokens is a list of uint32, and must be one of string"),
        (listed(8, 2, b"tokenizer.ggml.scores"), r"tokenizer\.ggml\.scores is a list of string, and must be one of float32"),
        (listed(6, 2, b"tokenizer.ggml.scores") + bytes(8), r"tokenizer\.ggml\.scores has 2 items, and the vocabulary has 0 tokens"),
        (listed(0, 4097, b"a.b"), r"a\.b is a list of 4,097, and all but the vocabulary have no more than 4,096 together"),
        (head(pairs=1) + struct.pack("<Q", 2**16 + 1), "a name has 65,537 bytes, and none may have more than 65,536"),
        (head(tensors=1) + text(b"t") + struct.pack("<IQQIQ", 2, 0, 2**40, 0, 0), "t is a tensor without numbers"),
        (head(tensors=1) + text(b"t") + struct.pack("<IQQIQ", 2, 2**40, 2**40, 0, 0), "its 65 bytes hold fewer"),
        (b"GG", "it ends in the middle of its metadata"),
    ],
)
def test_metadata_that_no_model_has_or_a_file_has_not_the_bytes_of_are_refused(tmp_path: Path, content: bytes, sentence: str) -> None:
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
