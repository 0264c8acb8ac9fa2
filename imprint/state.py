"""What survives a killed run: trained tensors, optimizer, random numbers, and the place in the data."""

import errno
import json
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from imprint.engine import Engine
from imprint.errors import UserError
from imprint.files import new_folder, write_json
from imprint.runs import step_of
from imprint.runtime import out_of_memory, rng_state, set_rng_state
from imprint.tune.tuner import Tuner

DAMAGE = (OSError, EOFError, ValueError, TypeError, LookupError, AttributeError, RuntimeError, UnpicklingError, SafetensorError)
DAMAGED_FILES = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EIO, None)
"""What the system says of a file that is no longer what was written; of anything else it says, the file is innocent."""
POSITION, TRAINED, OPTIMIZER, RANDOM = "position.json", "trained.safetensors", "optimizer.pt", "random.pt"
CHECKSUMS = "checksums"
READ_BYTES = 2**20


@dataclass(frozen=True)
class Position:
    """How far a run has come; the data position follows from the step and the seed."""

    step: int = 0
    """Optimizer steps done."""
    best_step: int = 0
    """The step whose adapter is kept; 0 before the first evaluation."""
    best_loss: float | None = None
    """Evaluation loss at that step."""
    skipped: int = 0
    """The latest steps in a row whose gradient was not finite and was thrown away."""
    seconds: float = 0.0
    """Time spent training, over all starts of the run."""
    data: str = ""
    """Digest of the encoded rows, those held out too."""
    rescues: int = 0
    """How often the guard has brought the run back to a good state."""
    rate_scale: float = 1.0
    """What the learning rate is multiplied by since then."""
    piece_tokens: int | None = None
    """The most tokens computed at once, found by running out of memory; None while nothing ran out."""


@dataclass(frozen=True)
class State:
    """A saved state as it was read, complete and undamaged."""

    position: Position
    """Where the run was."""
    trained: Mapping[str, Tensor]
    """What had been learned."""
    optimizer: dict[str, Any]
    """The optimizer's own numbers."""
    random: dict[str, Any]
    """The state of every random generator."""

    def restore(self, tuner: Tuner, engine: Engine) -> Position:
        """Bring tuner, optimizer and random numbers to where the state was written. Raises UserError for tensors of another shape."""
        tuner.restore(self.trained)
        engine.restore_optimizer(self.optimizer)
        set_rng_state(self.random)
        return self.position


class DamagedStateError(Exception):
    """A state folder that cannot be gone on from; its text says why."""


def save_state(folder: Path, tuner: Tuner, engine: Engine, position: Position) -> None:
    """Write a state folder, complete or not at all; each file is read once more for its checksum."""
    with new_folder(folder) as part:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tuner.trained().items()}, part / TRAINED)
        torch.save(engine.optimizer_state(), part / OPTIMIZER)
        torch.save(rng_state(), part / RANDOM)
        write_json(part / POSITION, asdict(position) | {CHECKSUMS: {name: _checksum(part / name) for name in (TRAINED, OPTIMIZER, RANDOM)}})


def read_position(folder: Path) -> Position:
    """Where a state was written, without its tensors. Raises DamagedStateError."""
    return _read_position(folder)[0]


def read_state(folder: Path) -> State:
    """A state folder, read before anything is changed by it. Raises DamagedStateError."""
    position, checksums = _read_position(folder)
    with _damage():
        for name, expected in checksums.items():
            if _checksum(folder / name) != expected:
                raise ValueError(f"{name} is not what was written")
        optimizer = torch.load(folder / OPTIMIZER, map_location="cpu", weights_only=True)
        random = torch.load(folder / RANDOM, map_location="cpu", weights_only=True)
        if set(optimizer) != {"state", "param_groups"} or not {"python", "torch", "cuda"} <= set(random):
            raise ValueError(f"{OPTIMIZER} or {RANDOM} holds something else")
        return State(position, load_file(folder / TRAINED), optimizer, random)


def _read_position(folder: Path) -> tuple[Position, dict[str, int]]:
    with _damage():
        values = json.loads((folder / POSITION).read_text(encoding="utf-8"))
        checksums = values.pop(CHECKSUMS, {})  # those of the first version have none
        position = Position(**values)
        if position.step != step_of(folder):
            raise ValueError(f"{POSITION} is of step {position.step}")
        return position, dict(checksums)


@contextmanager
def _damage() -> Iterator[None]:
    """Turn whatever reading a broken file raises into DamagedStateError; a good one that cannot be read now is no damage."""
    try:
        yield
    except DAMAGE as error:
        if out_of_memory(error):
            raise MemoryError(str(error)) from error
        if isinstance(error, OSError) and error.errno not in DAMAGED_FILES:
            raise UserError(
                f"{error.filename}: cannot be read: {error.strerror}. Nothing was changed; mend that, then run the same command again.\n"
                "无法读取保存的状态，未做任何改动；解决后再次运行同一命令。"
            ) from error
        raise DamagedStateError(str(error).partition("\n")[0][:120] or type(error).__name__) from error


def _checksum(file: Path) -> int:
    """CRC-32 of a file, read in pieces."""
    found = 0
    with file.open("rb") as opened:
        while piece := opened.read(READ_BYTES):
            found = zlib.crc32(piece, found)
    return found
