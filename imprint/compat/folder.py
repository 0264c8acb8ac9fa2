"""Decides what to do with an output_dir: resume, start over, resume from a checkpoint, or refuse."""

import re
import shutil
from pathlib import Path

from imprint.compat.flags import TRUE, OriginalFlags
from imprint.compat.settings import evaluates
from imprint.compat.trainer_files import ALL_RESULTS, CHECKPOINT, PREDICTIONS, TRAINER_STATE, checkpoints, remove, results_file, step_of
from imprint.config import dump, recipe_text
from imprint.files.atomic import atomic_folder, find_folder, read_jsonl, remove_leftovers, write_jsonl, write_text
from imprint.messages import Bilingual, UserError
from imprint.models.families import listing
from imprint.runs import RunFolder
from imprint.runs import step_of as state_step
from imprint.training.device_fit import with_checkpointing
from imprint.training.recipe import Recipe

EVALUATION_FILES = {"lock", "evaluations", ALL_RESULTS, PREDICTIONS, results_file("eval"), results_file("predict")}
"""What a folder may hold before it is trained in."""
COMPARISON = re.compile(r"compare(-.+)?\.(md|html|png)")
"""The pages of `imprint compare` and their pictures."""


def prepare_output(flags: OriginalFlags, recipe: Recipe) -> Bilingual | None:
    """Prepare output_dir so that training of this recipe can start or resume; returns a message about what was done, if anything was.

    Raises UserError if the folder holds something else and overwrite_output_dir was not given, and if another process trains in it.
    """
    run = RunFolder(recipe.output)
    with run.lock():
        remove_leftovers(run.path)
        is_same = _is_of(recipe, run)
        if is_same and not _is_finished(flags, run):
            step = state_step(run.states()[0]) if run.states() else 0
            return Bilingual(f"{run.path}: an unfinished run of the same arguments is resumed after step {step}", "继续未完成的训练")
        if flags.resume_from_checkpoint is not None:
            return _resume_from_checkpoint(flags, run, recipe)
        if not _has_started(run):
            _require_no_foreign_files(flags, run)
            return None
        if flags.overwrite_output_dir:
            _remove_training(run)
            english = f"{run.path}: --overwrite_output_dir starts over; the files of the earlier training and its evaluations are removed"
            return Bilingual(english, "已清除旧的训练结果及其评估，重新开始")
        if is_same:
            english = f"{run.path}: is finished; --overwrite_output_dir would train it again"
            return Bilingual(english, "已训练完成；加 --overwrite_output_dir 可重新训练")
    raise UserError(
        Bilingual(
            f"--output_dir {run.path}: holds a run of other arguments. Give another --output_dir, or --overwrite_output_dir to start over.",
            f"--output_dir {run.path}：该目录中已有其他参数的训练：请换一个 --output_dir，或加 --overwrite_output_dir 重新开始。",
        )
    )


def _is_of(recipe: Recipe, run: RunFolder) -> bool:
    """Whether the run's configuration is this recipe, with the checkpointing that the run chose where the recipe leaves it open."""
    if not run.config.is_file():
        return False
    given = recipe.train.checkpointing
    begun = recipe_text(run.config)
    return any(begun == dump(with_checkpointing(recipe, value)) for value in ((False, True) if given is None else (given,)))


def _has_started(run: RunFolder) -> bool:
    return run.config.is_file() or run.log.is_file() or bool(run.states())


def _is_finished(flags: OriginalFlags, run: RunFolder) -> bool:
    """Whether a command with these flags has written all its files."""
    last = checkpoints(run.path)
    trained = bool(last and run.states()) and step_of(last[-1]) == state_step(run.states()[0])
    splits = ["train", *(["eval"] if evaluates(flags) else []), *(["predict"] if flags.do_predict else [])]
    return trained and all((run.path / results_file(split)).is_file() for split in splits)


def _require_no_foreign_files(flags: OriginalFlags, run: RunFolder) -> None:
    names = {entry.name for entry in run.path.iterdir()} if run.path.is_dir() else set()
    begun = {run.held_out.name, run.learned_rows.name}  # written before config.yaml, with which a training that was killed has started
    if names - EVALUATION_FILES - begun and not flags.overwrite_output_dir:
        raise UserError(
            Bilingual(
                f"--output_dir {run.path}: is not empty and no run of Imprint; found {listing(run.path)}. Give an empty folder, or "
                "--overwrite_output_dir to write beside what is there.",
                f"--output_dir {run.path}：目录非空：请换一个空目录，或加 --overwrite_output_dir。",
            )
        )


