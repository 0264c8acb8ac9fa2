"""What survives a killed run: trained tensors, optimizer, random numbers, and the place in the data."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from imprint.engine import Engine
from imprint.errors import UserError
from imprint.files import new_folder, write_json
from imprint.runtime import rng_state, set_rng_state
from imprint.tune.tuner import Tuner

FILES = ("position.json", "trained.safetensors", "optimizer.pt", "random.pt")


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
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tuner.trained().items()}, part / FILES[1])
        torch.save(engine.optimizer_state(), part / FILES[2])
        torch.save(rng_state(), part / FILES[3])
        write_json(part / FILES[0], asdict(position))


def load_state(folder: Path, tuner: Tuner, engine: Engine) -> Position:
    """Bring tuner, optimizer and random numbers to where a state folder was written; a damaged folder is a UserError."""
    try:
        position = Position(**json.loads((folder / FILES[0]).read_text(encoding="utf-8")))
        tuner.restore(load_file(folder / FILES[1]))
        optimizer: dict[str, Any] = torch.load(folder / FILES[2], weights_only=True)
        random: dict[str, Any] = torch.load(folder / FILES[3], weights_only=True)
    except (OSError, ValueError, TypeError, RuntimeError, SafetensorError) as error:
        raise UserError(
            f"{folder}: this saved state is damaged ({str(error)[:120]}). Delete the folder; the run goes on from the one before."
        ) from error
    engine.restore_optimizer(optimizer)
    set_rng_state(random)
    return position
