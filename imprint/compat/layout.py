"""The files that ptuning/main.py and transformers' Trainer wrote, under their names and in their form.

checkpoint-N/ with pytorch_model.bin (of a prefix its tensors alone) and trainer_state.json; beside them trainer_state.json,
train_results.json, eval_results.json, predict_results.json, all_results.json and generated_predictions.txt.
"""

import json
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from imprint.data.batches import BatchSampler
from imprint.export.writers import write_original_prefix
from imprint.files import atomic_folder, write_json, write_text
from imprint.models.checkpoint import save_network
from imprint.runs import RunFolder
from imprint.tune.tuner import Tuner

CHECKPOINT = re.compile(r"checkpoint-(\d+)")
STATE = "trainer_state.json"
ALL_RESULTS = "all_results.json"
PREDICTIONS = "generated_predictions.txt"


@dataclass(frozen=True)
class Pace:
    """What the Trainer's figures are counted by."""

    batches: BatchSampler
    """What a step takes of the rows that are learned from."""
    steps: int
    """Optimizer steps of the whole run."""
    logging_steps: int
    """Steps between two logged losses."""
    logging_first_step: bool
    """Whether the first step is logged too."""

    def logs(self, step: int) -> bool:
        """Whether a loss is logged at this step."""
        return step % self.logging_steps == 0 or (step == 1 and self.logging_first_step)


def results_file(split: str) -> str:
    """The file of the figures of `train`, `eval` or `predict`."""
    return f"{split}_results.json"


def checkpoints(run: Path) -> list[Path]:
    """The checkpoints of a run, oldest first."""
    found = [entry for entry in run.iterdir() if CHECKPOINT.fullmatch(entry.name) and entry.is_dir()] if run.is_dir() else []
    return sorted(found, key=step_of)


def step_of(checkpoint: Path) -> int:
    """The optimizer steps behind a checkpoint: 1000 for `checkpoint-1000`."""
    match = CHECKPOINT.fullmatch(checkpoint.name)
    assert match, f"{checkpoint} is not the name of a checkpoint"
    return int(match[1])


def write_checkpoint(folder: Path, tuner: Tuner, base: Path, state: Mapping[str, Any]) -> None:
    """Write checkpoint-N: of a prefix its tensors with the base's small files, else a whole model folder; complete or not at all."""
    if tuner.adapter is None:
        save_network(tuner.network, base, folder, as_bin=True)
        write_json(folder / STATE, state)
        return
    with atomic_folder(folder) as part:
        write_original_prefix(part, base, tuner.adapter)
        write_json(part / STATE, state)


def write_whole(
    folder: Path, tuner: Tuner, base: Path, state: Mapping[str, Any], gather: Callable[[Tensor], Tensor], *, is_main: bool
) -> None:
    """Write checkpoint-N of a network that is sharded over processes; collective, and the process with `is_main` writes."""
    save_network(tuner.network, base, folder, as_bin=True, gather=gather, is_main=is_main)
    if is_main:
        write_json(folder / STATE, state)


def keep_newest(run: Path, count: int) -> None:
    """Delete all checkpoints but the newest `count`, each under a leftover's name first."""
    for checkpoint in checkpoints(run)[:-count]:
        remove(checkpoint)


def remove(entry: Path) -> None:
    """Delete a file, or a folder under a leftover's name first, so that none is ever half there."""
    if not entry.is_dir():
        entry.unlink(missing_ok=True)
        return
    doomed = entry.with_name(f".{entry.name}.part")
    shutil.rmtree(doomed, ignore_errors=True)
    entry.rename(doomed)
    shutil.rmtree(doomed)


