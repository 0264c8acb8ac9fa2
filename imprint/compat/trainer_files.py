"""The files of ptuning/main.py and transformers' Trainer, under their names and in their format.

checkpoint-N/ with pytorch_model.bin (for P-Tuning only the prefix) and trainer_state.json; beside them trainer_state.json,
train_results.json, eval_results.json, predict_results.json, all_results.json and generated_predictions.txt.
"""

import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from imprint.data.batches import BatchSampler
from imprint.events import Evaluation, Event, Step, values_by_step
from imprint.export.writers import write_official_prefix
from imprint.files.atomic import atomic_folder, write_json, write_jsonl
from imprint.files.reading import read_json
from imprint.models.checkpoint import save_network
from imprint.runs import RunFolder
from imprint.tune.tuner import Tuner

CHECKPOINT = re.compile(r"checkpoint-(\d+)")
TRAINER_STATE = "trainer_state.json"
ALL_RESULTS = "all_results.json"
PREDICTIONS = "generated_predictions.txt"


@dataclass(frozen=True)
class LogSchedule:
    """What the Trainer's epochs and logged losses are computed from."""

    batches: BatchSampler
    """The batches of the training rows."""
    steps: int
    """Optimizer steps of the whole run."""
    logging_steps: int
    """Steps between logged losses."""
    logging_first_step: bool
    """Whether the first step is logged too."""

    def logs(self, step: int) -> bool:
        """Whether a loss is logged at this step."""
        return step % self.logging_steps == 0 or (step == 1 and self.logging_first_step)


def results_file(split: str) -> str:
    """The results file of `train`, `eval` or `predict`."""
    return f"{split}_results.json"


def checkpoints(run: Path) -> list[Path]:
    """The checkpoints of a run, oldest first."""
    folders = [entry for entry in run.iterdir() if CHECKPOINT.fullmatch(entry.name) and entry.is_dir()] if run.is_dir() else []
    return sorted(folders, key=step_of)


def step_of(checkpoint: Path) -> int:
    """The optimizer steps of a checkpoint: 1000 for `checkpoint-1000`."""
    match = CHECKPOINT.fullmatch(checkpoint.name)
    assert match, f"{checkpoint} is not the name of a checkpoint"
    return int(match[1])


def write_checkpoint(folder: Path, tuner: Tuner, base: Path, state: Mapping[str, Any]) -> None:
    """Write checkpoint-N atomically: a prefix with the base's config and tokenizer files, or a full model folder."""
    if tuner.adapter is None:
        save_network(tuner.network, base, folder, as_bin=True)
        write_json(folder / TRAINER_STATE, state)
        return
    with atomic_folder(folder) as part:
        write_official_prefix(part, base, tuner.adapter)
        write_json(part / TRAINER_STATE, state)


def write_sharded_checkpoint(
    folder: Path, tuner: Tuner, base: Path, state: Mapping[str, Any], gather: Callable[[Tensor], Tensor], *, is_main: bool
) -> None:
    """Write checkpoint-N of a network that is sharded over processes; collective, and the process with `is_main` writes."""
    save_network(tuner.network, base, folder, as_bin=True, gather=gather, is_main=is_main)
    if is_main:
        write_json(folder / TRAINER_STATE, state)


def keep_newest(run: Path, count: int) -> None:
    """Delete all checkpoints but the newest `count`."""
    for checkpoint in checkpoints(run)[:-count]:
        remove(checkpoint)


def remove(entry: Path) -> None:
    """Delete a file, or rename a folder to a temporary name and delete it: a killed process leaves no half of it."""
    if not entry.is_dir():
        entry.unlink(missing_ok=True)
        return
    temporary = entry.with_name(f".{entry.name}.part")
    shutil.rmtree(temporary, ignore_errors=True)
    entry.rename(temporary)
    shutil.rmtree(temporary)


