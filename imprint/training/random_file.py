"""The random states of a saved state, as `torch.save` writes them: a small archive, of which nothing is run or unpacked."""

import zipfile
from pathlib import Path
from typing import Any, Final

from imprint.files.torch_files import read_torch_file

MAX_BYTES: Final = 2**26
"""Largest file; the states of a process take twelve kilobytes."""


def read_random_states(file: Path) -> list[dict[str, Any]]:
    """The random states of each process, by rank; OSError and errors of torch, and ValueError for something else."""
    if file.stat().st_size > MAX_BYTES:
        raise ValueError(f"{file.name} is larger than {MAX_BYTES // 2**20} MiB")
    try:
        random = read_torch_file(file)
    except (ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{file.name} is not what was written, or holds something else ({error})") from error
    if not isinstance(random, list) or not all(isinstance(one, dict) and {"python", "torch", "cuda"} <= one.keys() for one in random):
        raise ValueError(f"{file.name} holds something else")
    return random
