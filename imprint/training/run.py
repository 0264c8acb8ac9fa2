"""`imprint train RECIPE.yaml`: config -> data -> model -> tune -> engine -> loop -> save, told once."""

import gc
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from imprint.config import dump, read_recipe
from imprint.data.dataset import DataSplits
from imprint.engine.deepspeed_zero import refuse_unsupported_dtype
from imprint.engine.launch import launch, local_processes
from imprint.engine.world import is_launched, is_orphaned, join_world
from imprint.errors import UserError
from imprint.evaluate.review import review_finished
from imprint.files import write_json, write_text
from imprint.forgetting.measure import check_files
from imprint.loading.load import load_base
from imprint.progress import say
from imprint.runs import RunFolder
from imprint.runtime import choose_device, choose_dtype, seed_everything, stop_on_signal
from imprint.training.evaluation import evaluate_and_keep_best, evaluation_loss
from imprint.training.guard import Guard
from imprint.training.job import TrainJob, build_job, load_data, refuse_sharded_base
from imprint.training.memory import probe, refuse_full_disk
from imprint.training.recipe import Recipe
from imprint.training.rescue import apply_rescues, read_rescues, rescue_if_diverged
from imprint.training.resume import data_digest, newest_state, open_run, refuse_other_rows
from imprint.training.run_log import RunLog
from imprint.training.state import TrainState, save_state
from imprint.training.step import train_step
from imprint.training.summary import RunSummary, advice, next_commands

GO_ON = "Run the same command again to go on. / 已停止；再次运行同一命令即可继续"
OnSave = Callable[[TrainJob, TrainState], None] | None


def train_command(path: Path, overrides: Sequence[str] = ()) -> int:
    """`imprint train`: run the recipe at `path` in as many processes as it says; returns the exit status. Raises as `train_recipe`."""
    recipe = read_recipe(path, overrides, Recipe)
    if not is_launched():
        count = local_processes(recipe.engine, recipe.model.device, recipe.train.batch_size)
        if count > 1 or recipe.engine.nodes > 1:
            return launch(recipe.engine, count, ["train", str(path), *overrides])
    try:
        train_recipe(recipe)
    except KeyboardInterrupt:
        if not is_launched() or not int(os.environ["RANK"]):
            raise  # the others have stopped together with the leader, which says so
    return 0


def train(path: Path, overrides: Sequence[str] = ()) -> RunFolder:
    """Run the recipe at `path` in this process, or go on with it; returns the run folder. Raises as `train_recipe`."""
    return train_recipe(read_recipe(path, overrides, Recipe))


def train_recipe(recipe: Recipe, *, split: DataSplits | None = None, on_save: OnSave = None) -> RunFolder:
    """Run a recipe, on its own data or on rows that are already encoded; `on_save` is called before each state is written.

    Raises UserError for everything a user can mend, KeyboardInterrupt after a stop that has been saved.
    """
    if not is_launched() and (recipe.engine.processes or 1) * recipe.engine.nodes > 1:
        raise UserError("engine.processes: this is one process. The command `imprint train RECIPE.yaml` starts several.")
    if recipe.tune.method != "full" and (recipe.engine.fsdp or recipe.engine.stage == 3):
        refuse_sharded_base(recipe.tune.method)
    if recipe.engine.deepspeed is not None:
        device = choose_device(recipe.model.device)
        refuse_unsupported_dtype(device, choose_dtype(recipe.model.dtype, device))
    with join_world(recipe.model.device, grouped=recipe.engine.is_sharded) as world, open_run(recipe, say, world) as run:
        finished = False
        while not finished:  # again after each rescue, exactly as a new process would begin
            seed_everything(recipe.train.seed)
            base = recipe.model
            model = load_base(base.path, quantize=base.quantize, dtype=base.dtype, device=base.device, template=base.template)
            model.source_prefix = recipe.data.source_prefix
            check_files(recipe.forgetting, Path(model.name))
            split = split or load_data(recipe, run, model, world)
            job = build_job(recipe, run, model, split, world)
            del model  # of two bases only one fits
            finished = train_loop(job, on_save)
            del job
            if not finished or recipe.forgetting.measure:  # then a base is loaded anew, and the optimizer holds this one in a circle
                gc.collect()
        if world.is_main:
            review_finished(run.path, recipe.forgetting, say, report=recipe.train.report)
    return run


def train_loop(job: TrainJob, on_save: OnSave) -> bool:
    """The loop, from the newest good state to the end: True; or to where the guard goes back: False."""
    run, section = job.run, job.recipe.train
    state = resume(job)
    job.world.on_main(lambda: bind_folder(job))
    with RunLog(run, step=state.step, steps=job.steps, quiet=not job.world.is_main) as run_log, stop_on_signal() as signals:
        guard = Guard.replay(run_log.points, run_log.samples, job.steps)
        prune(job, guard)  # a process killed right behind its last save deleted none
        print_start(job, state, run_log)
        for step in range(state.step + 1, job.steps + 1):
            state = train_step(job, replace(state, step=step), run_log)
            state = evaluate_and_keep_best(job, state, run_log)
            stop = job.world.any(flag=bool(signals) or is_orphaned())
            if section.guard and rescue_if_diverged(job, state, run_log, guard):
                if stop:
                    raise KeyboardInterrupt(f"stopped. {GO_ON}")
                return False
            if step % section.save_every == 0 or step == job.steps or stop:
                if on_save is not None:
                    on_save(job, state)
                save_state(run.state(step), job.engine, state)
                prune(job, guard)
            if stop and step < job.steps:
                raise KeyboardInterrupt(f"stopped and saved at step {step}. {GO_ON}")
    finish(job, state, run_log)
    return True


