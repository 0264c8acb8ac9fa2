"""The random states of a saved state, as `torch.save` writes them: a small archive with a pickle, which is examined before it is read.

`torch.load(weights_only=True)` runs no code of a file, and yet one of a stranger could hold it up: a few bytes of the archive unpack to any
number, and a tuple of tuples that are one object takes for ever to hash or compare.
"""

import pickletools
import zipfile
from pathlib import Path
from typing import Any, Final

import torch

MAX_BYTES: Final = 2**26
"""Largest file, packed and unpacked; the states of a process take twelve kilobytes."""
SHARED: Final = frozenset(("BINUNICODE", "SHORT_BINUNICODE", "BINSTRING", "SHORT_BINSTRING", "GLOBAL", "LONG1"))
"""Operations of a pickle whose value may be used again: texts, names and numbers, but nothing that holds other values."""


def read_random_states(file: Path) -> list[dict[str, Any]]:
    """The random states of each process, by rank; errors of torch and zipfile, and ValueError for what is something else."""
    if file.stat().st_size > MAX_BYTES:
        raise ValueError(f"{file.name} is larger than {MAX_BYTES // 2**20} MiB")
    try:
        _examine(file)
    except zipfile.BadZipFile as error:
        raise ValueError(f"{file.name} is not what was written") from error
    random: list[dict[str, Any]] = torch.load(file, map_location="cpu", weights_only=True)
    if not all({"python", "torch", "cuda"} <= set(one) for one in random):
        raise ValueError(f"{file.name} holds something else")
    return random


def _examine(file: Path) -> None:
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        if sum(entry.file_size for entry in entries) > MAX_BYTES or any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise ValueError(f"{file.name} holds something else")
        for entry in entries:
            if entry.filename.endswith("data.pkl"):
                _refuse_shared_containers(archive.read(entry), file.name)


def _refuse_shared_containers(pickle: bytes, name: str) -> None:
    """Raise ValueError if a list, tuple or dict of a pickle is used twice; then each value is there once, however deep."""
    memo, before = dict[Any, str](), ""
    for operation, argument, _position in pickletools.genops(pickle):
        if operation.name in ("PUT", "BINPUT", "LONG_BINPUT"):
            memo[argument] = before
        elif operation.name == "MEMOIZE":
            memo[len(memo)] = before
        elif operation.name == "DUP" or (operation.name.endswith("GET") and memo.get(argument) not in SHARED):
            raise ValueError(f"{name} holds something else")
        before = operation.name
