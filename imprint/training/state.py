"""What survives a killed run: trained tensors, optimizer, random numbers, and the place in the data.

The numbers lie by parameter, whole and in fp32 where that is kept, however many processes have written them: a run goes on with any
number of processes and any strategy. Several processes write a large state together, each some of its files.
"""

import errno
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from imprint.engine.engine import Engine
from imprint.engine.strategy import MOMENTS, VALUE
from imprint.files import atomic_folder, temporary_path, translate_disk_errors, write_json
from imprint.messages import Bilingual, UserError
from imprint.models.checkpoint import shard_names, split_into_shards
from imprint.runs import step_of
from imprint.runtime import is_out_of_memory, rng_state, seed_everything, set_rng_state

DAMAGE = (OSError, EOFError, ValueError, TypeError, LookupError, AttributeError, RuntimeError, UnpicklingError, SafetensorError)
DAMAGED_FILES = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EIO, None)
"""What the system says of a file that is no longer what was written; of anything else it says, the file is innocent."""
POSITION, TRAINED, OPTIMIZER, RANDOM = "position.json", "trained.safetensors", "optimizer.safetensors", "random.pt"
CHECKSUMS, COUNTERS = "checksums", "counters"
READ_BYTES = 2**20
FILE_BYTES = 2 * 10**9
"""What is gathered in memory before it is written, values into one file and moments into another."""


@dataclass(frozen=True)
class TrainState:
    """How far a run has come; the position in the data follows from the step and the seed."""

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
class SavedState:
    """A saved state, complete and undamaged; its tensors stay on the disk until they are asked for."""

    state: TrainState
    """Where the run was."""
    folder: Path
    """Where it lies."""
    places: Mapping[str, Path] = field(repr=False)
    """The file of each tensor: of a parameter under its name, of a moment behind the moment's name and a slash."""
    random: Sequence[dict[str, Any]] = field(repr=False)
    """The state of every random generator, of each process."""
    counters: Mapping[str, Any] = field(repr=False)
    """What else the optimizer remembers."""

    def restore(self, engine: Engine) -> TrainState:
        """Bring parameters, optimizer and random numbers to where the state was written. Raises UserError for tensors of another shape."""
        for name, shape in engine.shapes.items():
            numbers = self._numbers(name)
            if VALUE not in numbers or numbers[VALUE].shape != shape:
                raise UserError(
                    Bilingual(
                        f"the saved state does not fit: {name} must have the shape {tuple(shape)}. Start in a new run folder.",
                        f"保存的训练状态与模型不符：{name} 的形状应为 {tuple(shape)}。请换一个新的结果目录。",
                    )
                )
            engine.load_state(name, numbers)
        engine.restore_counters(self.counters)
        if engine.rank < len(self.random):
            set_rng_state(self.random[engine.rank])
        else:  # there were fewer processes: nobody knows what this one would have drawn
            seed_everything(self.state.step + engine.rank)
        return self.state

    def _numbers(self, name: str) -> dict[str, Tensor]:
        """What the files hold of a parameter."""
        keys = {kind: _key(name, kind) for kind in (VALUE, *MOMENTS)}
        return {kind: _tensor(self.places[key], key) for kind, key in keys.items() if key in self.places}


class DamagedStateError(Exception):
    """A state folder that cannot be gone on from; its text says why."""


def save_state(folder: Path, engine: Engine, state: TrainState) -> None:
    """Write a state folder, complete or not at all; each file is read once more for its checksum. All processes call it together."""
    world = engine.world
    with world.main_context(atomic_folder(folder)):
        part = temporary_path(folder)
        written: dict[str, int] = {}
        for checksums in world.on_all(lambda: _write_numbers(part, engine)):
            written |= checksums
        random = world.gather(rng_state())
        if world.is_main:
            torch.save(random, part / RANDOM)
            written[RANDOM] = _checksum(part / RANDOM)
            write_json(part / POSITION, asdict(state) | {COUNTERS: engine.counters(), CHECKSUMS: written})


