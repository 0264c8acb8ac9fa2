"""`imprint train RECIPE.yaml`: recipe -> model -> data -> tuner and engine -> training loop -> result."""

import gc
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from imprint.config import dump, read_recipe
from imprint.data.dataset import DataSplits
from imprint.data.held_out import HeldOutRecord
from imprint.engine.deepspeed_zero import refuse_unsupported_dtype
from imprint.engine.launch import launch, local_processes
from imprint.engine.world import is_launched, is_orphaned, join_world
from imprint.evaluate.review import review_finished
from imprint.files.atomic import write_text
from imprint.forgetting.measure import check_files
from imprint.messages import Bilingual, UserError
from imprint.report.starts import RunStart, record_start, this_start
from imprint.runs import RunFolder
from imprint.runtime import choose_device, choose_dtype, import_ahead, seed_everything, stop_on_signal
from imprint.terminal import say
from imprint.training.device_fit import fit_to_device
from imprint.training.evaluation import evaluate_and_keep_best, evaluate_before_tuning, evaluate_last_step
from imprint.training.fit_probe import probe
from imprint.training.general_answers import with_base_answers
from imprint.training.guard import NOTHING_FINITE, Guard
from imprint.training.job import (
    TrainJob,
    build_job,
    check_data,
    load_data,
    load_model,
    refuse_sharded_base,
    with_limits,
)
from imprint.training.memory import check_disk
from imprint.training.recipe import Recipe
from imprint.training.rescue import give_up, rescue_if_diverged
from imprint.training.resume import (
    check_output,
    open_run,
    restore_progress,
    with_commit,
    with_first_limits,
    with_start_date,
)
from imprint.training.run_lines import print_end, print_start, write_verdict
from imprint.training.run_log import EarlyNotices, RunLog
from imprint.training.sinks import Sink
from imprint.training.state import TrainProgress, save_state
from imprint.training.step import StepBatches, train_step
from imprint.training.trackio import Trackio, refuse_missing_trackio

RUN_AGAIN = Bilingual("Run the same command again to go on.", "已停止；再次运行同一命令即可继续")
IMPORTED_AHEAD = ("torch._dynamo", "imprint.report.curve")
"""What the optimizer imports, and what draws the curves: two to three seconds."""
OnSave = Callable[[TrainJob, TrainProgress], None] | None
"""Called before each state is saved."""


def train_command(recipe: Recipe, arguments: Sequence[str]) -> int:
    """`imprint train`: run a recipe in one or several processes; returns the exit status. Raises as `train_recipe`.

    `arguments`: the recipe's path and the overrides, from which the other processes read it.
    """
    if not is_launched():
        count = local_processes(recipe.engine, recipe.model.device, recipe.train.batch_size)
        if count > 1 or recipe.engine.nodes > 1:
            check_data(recipe)
            check_output(recipe)
            commit = with_commit(recipe).model.commit  # the others would wait for a download longer than they wait for each other
            pinned = [] if commit is None else [f"model.commit={commit}"]
            return launch(recipe.engine, count, ["train", *arguments, *pinned])
    try:
        train_recipe(recipe, command=("train", *arguments))
    except KeyboardInterrupt:
        if not is_launched() or not int(os.environ["RANK"]):
            raise  # only the main process prints that the run has stopped
    return 0


def train(path: Path, overrides: Sequence[str] = ()) -> RunFolder:
    """Start or resume the run of the recipe at `path` in this process; returns the run folder. Raises as `train_recipe`."""
    return train_recipe(read_recipe(path, overrides, Recipe), command=("train", str(path), *overrides))


def train_recipe(
    recipe: Recipe,
    *,
    split: DataSplits | None = None,
    on_save: OnSave = None,
    command: Sequence[str] = (),
    flags: Mapping[str, str] | None = None,
) -> RunFolder:
    """Start or resume the run of a recipe, on its own data or on encoded rows (`split`); returns the run folder.

    `command` are the words after `imprint` with which it was started, for the report; `flags`, where it was started without a recipe,
    are what the user types for a knob.

    Raises UserError for everything that the user can fix, and KeyboardInterrupt after a stop by a signal, when the state is saved.
    """
    check_settings(recipe)
    if split is None:
        check_data(recipe)
    if not is_launched():  # the other processes would find the lock held
        check_output(recipe)
    recipe = with_commit(recipe)
    notify = EarlyNotices()
    with join_world(recipe.model.device, process_group=recipe.engine.uses_deepspeed_or_fsdp) as world:
        recipe = with_first_limits(with_start_date(recipe, world), world)
        with open_run(recipe, notify, world) as run:
            if choose_device(recipe.model.device).type == "cuda":  # while the weights are read
                import_ahead(*IMPORTED_AHEAD)
            start = this_start(command, recipe.model.device, world.size)
            finished = False
            while not finished:  # after a rescue everything is built again, as in a new process
                seed_everything(recipe.train.seed)
                model = load_model(recipe)
                check_files(recipe.forgetting, Path(model.name))
                split = split or with_base_answers(load_data(recipe, run, model, world), recipe, run, model, world)
                recipe = with_limits(recipe, split)
                recipe, budget = fit_to_device(recipe, split, model, world, notify)
                job = replace(build_job(recipe, run, model, split, world), flags=flags or {}, token_budget=budget)
                del model  # only the job refers to it, so that memory never holds two
                finished = train_loop(job, on_save, notify, start)
                del job
                if not finished or recipe.forgetting.measure:  # the base is loaded again; a reference cycle keeps this one
                    gc.collect()
            if world.is_main:
                review_finished(run.path, recipe.forgetting, say, report=recipe.train.report)
    return run