def trainer_state(lines: Sequence[Mapping[str, Any]], pace: Pace, *, step: int, next_rate: float) -> dict[str, Any]:
    """What trainer_state.json says after `step`: the loss as a mean since the last one logged, with the rate of the step that follows."""
    history: list[dict[str, Any]] = []
    rates = {line["step"]: line["learning_rate"] for line in lines if "learning_rate" in line} | {step + 1: next_rate}
    waiting: list[float] = []
    for line in lines:
        if not 0 < line["step"] <= step:  # the loss before the first step is ours alone
            continue
        about = {"epoch": round(pace.batches.epochs_at(line["step"]), 2), "step": line["step"]}
        if "eval_loss" in line:
            history.append(about | {"eval_loss": line["eval_loss"]})
        elif "loss" in line:
            waiting += [] if line["loss"] is None else [line["loss"]]
            if pace.logs(line["step"]):
                loss = round(sum(waiting) / len(waiting), 4) if waiting else None
                history.append(about | {"learning_rate": rates.get(line["step"] + 1), "loss": loss})
                waiting = []
    return {
        "best_metric": None,
        "best_model_checkpoint": None,
        "epoch": pace.batches.epochs_at(step),
        "global_step": step,
        "is_hyper_param_search": False,
        "is_local_process_zero": True,
        "is_world_process_zero": True,
        "log_history": [dict(sorted(entry.items())) for entry in history],
        "max_steps": pace.steps,
        "num_train_epochs": -(-pace.steps // pace.batches.steps_per_epoch),
        "total_flos": 0,
        "trial_name": None,
        "trial_params": None,
    }


def training_figures(lines: Sequence[Mapping[str, Any]], pace: Pace, *, seconds: float) -> dict[str, Any]:
    """The figures of train_results.json."""
    losses = [line["loss"] for line in lines if line.get("loss") is not None]
    return {
        "epoch": round(pace.batches.epochs_at(pace.steps), 2),
        "train_loss": sum(losses) / len(losses) if losses else None,
        "train_samples": len(pace.batches.lengths),
        **_speed("train", seconds, pace.steps * pace.batches.size, pace.steps),
    }


def finish_training(run: RunFolder, state: Mapping[str, Any], figures: Mapping[str, Any]) -> None:
    """Write trainer_state.json with the figures at its end, then train_results.json, whose being there says that all is done."""
    told = {name: value for name, value in figures.items() if name != "train_samples"} | {"step": state["global_step"], "total_flos": 0}
    write_json(run.path / STATE, {**state, "log_history": [*state["log_history"], dict(sorted(told.items()))]})
    write_results(run.path, "train", figures)


def evaluation_figures(split: str, scores: Mapping[str, float], *, seconds: float, rows: int, batches: int) -> dict[str, Any]:
    """The figures of eval_results.json or predict_results.json, each behind its split's name."""
    return {f"{split}_{name}": value for name, value in scores.items()} | {f"{split}_samples": rows} | _speed(split, seconds, rows, batches)


def _speed(split: str, seconds: float, rows: int, steps: int) -> dict[str, float]:
    return {
        f"{split}_runtime": round(seconds, 4),
        f"{split}_samples_per_second": round(rows / max(seconds, 1e-9), 3),
        f"{split}_steps_per_second": round(steps / max(seconds, 1e-9), 3),
    }


def write_results(folder: Path, split: str, figures: Mapping[str, Any]) -> None:
    """Write all_results.json, where the figures join those of other splits, then the split's own file."""
    together = folder / ALL_RESULTS
    try:
        before = json.loads(together.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        before = {}
    write_json(together, dict(sorted(({**before, **figures} if isinstance(before, dict) else dict(figures)).items())))
    write_json(folder / results_file(split), dict(sorted(figures.items())))


def write_predictions(folder: Path, references: Sequence[str], predictions: Sequence[str]) -> None:
    """Write generated_predictions.txt: a line of JSON for each row, both texts without blanks at their ends."""
    rows = [{"labels": label.strip(), "predict": answer.strip()} for label, answer in zip(references, predictions, strict=True)]
    write_text(folder / PREDICTIONS, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
