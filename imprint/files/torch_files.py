"""Reads what `torch.save` wrote: tensors in dicts and lists, in its archive, or in the older format from before torch 1.6.

The file may be a stranger's. torch's own reader runs no code of theirs, and yet unpacks a few bytes to any number, takes a file for a tar,
shows memory that it has not filled, or sets attributes that hide what a tensor is. So it is not used: every number comes from a
place in the file that is known to be there.
"""

import io
import struct
import sys
import zipfile
from pathlib import Path
from typing import IO, Any, Final

import torch

from imprint.files.pickles import MAX_BYTES, Unpickled

ZIP_START: Final = b"PK\x03\x04"
MAGIC: Final = 0x1950A86A20F9469CFC6C
VERSION: Final = 1001
"""With what a file from before torch 1.6 begins: pickles of these two numbers; that of the sizes of types is the same everywhere."""
END: Final = struct.Struct("<4s8xII2x")
END_64: Final = struct.Struct("<4s36xQQ")
PLACE_64: Final = struct.Struct("<4s4xQ4x")
"""The last records of an archive: size and offset of its table of contents, twice, and the offset of the second of these records."""
ENTRY: Final = struct.Struct("<4s22xHH")
"""What stands before the content of an archive's entry: a mark, and the lengths of the name and of more that follow."""
COUNT: Final = struct.Struct("<q")


def read_torch_file(file: Path) -> Any:
    """Dicts, lists and tuples of texts, numbers and dense tensors on the CPU, which are mapped to an archive, and copies of an older file.

    A tensor that is not dense, or quantized by torch, has no data (its device is "meta"). Raises ValueError, zipfile.BadZipFile and
    OSError, and RuntimeError where the file cannot be mapped.
    """
    read = Unpickled()
    with file.open("rb") as stream:
        is_archive = stream.read(len(ZIP_START)) == ZIP_START
        size = stream.seek(0, io.SEEK_END)
        stream.seek(0)
        content, starts, order = _read_archive(stream, read) if is_archive else _read_older(stream, read)
    mapped = torch.UntypedStorage.from_file(str(file), False, size)
    storages: dict[str, torch.UntypedStorage] = {}
    for key, stored in read.stored.items():
        stop = starts[key] + stored.count * stored.dtype.itemsize
        if stop > size:
            raise ValueError(f"it ends before the numbers of {key!r}")
        storage = mapped[starts[key] : stop]
        storages[key] = storage if is_archive and order == sys.byteorder else storage.clone()
        if order != sys.byteorder:
            storages[key].byteswap(stored.dtype)
    for tensor, stored, *layout in read.places:
        tensor.set_(storages[stored.key], *layout)
    return content


def _read_archive(stream: IO[bytes], read: Unpickled) -> tuple[Any, dict[str, int], str]:
    """What the pickle in an archive holds, where in the file the numbers of each key begin, and the order of their bytes."""
    _refuse_second_contents(stream)
    with zipfile.ZipFile(stream) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        folder = archive.infolist()[0].filename.partition("/")[0] if entries else ""
        description, order = entries.get(f"{folder}/data.pkl"), entries.get(f"{folder}/byteorder")
        if description is None:
            raise ValueError("it is an archive of something else")
        too_large = sum(entry.file_size for entry in archive.infolist()) > stream.seek(0, io.SEEK_END) or description.file_size > MAX_BYTES
        if too_large or any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
            raise ValueError("its description is compressed, or larger than that of any model")
        content = read.content(io.BytesIO(archive.read(description)))
        byte_order = "little" if order is None else archive.read(order).decode() if order.file_size <= len("little") else ""
    if byte_order not in ("little", "big"):
        raise ValueError("the order of its bytes is unknown")
    starts = {}
    for key, stored in read.stored.items():
        entry = entries.get(f"{folder}/data/{key}")
        if entry is None or entry.file_size < stored.count * stored.dtype.itemsize:
            raise ValueError(f"it has fewer numbers than it names, of {key!r}")
        starts[key] = _start(stream, entry)
    return content, starts, byte_order


def _start(stream: IO[bytes], entry: zipfile.ZipInfo) -> int:
    """Where in the file the content of an entry begins."""
    stream.seek(entry.header_offset)
    mark, name_bytes, more_bytes = ENTRY.unpack(stream.read(ENTRY.size).ljust(ENTRY.size, b"\0"))
    if mark != ZIP_START:
        raise zipfile.BadZipFile("an entry does not begin as one")
    return entry.header_offset + ENTRY.size + int(name_bytes) + int(more_bytes)


def _refuse_second_contents(stream: IO[bytes]) -> None:
    """Raise ValueError for an archive whose table of contents is large, or not right before its end: others may read another one."""
    size = stream.seek(0, io.SEEK_END)
    stop, stop_64 = size - END.size, size - END.size - PLACE_64.size - END_64.size
    stream.seek(max(0, stop_64))
    tail = stream.read().rjust(size - stop_64, b"\0")
    mark, length, start = END.unpack(tail[-END.size :])
    if mark != b"PK\5\6":
        raise zipfile.BadZipFile("it does not end as an archive")
    mark_64, place = PLACE_64.unpack(tail[END_64.size : -END.size])
    if mark_64 == b"PK\6\7":
        mark, length, start = END_64.unpack(tail[: END_64.size])
        stop = place if (mark, place) == (b"PK\6\6", stop_64) else -1
    if start + length != stop or length > MAX_BYTES:
        raise ValueError("its table of contents is not right before its end, or larger than that of any model")


def _read_older(stream: IO[bytes], read: Unpickled) -> tuple[Any, dict[str, int], str]:
    """As `_read_archive`: five pickles, the fourth of the tensors, the last of the keys; then of each a count and the numbers."""
    head = io.BytesIO(stream.read(MAX_BYTES + 2))
    magic, version, _types = (Unpickled().content(head) for _ in range(3))
    if not (type(magic) is type(version) is int and (magic, version) == (MAGIC, VERSION)):
        raise ValueError("it is no file of tensors")
    content, keys = read.content(head), Unpickled().content(head)
    if not (isinstance(keys, list) and all(type(key) is str for key in keys) and sorted(keys) == sorted(read.stored)):
        raise ValueError("it lists other keys than its tensors have")
    start, starts = head.tell(), dict[str, int]()
    for key in keys:
        stream.seek(start)
        starts[key] = start + COUNT.size
        if stream.read(COUNT.size) != COUNT.pack(read.stored[key].count):
            raise ValueError(f"it ends before the numbers of {key!r}, or has another count of them")
        start = starts[key] + read.stored[key].count * read.stored[key].dtype.itemsize
    return content, starts, "little"
