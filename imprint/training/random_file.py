"""The random states of a saved state, as `torch.save` writes them: a small archive with a pickle, which is examined before it is read.

`torch.load(weights_only=True)` runs no code of a file, and yet one of a stranger could hold it up: a few bytes of the archive unpack to any
number, and a tuple of tuples that are one object takes for ever to hash or compare.
"""

import zipfile
from pathlib import Path
from typing import Any, Final

import torch

from imprint.files.pickles import PLAIN, refuse_shared

MAX_BYTES: Final = 2**26
"""Largest file, packed and unpacked; the states of a process take twelve kilobytes."""


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
                refuse_shared(archive.read(entry), lambda made: made not in PLAIN)  # then each value is there once, however deep
