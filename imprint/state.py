"""What survives a killed run: trained tensors, optimizer, random numbers, and the place in the data."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from imprint.engine import Engine
from imprint.errors import UserError
from imprint.files import new_folder, write_json
from imprint.runs import step_of
from imprint.runtime import rng_state, set_rng_state
from imprint.tune.tuner import Tuner

DAMAGE = (OSError, EOFError, ValueError, TypeError, LookupError, RuntimeError, UnpicklingError, SafetensorError)
POSITION, TRAINED, OPTIMIZER, RANDOM = "position.json", "trained.safetensors", "optimizer.pt", "random.pt"


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


def save_state(folder: Path, tuner: Tuner, engine: Engine, position: Position) -> None:
    """Write a state folder, complete or not at all."""
    with new_folder(folder) as part:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tuner.trained().items()}, part / TRAINED)
        torch.save(engine.optimizer_state(), part / OPTIMIZER)
        torch.save(rng_state(), part / RANDOM)
        write_json(part / POSITION, asdict(position))


def load_state(folder: Path, tuner: Tuner, engine: Engine) -> Position:
    """Bring tuner, optimizer and random numbers to where a state folder was written; a damaged folder is a UserError."""
    try:
        position = Position(**json.loads((folder / POSITION).read_text(encoding="utf-8")))
        if position.step != step_of(folder):
            raise ValueError(f"{POSITION} is of step {position.step}")
        tuner.restore(load_file(folder / TRAINED))
        engine.restore_optimizer(torch.load(folder / OPTIMIZER, map_location="cpu", weights_only=True))
        set_rng_state(torch.load(folder / RANDOM, map_location="cpu", weights_only=True))
    except DAMAGE as error:
        what = str(error).partition("\n")[0][:120] or type(error).__name__
        raise UserError(
            f"{folder}: this saved state is damaged ({what}). Delete the folder; the run goes on from the one before."
        ) from error
    return position
