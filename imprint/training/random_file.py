"""The random states of a saved state, as `torch.save` writes them: a small archive with a pickle, which is examined before it is read.

`torch.load(weights_only=True)` runs no code of a file, and yet one of a stranger could hold it up: a few bytes of the archive unpack to any
number, and a tuple of tuples that are one object takes for ever to hash or compare.
"""

import zipfile
from pathlib import Path
from typing import Any, Final

import torch

from imprint.files.pickles import refuse_endless_weights

MAX_BYTES: Final = 2**26
"""Largest file, packed and unpacked; the states of a process take twelve kilobytes."""


def read_random_states(file: Path) -> list[dict[str, Any]]:
    """The random states of each process, by rank; errors of torch and zipfile, and ValueError for what is something else."""
    if file.stat().st_size > MAX_BYTES:
        raise ValueError(f"{file.name} is larger than {MAX_BYTES // 2**20} MiB")
    try:
        refuse_endless_weights(file)
    except (ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{file.name} is not what was written, or holds something else ({error})") from error
    random: list[dict[str, Any]] = torch.load(file, map_location="cpu", weights_only=True)
    if not all({"python", "torch", "cuda"} <= set(one) for one in random):
        raise ValueError(f"{file.name} holds something else")
    return random