def _write_numbers(part: Path, engine: Engine) -> dict[str, int]:
    """Write what this process has to write; returns the files' checksums."""
    groups = split_into_shards({name: 12 * shape.numel() for name, shape in engine.shapes.items()}, FILE_BYTES)
    kinds = {TRAINED: (VALUE,), OPTIMIZER: MOMENTS}
    files = {last: shard_names(Path(last).stem, "safetensors", len(groups)) for last in kinds}
    checksums: dict[str, int] = {}
    problem: UserError | None = None
    for number, names in enumerate(groups):
        mine = number % engine.world_size == engine.rank and problem is None
        held: dict[str, dict[str, Tensor]] = {last: {} for last in kinds}
        for name in names:
            numbers = engine.full_state(name)  # the others wait for this process here, whatever its disk says
            for last in kinds if mine else ():
                held[last] |= {_key(name, kind): numbers[kind].cpu().contiguous() for kind in kinds[last] if kind in numbers}
        for last, tensors in held.items() if mine else ():
            file = part / files[last][number]
            try:
                with translate_disk_errors(file):
                    save_file(tensors, file, {"format": "pt"})
                    checksums[file.name] = _checksum(file)
            except UserError as error:
                problem = error
    if problem is not None:
        raise problem
    return checksums


def _key(name: str, kind: str) -> str:
    """What a tensor is called in its file."""
    return name if kind == VALUE else f"{kind}/{name}"


def _tensor(file: Path, key: str) -> Tensor:
    with safe_open(file, framework="pt") as opened:
        tensor: Tensor = opened.get_tensor(key)
    return tensor


def read_train_state(folder: Path) -> TrainState:
    """Where a state was written, without its tensors. Raises DamagedStateError."""
    return _read_train_state(folder)[0]


def read_saved_state(folder: Path, *, verify: bool = True) -> SavedState:
    """A state folder, read before anything is changed by it; not compared with its checksums where another process has done so.

    Raises DamagedStateError.
    """
    state, extra = _read_train_state(folder)
    with _damage():
        for name, expected in extra[CHECKSUMS].items() if verify else ():
            if _checksum(folder / name) != expected:
                raise ValueError(f"{name} is not what was written")
        random = torch.load(folder / RANDOM, map_location="cpu", weights_only=True)
        if not all({"python", "torch", "cuda"} <= set(one) for one in random):
            raise ValueError(f"{RANDOM} holds something else")
        return SavedState(state, folder, _places(folder), random, extra[COUNTERS])


def _places(folder: Path) -> dict[str, Path]:
    """The file of each tensor."""
    found: dict[str, Path] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            found |= dict.fromkeys(opened.keys(), file)
    if not found:
        raise ValueError("it holds no tensors")
    return found


def _read_train_state(folder: Path) -> tuple[TrainState, dict[str, Any]]:
    with _damage():
        values = json.loads((folder / POSITION).read_text(encoding="utf-8"))
        extra = {name: values.pop(name) for name in (CHECKSUMS, COUNTERS)}
        state = TrainState(**values)
        if state.step != step_of(folder):
            raise ValueError(f"{POSITION} is of step {state.step}")
        return state, extra


@contextmanager
def _damage() -> Iterator[None]:
    """Turn whatever reading a broken file raises into DamagedStateError; a good one that cannot be read now is no damage."""
    try:
        yield
    except DAMAGE as error:
        if is_out_of_memory(error):
            raise MemoryError(str(error)) from error
        if isinstance(error, OSError) and error.errno not in DAMAGED_FILES:
            raise UserError(
                Bilingual(
                    f"{error.filename}: cannot be read: {error.strerror}. Nothing was changed; mend that, then run the same command again.",
                    "无法读取保存的状态，未做任何改动；解决后再次运行同一命令。",
                )
            ) from error
        raise DamagedStateError(str(error).partition("\n")[0][:120] or type(error).__name__) from error


def _checksum(file: Path) -> int:
    """CRC-32 of a file, read in pieces."""
    found = 0
    with file.open("rb") as opened:
        while piece := opened.read(READ_BYTES):
            found = zlib.crc32(piece, found)
    return found
