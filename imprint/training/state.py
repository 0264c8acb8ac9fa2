"""Training state: saved so that a killed run resumes exactly. Trained tensors, optimizer state, random states, and the progress.

Tensors are stored by parameter name, unsharded, and in fp32 where there is a master copy, however many processes write them: a run can
resume with another number of processes and another parallel strategy. Several processes write a large state together, each some of its
files.
"""

import errno
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Annotated, Any

import torch
from pydantic import Field
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from imprint.engine.engine import Engine
from imprint.engine.strategy import MOMENTS, VALUE
from imprint.events import MAX_RESCUED, MAX_STEP, StepNumber
from imprint.files.atomic import atomic_folder, temporary_path, write_json
from imprint.files.disk_errors import translate_disk_errors
from imprint.files.reading import read_json
from imprint.files.typed_json import typed
from imprint.messages import Bilingual, UserError
from imprint.models.checkpoint import split_into_shards, tensor_reader
from imprint.models.weight_files import shard_names
from imprint.models.weight_values import is_finite
from imprint.runs import step_of
from imprint.runtime import is_out_of_memory, rng_state, seed_everything, set_rng_state
from imprint.training.random_file import read_random_states

READ_ERRORS = (
    OSError,
    EOFError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RuntimeError,
    UnpicklingError,
    SafetensorError,
)
DAMAGE_ERRNOS = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EIO, None)
"""Error numbers that mean that a file is damaged or missing; with any other, the file may be fine and only unreadable now."""
PROGRESS, TRAINED, OPTIMIZER, RANDOM = "position.json", "trained.safetensors", "optimizer.safetensors", "random.pt"
CHECKSUMS, COUNTERS = "checksums", "counters"
READ_BYTES = 2**20
MAX_SECONDS = 10**10
"""Longest training time of a state that is read: three hundred years."""
FILE_BYTES = 2 * 10**9
"""Size of the parameters and moments that are gathered in memory at a time; the values go into one file, the moments into another."""