def trainer_state(events: Sequence[Event], schedule: LogSchedule, *, step: int, next_rate: float) -> dict[str, Any]:
    """The content of trainer_state.json after `step`; a logged loss is the mean since the last one, a logged rate that of the next step."""
    history: list[dict[str, Any]] = []
    rates = {event.step: event.learning_rate for event in events if isinstance(event, Step)} | {step + 1: next_rate}
    unlogged: list[float] = []
    for event in events:
        if not 0 < event.step <= step:  # the original logs no loss before the first step
            continue
        position = {"epoch": round(schedule.batches.epochs_at(event.step), 2), "step": event.step}
        if isinstance(event, Evaluation):
            history.append(position | {"eval_loss": event.eval_loss})
        elif isinstance(event, Step):
            unlogged += [] if event.loss is None else [event.loss]
            if schedule.logs(event.step):
                loss = round(sum(unlogged) / len(unlogged), 4) if unlogged else None
                history.append(position | {"learning_rate": rates.get(event.step + 1), "loss": loss})
                unlogged = []
    return {
        "best_metric": None,
        "best_model_checkpoint": None,
        "epoch": schedule.batches.epochs_at(step),
        "global_step": step,
        "is_hyper_param_search": False,
        "is_local_process_zero": True,
        "is_world_process_zero": True,
        "log_history": [dict(sorted(item.items())) for item in history],
        "max_steps": schedule.steps,
        "num_train_epochs": -(-schedule.steps // schedule.batches.steps_per_epoch),
        "total_flos": 0,
        "trial_name": None,
        "trial_params": None,
    }


def training_results(events: Sequence[Event], schedule: LogSchedule, *, seconds: float) -> dict[str, Any]:
    """The content of train_results.json."""
    losses = list(values_by_step(events, "loss").values())
    return {
        "epoch": round(schedule.batches.epochs_at(schedule.steps), 2),
        "train_loss": sum(losses) / len(losses) if losses else None,
        "train_samples": len(schedule.batches.lengths),
        **_speed("train", seconds, schedule.steps * schedule.batches.size, schedule.steps),
    }


def write_training_results(run: RunFolder, state: Mapping[str, Any], results: Mapping[str, Any]) -> None:
    """Write trainer_state.json with the results as its last entry, then train_results.json, which marks the training as finished."""
    entry = {name: value for name, value in results.items() if name != "train_samples"} | {"step": state["global_step"], "total_flos": 0}
    write_json(run.path / TRAINER_STATE, {**state, "log_history": [*state["log_history"], dict(sorted(entry.items()))]})
    write_results(run.path, "train", results)


def evaluation_results(split: str, scores: Mapping[str, float], *, seconds: float, rows: int, batches: int) -> dict[str, Any]:
    """The content of eval_results.json or predict_results.json; each name starts with its split."""
    return {f"{split}_{name}": value for name, value in scores.items()} | {f"{split}_samples": rows} | _speed(split, seconds, rows, batches)


def _speed(split: str, seconds: float, rows: int, steps: int) -> dict[str, float]:
    return {
        f"{split}_runtime": round(seconds, 4),
        f"{split}_samples_per_second": round(rows / max(seconds, 1e-9), 3),
        f"{split}_steps_per_second": round(steps / max(seconds, 1e-9), 3),
    }


def write_results(folder: Path, split: str, results: Mapping[str, Any]) -> None:
    """Write all_results.json, merged with the results of other splits, then the split's own file."""
    merged_file = folder / ALL_RESULTS
    try:
        previous = read_json(merged_file)
    except (OSError, ValueError):
        previous = {}
    write_json(merged_file, dict(sorted(({**previous, **results} if isinstance(previous, dict) else dict(results)).items())))
    write_json(folder / results_file(split), dict(sorted(results.items())))


def write_predictions(folder: Path, references: Sequence[str], predictions: Sequence[str]) -> None:
    """Write generated_predictions.txt: one line of JSON per row, both texts stripped."""
    rows = [{"labels": label.strip(), "predict": answer.strip()} for label, answer in zip(references, predictions, strict=True)]
    write_jsonl(folder / PREDICTIONS, rows)