def _remove_training(run: RunFolder) -> None:
    """Remove what a training wrote and what was measured of it; config.yaml first: without it a folder is no run.

    Scores and answers of the earlier weights would otherwise stand beside the new ones as theirs.
    """
    results = [run.path / results_file(split) for split in ("train", "eval", "predict")]
    logs = [run.tensorboard, run.curve, run.samples, run.rescues, run.starts, run.log]
    pages = [entry for entry in sorted(run.path.iterdir()) if COMPARISON.fullmatch(entry.name)]
    measured = [run.evaluations, run.forgetting, run.before_after, run.verdict, run.report, *pages]
    written = [run.path / file for file in (TRAINER_STATE, ALL_RESULTS, PREDICTIONS)]
    for entry in (run.config, *written, *results, *measured, run.adapter, run.model, *checkpoints(run.path), *run.states(), *logs):
        if entry.exists():
            remove(entry)


def _resume_from_checkpoint(flags: OriginalFlags, run: RunFolder, recipe: Recipe) -> Bilingual:
    """Prepare the run to resume from the checkpoint that resume_from_checkpoint names, of this run or of another one."""
    source, step = _find_state(flags, run)
    if source.path.resolve() != run.path.resolve():
        if run.config.is_file() and not flags.overwrite_output_dir:  # without it, the copy below was interrupted
            raise UserError(
                Bilingual(
                    f"--output_dir {run.path}: holds another run than --resume_from_checkpoint. Give another --output_dir, or "
                    "--overwrite_output_dir to start over.",
                    f"--output_dir {run.path}："
                    "该目录中的训练与 --resume_from_checkpoint 不同：请换一个 --output_dir，或加 --overwrite_output_dir 重新开始。",
                )
            )
        _remove_training(run)
        _copy_state(source, run, step)
    for split in ("train", "eval", "predict"):
        remove(run.path / results_file(split))
    for entry in (*checkpoints(run.path), *run.states()):
        if (step_of(entry) if CHECKPOINT.fullmatch(entry.name) else state_step(entry)) > step:
            remove(entry)
    write_text(run.config, dump(recipe))
    return Bilingual(f"{run.path}: resumes after step {step} of {source.path}", f"从第 {step} 步继续")


def _find_state(flags: OriginalFlags, run: RunFolder) -> tuple[RunFolder, int]:
    """The run and the step of the checkpoint to resume from; its saved state must exist."""
    value = str(flags.resume_from_checkpoint)
    if value.lower() in TRUE:
        if not run.states():
            raise UserError(
                Bilingual(
                    f"--resume_from_checkpoint {value}: {run.path} has no saved state yet. Take the flag out to start.",
                    f"--resume_from_checkpoint {value}：该目录中还没有保存的训练状态：请去掉这个参数，从头开始。",
                )
            )
        return run, state_step(run.states()[0])
    checkpoint = Path(value)
    match = CHECKPOINT.fullmatch(checkpoint.name)
    if match and (source := RunFolder(checkpoint.parent)).state(int(match[1])).is_dir():
        return source, int(match[1])
    if not checkpoint.is_dir():
        raise UserError(
            Bilingual(
                f"--resume_from_checkpoint {value}: there is no such checkpoint. Give output_dir/checkpoint-N of an Imprint run.",
                f"--resume_from_checkpoint {value}：没有这个检查点：请给出 Imprint 训练结果目录中的 output_dir/checkpoint-N。",
            )
        )
    raise UserError(
        Bilingual(
            f"--resume_from_checkpoint {value}: holds weights, but the optimizer's state was deleted or never saved by Imprint. Start "
            f"a new run from its weights: --ptuning_checkpoint {value} (all weights: --model_name_or_path {value}).",
            f"--resume_from_checkpoint {value}：该检查点没有可用的优化器状态：请改用 --ptuning_checkpoint 从其权重开始新的训练。",
        )
    )


def _copy_state(source: RunFolder, run: RunFolder, step: int) -> None:
    """Copy a saved state of another run, with its best weights and its logs up to `step`."""
    with atomic_folder(run.state(step)) as part:
        shutil.copytree(source.state(step), part, dirs_exist_ok=True)
    for weights, target in ((source.adapter, run.adapter), (source.model, run.model)):
        if (folder := find_folder(weights)) is not None:
            with atomic_folder(target) as part:
                shutil.copytree(folder, part, dirs_exist_ok=True)
    for log, target in ((source.log, run.log), (source.samples, run.samples)):
        if log.is_file():
            lines = [line for line in read_jsonl(log) if line["step"] <= step]
            write_jsonl(target, lines)