@dataclass(frozen=True)
class TrainProgress:
    """The progress of a run; the position in the data follows from the step and the seed."""

    step: StepNumber = 0
    """Optimizer steps done."""
    best_step: StepNumber = 0
    """The step whose weights are the result so far; 0 before the first evaluation."""
    best_loss: float | None = None
    """Evaluation loss at that step."""
    skipped: StepNumber = 0
    """Number of consecutive skipped steps up to this one."""
    seconds: Annotated[float, Field(ge=0, le=MAX_SECONDS)] = 0.0
    """Training time in seconds, over all starts of the run."""
    data: str = ""
    """Digest of the encoded rows, including those held out."""
    rescues: Annotated[int, Field(ge=0, le=MAX_RESCUED)] = 0
    """Number of rescues so far."""
    rate_scale: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Factor of the learning rate, lowered by each rescue."""
    piece_tokens: Annotated[int, Field(gt=0, le=MAX_STEP)] | None = None
    """Most tokens computed at once (`TokenBudget.tokens`), set by the forecast or where memory ran out; None: no limit."""
    merged_micro_batches: Annotated[int, Field(gt=0, le=MAX_STEP)] | None = None
    """Micro-batches computed as one (`TokenBudget.micro_batches`); None in states of older versions."""


@dataclass(frozen=True)
class SavedState:
    """A saved state, complete and undamaged; its tensors are read from the disk by `restore`."""

    progress: TrainProgress
    """The progress of the run."""
    folder: Path
    """The folder of the state."""
    tensor_files: Mapping[str, Path] = field(repr=False)
    """The file of each tensor, by its key: NAME for a parameter, MOMENT/NAME for its moments."""
    random: Sequence[dict[str, Any]] = field(repr=False)
    """The random states of each process, by rank."""
    scalar_state: Mapping[str, Any] = field(repr=False)
    """The remaining optimizer state, as `Engine.scalar_state` gives it."""

    def restore(self, engine: Engine) -> TrainProgress:
        """Load parameters, optimizer state and random states. Raises UserError for a parameter of another shape or name."""
        if unknown := self.tensor_files.keys() - {_key(name, kind) for name in engine.shapes for kind in (VALUE, *MOMENTS)}:
            raise UserError(
                Bilingual(
                    f"the saved state does not fit: it holds {min(unknown)!r:.200}, which is not trained here. Start in a new run folder.",
                    f"保存的训练状态与模型不符：其中的 {min(unknown)!r:.200} 不在此次训练之列。请换一个新的结果目录。",
                )
            )
        read = {file: tensor_reader(file) for file in set(self.tensor_files.values())}
        for name, shape in engine.shapes.items():
            keys = {kind: _key(name, kind) for kind in (VALUE, *MOMENTS)}
            tensors = {kind: read[self.tensor_files[key]](key) for kind, key in keys.items() if key in self.tensor_files}
            if VALUE not in tensors or any(one.shape != shape or not one.is_floating_point() for one in tensors.values()):
                raise UserError(
                    Bilingual(
                        f"the saved state does not fit: {name} must have the shape {tuple(shape)}. Start in a new run folder.",
                        f"保存的训练状态与模型不符：{name} 的形状应为 {tuple(shape)}。请换一个新的结果目录。",
                    )
                )
            if wrong := sorted(kind for kind, one in tensors.items() if not _is_learned(kind, one)):
                raise UserError(
                    Bilingual(
                        f"{self.folder}: the {wrong[0]} of {name} has numbers that no training leaves, such as NaN. Delete this folder to "
                        "resume from the state before it.",
                        f"{self.folder}：{name} 的 {wrong[0]} 含有训练不会产生的数值（如 NaN）：请删除该目录，从更早的状态继续。",
                    )
                )
            engine.load_state(name, tensors)
        try:
            self._check_steps()
            engine.restore_scalar_state(self.scalar_state)
            if engine.rank < len(self.random):
                set_rng_state(self.random[engine.rank])
            else:  # the state was saved by fewer processes
                seed_everything(self.progress.step + engine.rank)
        except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RuntimeError) as error:
            if is_out_of_memory(error):
                raise
            raise UserError(
                Bilingual(
                    f"{self.folder}: counters or random states in {PROGRESS} and {RANDOM} are not what Imprint wrote ({error}). Delete "
                    "this folder to resume from the state before it.",
                    f"{self.folder}：{PROGRESS} 或 {RANDOM} 中的计数或随机状态不是 Imprint 写入的内容：请删除该目录，从更早的状态继续。",
                )
            ) from error
        return self.progress

    def _check_steps(self) -> None:
        """Raise ValueError unless each parameter has both moments and how often it was updated, or neither."""
        steps = self.scalar_state["steps"]
        for name in {key.rpartition("/")[2] for key in self.tensor_files} | steps.keys():
            count, moments = steps.get(name, 0), sum(_key(name, kind) in self.tensor_files for kind in MOMENTS)
            if type(count) is not int or not 0 <= count <= MAX_STEP or moments != (len(MOMENTS) if name in steps else 0):
                raise ValueError(f"{name}: {count!r:.20} updates, {moments} moments")


class DamagedStateError(Exception):
    """Raised for a state folder that cannot be resumed from; the message is the reason."""


def save_state(folder: Path, engine: Engine, progress: TrainProgress) -> None:
    """Write a state folder atomically, with a checksum of each file as read back. Collective."""
    world = engine.world
    with world.main_context(atomic_folder(folder)):
        temporary = temporary_path(folder)
        written: dict[str, int] = {}
        for checksums in world.on_all(lambda: _write_tensors(temporary, engine)):
            written |= checksums
        random = world.all_gather(rng_state())
        if world.is_main:
            torch.save(random, temporary / RANDOM)
            written[RANDOM] = _checksum(temporary / RANDOM)
            write_json(temporary / PROGRESS, asdict(progress) | {COUNTERS: engine.scalar_state(), CHECKSUMS: written})


def _write_tensors(folder: Path, engine: Engine) -> dict[str, int]:
    """Write this process's share of the tensor files; returns their checksums. Collective."""
    shards = split_into_shards({name: 12 * shape.numel() for name, shape in engine.shapes.items()}, FILE_BYTES)
    kinds_by_file = {TRAINED: (VALUE,), OPTIMIZER: MOMENTS}
    file_names = {file: shard_names(Path(file).stem, "safetensors", len(shards)) for file in kinds_by_file}
    checksums: dict[str, int] = {}
    first_error: UserError | None = None
    for index, names in enumerate(shards):
        writes = index % engine.world_size == engine.rank and first_error is None
        contents: dict[str, dict[str, Tensor]] = {file: {} for file in kinds_by_file}
        for name in names:
            state = engine.full_state(name)  # collective, so it is called even after an error
            for file, kinds in kinds_by_file.items() if writes else ():
                contents[file] |= {_key(name, kind): state[kind].cpu().contiguous() for kind in kinds if kind in state}
        for file, tensors in contents.items() if writes else ():
            path = folder / file_names[file][index]
            try:
                with translate_disk_errors(path):
                    save_file(tensors, path, {"format": "pt"})
                    checksums[path.name] = _checksum(path)
            except UserError as error:
                first_error = error
    if first_error is not None:
        raise first_error
    return checksums


