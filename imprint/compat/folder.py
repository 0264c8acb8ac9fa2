"""Whether an output_dir may be trained in: gone on with, begun anew, taken up from a checkpoint, or refused."""

import json
import shutil
from pathlib import Path

from imprint.compat.flags import TRUE, OriginalFlags
from imprint.compat.layout import ALL_RESULTS, CHECKPOINT, PREDICTIONS, STATE, checkpoints, remove, results_file, step_of
from imprint.compat.settings import evaluates
from imprint.config import dump
from imprint.errors import UserError
from imprint.files import atomic_folder, find_folder, read_jsonl, remove_leftovers, write_text
from imprint.messages import Bilingual
from imprint.models.families import listing
from imprint.runs import RunFolder
from imprint.runs import step_of as state_step
from imprint.training.recipe import Recipe

EVALUATED = {"lock", "evaluations", ALL_RESULTS, PREDICTIONS, results_file("eval"), results_file("predict")}
"""What a folder may hold before anything was trained in it."""


def make_ready(flags: OriginalFlags, recipe: Recipe) -> str:
    """Bring the output_dir to where training of this recipe can begin or go on; returns what was done, for a person.

    Raises UserError where the folder holds something else and overwrite_output_dir was not given, and where another process trains in it.
    """
    run = RunFolder(recipe.output)
    with run.held():
        remove_leftovers(run.path)
        same = run.config.is_file() and run.config.read_text(encoding="utf-8") == dump(recipe)
        if same and not _finished(flags, run):
            step = state_step(run.states()[0]) if run.states() else 0
            return f"{run.path}: an unfinished run of the same arguments is gone on with after step {step} / 继续未完成的训练"
        if flags.resume_from_checkpoint is not None:
            return _take_up(flags, run, recipe)
        if not _begun(run):
            _refuse_foreign(flags, run)
            return ""
        if flags.overwrite_output_dir:
            _clear(flags, run)
            return f"{run.path}: --overwrite_output_dir begins anew; what training wrote before is removed / 已清除旧的训练结果，重新开始"
        if same:
            return f"{run.path}: is finished; --overwrite_output_dir would train anew / 已训练完成；加 --overwrite_output_dir 可重新训练"
    raise UserError(
        Bilingual(
            f"--output_dir {run.path}: holds a run of other arguments. Give another --output_dir, or --overwrite_output_dir to begin anew.",
            "该目录中已有其他参数的训练：请换一个 --output_dir，或加 --overwrite_output_dir 重新开始。",
        )
    )


def _begun(run: RunFolder) -> bool:
    return run.config.is_file() or run.log.is_file() or bool(run.states())


def _finished(flags: OriginalFlags, run: RunFolder) -> bool:
    """Whether a command of these flags has written everything it writes."""
    last = checkpoints(run.path)
    trained = bool(last and run.states()) and step_of(last[-1]) == state_step(run.states()[0])
    asked = ["train", *(["eval"] if evaluates(flags) else []), *(["predict"] if flags.do_predict else [])]
    return trained and all((run.path / results_file(split)).is_file() for split in asked)


def _refuse_foreign(flags: OriginalFlags, run: RunFolder) -> None:
    found = {entry.name for entry in run.path.iterdir()} if run.path.is_dir() else set()
    if found - EVALUATED and not flags.overwrite_output_dir:
        raise UserError(
            Bilingual(
                f"--output_dir {run.path}: is not empty and no run of Imprint; found {listing(run.path)}. Give an empty folder, or "
                "--overwrite_output_dir to write beside what is there.",
                "目录非空：请换一个空目录，或加 --overwrite_output_dir。",
            )
        )


def _clear(flags: OriginalFlags, run: RunFolder) -> None:
    """Remove what training wrote, and the figures that this command writes anew; config.yaml first: what a kill leaves is no run."""
    again = [split for split, asked in (("eval", evaluates(flags)), ("predict", flags.do_predict)) if asked]
    single = [run.config, run.path / STATE, run.path / results_file("train"), *(run.path / results_file(split) for split in again)]
    for entry in (*single, run.adapter, run.model, *checkpoints(run.path), *run.states(), *_traces(run), run.log):
        if entry.exists():
            remove(entry)


def _traces(run: RunFolder) -> list[Path]:
    return [run.events, run.curve, run.samples, run.rescues]


def _take_up(flags: OriginalFlags, run: RunFolder, recipe: Recipe) -> str:
    """Let the run go on from the checkpoint that resume_from_checkpoint names, of this run or of another one."""
    home, step = _named(flags, run)
    if home.path.resolve() != run.path.resolve():
        if run.config.is_file() and not flags.overwrite_output_dir:  # without it, a kill came between the lines below
            raise UserError(
                f"--output_dir {run.path}: holds another run than --resume_from_checkpoint. Give another --output_dir, or "
                "--overwrite_output_dir to begin anew."
            )
        _clear(flags, run)
        _copy(home, run, step)
    for split in ("train", "eval", "predict"):
        remove(run.path / results_file(split))
    for entry in (*checkpoints(run.path), *run.states()):
        if (step_of(entry) if CHECKPOINT.fullmatch(entry.name) else state_step(entry)) > step:
            remove(entry)
    write_text(run.config, dump(recipe))
    return f"{run.path}: goes on after step {step} of {home.path} / 从第 {step} 步继续"


def _named(flags: OriginalFlags, run: RunFolder) -> tuple[RunFolder, int]:
    """The run and the step of a checkpoint whose saved state is still there."""
    place = str(flags.resume_from_checkpoint)
    if place.lower() in TRUE:
        if not run.states():
            raise UserError(f"--resume_from_checkpoint {place}: {run.path} has no saved state yet. Take the flag out to begin.")
        return run, state_step(run.states()[0])
    checkpoint = Path(place)
    match = CHECKPOINT.fullmatch(checkpoint.name)
    if match and (home := RunFolder(checkpoint.parent)).state(int(match[1])).is_dir():
        return home, int(match[1])
    if not checkpoint.is_dir():
        raise UserError(f"--resume_from_checkpoint {place}: there is no such checkpoint. Give output_dir/checkpoint-N of a run of Imprint.")
    raise UserError(
        Bilingual(
            f"--resume_from_checkpoint {place}: holds weights, but the optimizer's state beside it is deleted, or was never "
            "Imprint's. Begin "
            f"a new run from its weights: --ptuning_checkpoint {place} (all weights: --model_name_or_path {place}).",
            "该检查点没有可用的优化器状态：请改用 --ptuning_checkpoint 从其权重开始新的训练。",
        )
    )


def _copy(home: RunFolder, run: RunFolder, step: int) -> None:
    """Bring a saved state of another run here, with what it had logged and kept."""
    with atomic_folder(run.state(step)) as part:
        shutil.copytree(home.state(step), part, dirs_exist_ok=True)
    for kept, place in ((home.adapter, run.adapter), (home.model, run.model)):
        if (folder := find_folder(kept)) is not None:
            with atomic_folder(place) as part:
                shutil.copytree(folder, part, dirs_exist_ok=True)
    for log, place in ((home.log, run.log), (home.samples, run.samples)):
        if log.is_file():
            kept_lines = [line for line in read_jsonl(log) if line["step"] <= step]
            write_text(place, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in kept_lines))