def bind_folder(job: TrainJob) -> None:
    """See that there is room on the disk, and bind the folder to the recipe: not before, for one that cannot run shall not bind it."""
    wide = 4 if job.tuner.adapter is not None else job.tuner.network.dtype.itemsize
    refuse_full_disk(job.run, job.trained_parameters, wide * job.trained_parameters, job.recipe.train.keep_states, say)
    write_text(job.run.config, dump(job.recipe))


def prune(job: TrainJob, guard: Guard) -> None:
    """Keep the newest states, and while the run is unstable the newest good one too."""
    if job.world.is_main:
        job.run.keep_newest(job.recipe.train.keep_states, good=guard.good if guard.unstable else None)


def resume(job: TrainJob) -> TrainState:
    """Bring everything to the newest good state, or leave it at the start."""
    digest = data_digest(job.split)
    state = TrainState(data=digest)
    saved = newest_state(job.run, say, job.world)
    if saved is not None:
        refuse_other_rows(saved.state, digest, job.recipe.data.files)
        state = saved.restore(job.engine)
        if state.step > job.steps:
            raise UserError(f"train.steps: {job.run.path} has done {state.step} steps already. Give at least that many.")
    state = apply_rescues(state, read_rescues(job.run))
    job.engine.lr_scale = state.rate_scale
    job.token_budget.tokens = None if job.recipe.engine.is_sharded else state.piece_tokens  # where all must compute as many pieces
    return state


def print_start(job: TrainJob, state: TrainState, run_log: RunLog) -> None:
    """Say in a few lines what is about to happen, try the longest rows where memory is a device's, and measure the loss before tuning."""
    tell = run_log.bar.say
    network = job.model.network
    bits = f" in {network.quantization_bit} bits" if network.quantization_bit else ""
    together = f" by {job.world.size} processes" if job.world.size > 1 else ""
    tell(
        f"base {job.model.name}: {job.base_parameters / 1e6:.1f} M parameters{bits} on {job.model.device}; "
        f"{job.trained_parameters / 1e6:.2f} M are trained{together}"
    )
    for source in (*job.engine.notices(), *job.split.sources):
        tell(source)
    tell(f"{len(job.split.train)} rows to learn from, {len(job.split.dev)} held out; {job.split.train_report.summary()}")
    if state.rate_scale != 1:
        tell(f"rescued {state.rescues} times so far: the learning rate is {state.rate_scale:.3g} of the recipe's / 学习率已降低")
    if 0 < state.step < job.steps:
        tell(f"going on after step {state.step} of {job.steps}")
    if job.model.device.type == "cuda" and state.step < job.steps:
        longest_rows = job.split.longest_rows(job.recipe.train.micro_batch_size)
        probe(job.tuner, job.engine, longest_rows, len(longest_rows), job.token_budget, tell)
    if not state.step and job.split.dev and not any(point["step"] == 0 for point in run_log.points):
        loss = evaluation_loss(job, run_log)
        run_log.record({"step": 0, "eval_loss": loss})
        tell(f"before tuning: evaluation loss {loss:.4f} on {len(job.split.dev)} held-out rows")


def finish(job: TrainJob, state: TrainState, run_log: RunLog) -> None:
    """Say that the run is finished, what came of it, and what to do with it; a run that learned nothing ends in a UserError."""
    if not state.best_step:
        raise UserError(
            f"{job.run.path}: no evaluation loss was ever finite, so nothing is kept. Lower optimizer.learning_rate, "
            "use model.dtype=float32, or check the base's weights; then train in a new folder."
        )
    path, place = job.run.path, job.run.adapter if job.tuner.adapter is not None else job.run.model
    loss = "" if state.best_loss is None else f" with evaluation loss {state.best_loss:.4f}"
    run_log.bar.say(f"finished: {job.steps} of {job.steps} steps are done; {place} holds step {state.best_step}{loss}")
    rows, held_out, size = len(job.split.train), len(job.split.dev), job.recipe.train.batch_size
    general = job.split.general_per_epoch
    summary = RunSummary.from_log(run_log.points, rows=rows, held_out=held_out, batch_size=size, steps=job.steps, general=general)
    data, said = job.recipe.data, advice(summary)
    if job.world.is_main and job.recipe.train.report:
        write_json(job.run.verdict, [line.split("\n", 1) for line in said])
    for line in (*said, *next_commands(str(path), None if data.dev is None else str(data.dev), data.kind, held_out=held_out)):
        run_log.bar.say(line)