def _is_learned(kind: str, tensor: Tensor) -> bool:
    """Whether a tensor of a state has numbers, and a mean of squares none below 0, of which a step would take the root."""
    return is_finite(tensor) and (kind != MOMENTS[1] or not tensor.numel() or tensor.min().item() >= 0)


def _key(name: str, kind: str) -> str:
    """The key of a tensor in its file."""
    return name if kind == VALUE else f"{kind}/{name}"


def read_progress(folder: Path) -> TrainProgress:
    """The progress stored in a state folder; no tensors are read. Raises DamagedStateError."""
    return _read_progress(folder)[0]


def read_saved_state(folder: Path, *, verify: bool = True) -> SavedState:
    """Read a state folder, without changing any object; `verify` compares the files with their checksums.

    Raises DamagedStateError.
    """
    progress, extra = _read_progress(folder)
    with _translate_damage():
        if verify and {*extra[CHECKSUMS]} != {RANDOM, *(file.name for file in folder.glob("*.safetensors"))}:
            raise ValueError(f"{PROGRESS} does not name the files of this state")
        for name, expected in extra[CHECKSUMS].items() if verify else ():
            if _checksum(folder / name) != expected:
                raise ValueError(f"{name} is not what was written")
        random = read_random_states(folder / RANDOM)
        return SavedState(progress, folder, _tensor_files(folder), random, extra[COUNTERS])


def _tensor_files(folder: Path) -> dict[str, Path]:
    """The file of each tensor, by its key."""
    files: dict[str, Path] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            files |= dict.fromkeys(opened.keys(), file)
    if not files:
        raise ValueError("it holds no tensors")
    return files


def _read_progress(folder: Path) -> tuple[TrainProgress, dict[str, Any]]:
    """The progress, and the checksums and counters that are stored with it."""
    with _translate_damage():
        values = read_json(folder / PROGRESS)
        extra = {name: values.pop(name) for name in (CHECKSUMS, COUNTERS)}
        progress = _typed_progress(values)
        if progress.step != step_of(folder):
            raise ValueError(f"{PROGRESS} is of step {progress.step}")
        return progress, extra


def _typed_progress(values: object) -> TrainProgress:
    try:
        return typed(values, TrainProgress, PROGRESS, Bilingual("", ""))
    except UserError as error:  # another state is looked for
        raise ValueError(error.message.english) from error


@contextmanager
def _translate_damage() -> Iterator[None]:
    """Turn errors of reading a damaged file into DamagedStateError; raise UserError for a file that is only unreadable now."""
    try:
        yield
    except READ_ERRORS as error:
        if is_out_of_memory(error):
            raise MemoryError(str(error)) from error
        if isinstance(error, OSError) and error.errno not in DAMAGE_ERRNOS:
            raise UserError(
                Bilingual(
                    f"{error.filename}: cannot be read: {error.strerror}. Nothing was changed; fix that, then run the same command again.",
                    f"{error.filename}：无法读取保存的状态，未做任何改动；解决后再次运行同一命令。",
                )
            ) from error
        raise DamagedStateError(str(error).partition("\n")[0][:120] or type(error).__name__) from error


def _checksum(file: Path) -> int:
    """CRC-32 of a file, read in chunks."""
    checksum = 0
    with file.open("rb") as opened:
        while chunk := opened.read(READ_BYTES):
            checksum = zlib.crc32(chunk, checksum)
    return checksum