def check_settings(recipe: Recipe) -> None:
    """Raise UserError for settings that do not fit together or this machine, before anything is loaded."""
    if not is_launched() and (recipe.engine.processes or 1) * recipe.engine.nodes > 1:
        raise UserError(
            Bilingual(
                "engine.processes: this is one process. The command `imprint train RECIPE.yaml` starts several.",
                "engine.processes：当前只有一个进程；请用命令 imprint train RECIPE.yaml 启动多个进程。",
            )
        )
    if recipe.tune.method != "full" and (recipe.engine.fsdp or recipe.engine.stage == 3):
        refuse_sharded_base(recipe.tune.method)
    if recipe.engine.deepspeed is not None:
        device = choose_device(recipe.model.device)
        refuse_unsupported_dtype(device, choose_dtype(recipe.model.dtype, device))
    if recipe.train.tracker == "trackio":
        refuse_missing_trackio()


def train_loop(job: TrainJob, on_save: OnSave, notify: EarlyNotices, start: RunStart) -> bool:
    """Train from the newest good state to the last step; returns False if the guard stops it for a rescue."""
    run, section = job.run, job.recipe.train
    progress = restore_progress(job, notify)
    disk_warning = job.world.on_main(lambda: save_config(job, start))
    if disk_warning is not None and job.world.is_main:
        notify(disk_warning)
    with open_log(job, progress) as run_log, stop_on_signal() as signals:
        notify.log(run_log)
        print_start(job, progress, run_log)
        probe_longest_rows(job, progress, run_log)
        evaluate_before_tuning(job, progress, run_log)
        progress = evaluate_last_step(job, progress, run_log)
        guard = Guard.replay(run_log.events, job.steps)
        prune(job, guard)  # a kill between save and prune may have left too many
        batches = StepBatches(job)
        for step in range(progress.step + 1, job.steps + 1):
            progress = train_step(job, replace(progress, step=step), run_log, batches)
            progress = evaluate_and_keep_best(job, progress, run_log)
            stop = job.world.any(flag=bool(signals) or is_orphaned())
            if section.guard and rescue_if_diverged(job, progress, run_log, guard):
                if stop:
                    raise KeyboardInterrupt(f"stopped. {RUN_AGAIN.line}")
                return False
            if step % section.save_every == 0 or step == job.steps or stop:
                run_log.flush()  # a state never has a step that the log lacks
                if on_save is not None:
                    on_save(job, progress)
                save_state(run.state(step), job.engine, progress)
                prune(job, guard)
            if stop and step < job.steps:
                raise KeyboardInterrupt(f"stopped and saved at step {step}. {RUN_AGAIN.line}")
        if not progress.best_step:
            give_up(job, run_log, NOTHING_FINITE)
        run_log.finish(progress.best_step, progress.best_loss)
    print_end(job, progress, run_log, write_verdict(job, run_log))
    return True


def save_config(job: TrainJob, start: RunStart) -> Bilingual | None:
    """Check the disk space; write which rows are held out and which learned, and config.yaml, which makes the folder a run; note the start.

    Returns a warning if space is short. This comes after all other checks: a recipe that cannot run leaves no config.yaml.
    """
    width = 4 if job.tuner.adapter is not None else job.tuner.network.dtype.itemsize
    warning = check_disk(job.run, job.trained_parameters, width * job.trained_parameters, job.recipe.train.keep_states)
    if job.recipe.data.dev is None and job.split.dev_samples:
        locations = {sample.location for sample in job.split.dev_samples}.union(job.split.locations)
        HeldOutRecord.of(len(locations), job.split.dev_samples).write(job.run.held_out)
    if job.split.learned is not None:
        job.split.learned.write(job.run.learned_rows)
    write_text(job.run.config, dump(job.recipe))
    if job.recipe.train.report:
        record_start(job.run, start)
    return warning


def open_log(job: TrainJob, progress: TrainProgress) -> RunLog:
    """Open the log of the run, with the events up to this step."""
    quiet, trackers = not job.world.is_main, list[Sink]()
    if job.recipe.train.tracker == "trackio" and not quiet:
        trackers.append(Trackio(job.run.path.resolve().name, job.recipe.model_dump(mode="json")))
    return RunLog(job.run, step=progress.step, steps=job.steps, data_digest=progress.data, quiet=quiet, trackers=trackers)


def prune(job: TrainJob, guard: Guard) -> None:
    """Delete all states but the newest, and the newest good one while the run is unstable."""
    if job.world.is_main:
        job.run.keep_newest(job.recipe.train.keep_states, good=guard.good_step if guard.unstable else None)


def probe_longest_rows(job: TrainJob, progress: TrainProgress, run_log: RunLog) -> None:
    """On a GPU, compute the longest rows once before training, so that a lack of memory shows at once."""
    if job.model.device.type == "cuda" and progress.step < job.steps:
        probe(job, run_log.memory_notice)
