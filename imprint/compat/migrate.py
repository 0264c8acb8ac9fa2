"""`imprint migrate train.sh`: the recipe that an old script amounts to, with a sentence for each flag that has no counterpart."""

import os
import shlex
from pathlib import Path

import torch

from imprint.compat.flags import OriginalFlags, read_flags
from imprint.compat.script import commands
from imprint.compat.settings import asked_of, recipe_of
from imprint.config import dump
from imprint.errors import UserError
from imprint.evaluate.section import EvaluateSection
from imprint.files import write_text

LEFT_OUT = {
    "logging_steps": "log.jsonl has every step; trainer_state.json is written by `imprint main` alone",
    "logging_first_step": "log.jsonl has every step",
    "overwrite_output_dir": "a run that was stopped goes on; another recipe needs another output",
    "predict_with_generate": "`imprint evaluate` always answers",
    "resume_from_checkpoint": "the same command again goes on from the newest state",
}
"""Flags of training that `imprint main` follows and a recipe has no knob for."""


def migrate_command(script: Path, output: Path | None) -> None:
    """Print the recipe of a script or of a JSON file of arguments, or write it to `output`.

    Raises UserError for a script that calls no main.py, and for flags that cannot be followed.
    """
    calls = [[str(script)]] if script.suffix == ".json" else commands(script, os.environ)
    if not calls:
        raise UserError(f"{script}: calls no main.py. Give a script with a line such as `python3 main.py --do_train ...`.")
    read = [read_flags(call) for call in calls]
    trainings = sum(flags.do_train for flags, _ in read)
    if trainings > 1 and output is not None:
        raise UserError(f"{script}: trains {trainings} times, and a recipe is one training. Leave {output} out to see all of them.")
    text = ("---\n" if trainings > 1 else "\n").join(migrated(*call, script=script) for call in read)
    if output is None:
        print(text, end="")  # noqa: T201
        return
    write_text(output, text)
    print(f"wrote {output}; next: imprint train {output}")  # noqa: T201


def migrated(flags: OriginalFlags, answered: list[str], *, script: Path) -> str:
    """A recipe in YAML, the rest as comments: what has no counterpart, and the commands that evaluate."""
    cuda = torch.cuda.is_available()
    notes = [f"from {script.name}", *answered]
    notes += [f"--{name}: {why}" for name, why in LEFT_OUT.items() if name in flags.model_fields_set]
    text = ""
    if flags.do_train:
        if not (flags.train_file and flags.prompt_column and flags.response_column):
            raise UserError(f"{script}: --do_train needs --train_file, --prompt_column and --response_column. Add them to the script.")
        recipe = recipe_of(flags, cuda=cuda)
        if recipe.model.dtype == "float32" and not cuda and flags.pre_seq_len:
            notes.append("there is no GPU here; on one the original computed in float16: model.dtype=float16")
        if flags.deepspeed is not None:
            notes.append(
                f"train.batch_size is what one process took: multiply {recipe.train.batch_size} by the number of GPUs / 请乘以 GPU 数"
            )
        text = dump(recipe)
    for asked, data, limit in (
        (flags.do_eval, flags.validation_file, flags.max_eval_samples),
        (flags.do_predict, flags.test_file, flags.max_predict_samples),
    ):
        if asked and data is not None:
            notes.append("evaluation: " + evaluation_command(flags, data, limit, cuda=cuda))
    return "".join(f"# {note}\n" for note in notes) + text


def evaluation_command(flags: OriginalFlags, data: Path, limit: int | None, *, cuda: bool) -> str:
    """`imprint evaluate` with the original's protocol."""
    section = asked_of(flags, cuda=cuda)
    default = EvaluateSection()
    knobs = [f"{name}={value}" for name, value in section.model_dump(mode="json").items() if value != getattr(default, name)]
    if flags.ptuning_checkpoint is not None and not flags.do_train:
        knobs.append(f"adapter={flags.ptuning_checkpoint}")
    model = str(flags.output_dir) if flags.do_train else flags.model_name_or_path
    few = ["--limit", str(limit)] if limit else []
    return shlex.join(["imprint", "evaluate", model, "--data", str(data), *few, *knobs])
