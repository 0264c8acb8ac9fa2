"""What a file of random states may be, and what is refused before it is read."""

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from imprint.runtime import rng_state
from imprint.training import random_file
from imprint.training.random_file import read_random_states


def written(folder: Path, value: object) -> Path:
    torch.save(value, folder / "random.pt")
    return folder / "random.pt"


def nested(value: object) -> object:
    for _level in range(60):
        value = (value, value)
    return value


def test_the_states_of_many_processes_are_read_as_they_were_written(tmp_path: Path) -> None:
    states = [{**rng_state(), "cuda": [torch.arange(16, dtype=torch.uint8)] * 1} for _process in range(9)]
    for one, read in zip(states, read_random_states(written(tmp_path, states)), strict=True):
        assert read["python"] == one["python"]
        assert torch.equal(read["torch"], one["torch"])
        assert torch.equal(read["cuda"][0], one["cuda"][0])


@pytest.mark.parametrize(
    "change",
    [
        lambda state: [nested((1,)), state],
        lambda state: [{**state, "python": nested([])}],
        lambda state: [{"python": 1}],
        lambda state: [state, 5],
    ],
)
def test_what_would_hold_up_its_reader_is_refused(change: Callable[[dict[str, Any]], object], tmp_path: Path) -> None:
    with pytest.raises((ValueError, TypeError)):
        read_random_states(written(tmp_path, change(rng_state())))


def test_what_unpacks_to_any_number_of_bytes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = written(tmp_path, [rng_state()])
    with zipfile.ZipFile(file) as archive, zipfile.ZipFile(tmp_path / "packed.pt", "w", zipfile.ZIP_DEFLATED) as packed:
        for entry in archive.infolist():
            packed.writestr(entry.filename, archive.read(entry))
    with pytest.raises(ValueError, match="holds something else"):
        read_random_states(tmp_path / "packed.pt")
    monkeypatch.setattr(random_file, "MAX_BYTES", 1000)
    with pytest.raises(ValueError, match="is larger than"):
        read_random_states(file)
    monkeypatch.setattr(random_file, "MAX_BYTES", file.stat().st_size)
    file.write_bytes(b"PK" + bytes(100))
    with pytest.raises(ValueError, match="is not what was written"):
        read_random_states(file)
