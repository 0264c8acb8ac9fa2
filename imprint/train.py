"""`imprint train RECIPE.yaml`: config -> data -> model -> tune -> engine -> loop -> save, told once."""

import hashlib
import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from imprint.config import dump, read_recipe
from imprint.data.batch import NOT_SCORED, Batches, pack, sorted_by_length
from imprint.data.dataset import Split, load_split
from imprint.data.encode import Encoded
from imprint.engine import Engine
from imprint.errors import UserError
from imprint.files import remove_leftovers, write_text
from imprint.generate import NotFiniteError, Sampling, generate
from imprint.journal import Journal
from imprint.model import Model, load
from imprint.recipe import Recipe
from imprint.runs import RunFolder
from imprint.runtime import peak_memory_bytes, seed_everything
from imprint.state import Position, load_state, save_state
from imprint.tune.tuner import Tuner, start_tuner

SKIPPED_IN_A_ROW = 10
GIB = 2**30


@dataclass(frozen=True)
class Job:
    """Everything the loop works with."""

    recipe: Recipe
    """The resolved recipe."""
    run: RunFolder
    """Where it is written."""
    model: Model
    """The base with its tokenizer."""
    split: Split
    """Encoded rows."""
    tuner: Tuner
    """What learns."""
    engine: Engine
    """Devices and optimizer."""
    batches: Batches
    """Which rows a step takes."""
    steps: int
    """Optimizer steps in all."""


def train(path: Path, overrides: Sequence[str] = ()) -> RunFolder:
    """Run the recipe at `path`, or go on with it; returns the run folder. Raises as `train_recipe`."""
    return train_recipe(read_recipe(path, overrides, Recipe))


def train_recipe(recipe: Recipe, *, split: Split | None = None, on_save: Callable[[Job, Position], None] | None = None) -> RunFolder:
    """Run a recipe, on its own data or on rows that are already encoded; `on_save` is called before each state is written.

    Raises UserError for everything a user can mend, KeyboardInterrupt after a stop that has been saved.
    """
    run = open_run(recipe)
    seed_everything(recipe.train.seed)
    model = load(recipe.model.path, quantize=recipe.model.quantize, dtype=recipe.model.dtype, device=recipe.model.device)
    split = split or load_split(recipe.data, model.tokenizer)
    tuner = start_tuner(model.network, recipe.tune, model.tokenizer, checkpointing=recipe.train.checkpointing)
    engine = Engine(model.device)
    lengths = [len(row.ids) for row in split.train]
    batches = Batches(lengths, recipe.train.batch_size, seed=recipe.train.seed, group_by_length=recipe.train.group_by_length)
    steps = recipe.train.steps or max(1, round(recipe.train.epochs * batches.per_epoch))
    engine.prepare(tuner, tuner.trained(), recipe.optimizer, steps)
    job = Job(recipe, run, model, split, tuner, engine, batches, steps)
    position = resume(job)
    write_text(run.config, dump(recipe))  # not before: a recipe that cannot run shall not bind its folder
    with Journal(run, step=position.step, steps=steps) as journal, stop_on_signal() as stop:
        announce(job, position, journal)
        for step in range(position.step + 1, steps + 1):
            position = train_step(job, replace(position, step=step), journal)
            position = look(job, position, journal)
            if step % recipe.train.save_every == 0 or step == steps or stop:
                if on_save is not None:
                    on_save(job, position)
                save_state(run.state(step), tuner, engine, position)
                run.keep_newest(recipe.train.keep_states)
            if stop and step < steps:
                raise KeyboardInterrupt(f"stopped and saved at step {step}. Run the same command again to go on.")
        conclude(job, position, journal)
    return run


def open_run(recipe: Recipe) -> RunFolder:
    """The run folder; one that training has begun in must have been made by the same recipe."""
    run = RunFolder(recipe.output)
    remove_leftovers(run.path)
    text = dump(recipe)
    begun = run.log.is_file() or run.states()
    if begun and not run.config.is_file():
        raise UserError(
            f"{run.path}: a run was begun here, but its config.yaml is gone. Put it back, or choose another folder (output=...)."
        )
    if begun and (before := run.config.read_text(encoding="utf-8")) != text:
        old, new = set(before.splitlines()), set(text.splitlines())
        changed = "; ".join(f"{line.strip()}" for line in text.splitlines() if line in new - old) or "a knob is gone"
        raise UserError(
            f"{run.path}: was begun with another recipe; new here: {changed}. Take back the change, or choose another folder (output=...)."
        )
    return run


def resume(job: Job) -> Position:
    """Bring everything to the newest saved state, or to the start."""
    digest = data_digest(job.split)
    for state in job.run.states():
        position = load_state(state, job.tuner, job.engine)
        if position.data != digest:
            files = " or ".join(str(file) for file in (job.recipe.data.train, job.recipe.data.dev) if file)
            raise UserError(f"{files}: is not what this run began with. Put the old file back, or choose another folder (output=...).")
        job.run.keep_newest(job.recipe.train.keep_states)  # a process killed right behind its last save deleted none
        return position
    return Position(data=digest)


def data_digest(split: Split) -> str:
    """What the encoded rows of both sides are recognised by."""
    digest = hashlib.sha256()
    for row in (*split.train, *split.dev):
        digest.update(repr((row.ids, row.labels)).encode())
    return digest.hexdigest()[:16]


def announce(job: Job, position: Position, journal: Journal) -> None:
    """Say in a few lines what is about to happen."""
    trained = sum(parameter.numel() for parameter in job.tuner.trained().values())
    everything = sum(parameter.numel() for parameter in job.model.network.parameters())
    journal.bar.say(f"base {job.model.name}: {everything / 1e6:.1f} M parameters on {job.model.device}; {trained / 1e6:.2f} M are trained")
    journal.bar.say(f"{len(job.split.train)} rows to learn from, {len(job.split.dev)} held out; {job.split.train_report.sentence()}")
    if 0 < position.step < job.steps:
        journal.bar.say(f"going on after step {position.step} of {job.steps}")


def conclude(job: Job, position: Position, journal: Journal) -> None:
    """Say that the run is finished, where its best is, and what to do with it; a run that learned nothing ends in a UserError."""
    if not position.best_step:
        raise UserError(
            f"{job.run.path}: no evaluation loss was ever finite, so nothing is kept. Lower optimizer.learning_rate, "
            "use model.dtype=float32, or check the base's weights; then train in a new folder."
        )
    path, place = job.run.path, job.run.adapter if job.tuner.encoder is not None else job.run.model
    loss = "" if position.best_loss is None else f" with evaluation loss {position.best_loss:.4f}"
    journal.bar.say(f"finished: {job.steps} of {job.steps} steps are done; {place} holds step {position.best_step}{loss}")
    journal.bar.say(f"next: `imprint evaluate {path} --data FILE` for scores, `imprint compare {path}` for before and after")


def train_step(job: Job, position: Position, journal: Journal) -> Position:
    """One optimizer step over one batch; a loss or gradient that is not finite never reaches the weights."""
    began = time.monotonic()
    engine, section = job.engine, job.recipe.train
    job.tuner.train()
    rows = job.batches.of_step(position.step)
    tokens = sum(scored(job.split.train[row]) for row in rows)
    loss = torch.zeros((), device=job.model.device)
    parts = list(micro_batches(rows, section.micro_batch_size, engine))
    for number, (part, weight) in enumerate(parts, 1):
        encoded = [job.split.train[row] for row in part]
        batch = pack([row.ids for row in encoded], job.model.network, [row.labels for row in encoded]).to(job.model.device)
        share = 1.0 if section.loss_average == "token" else tokens / (batch.target_tokens * len(parts) * engine.processes)
        part_loss: Tensor = engine.module(batch) * (share * weight)
        engine.backward(part_loss, last=number == len(parts))
        loss += part_loss.detach()
    value = engine.total(float(loss)) / tokens
    rate = engine.rate(position.step)
    norm, applied = engine.update(position.step, apply=math.isfinite(value), scale=1 / tokens)
    seconds = time.monotonic() - began
    position = replace(position, seconds=position.seconds + seconds, skipped=0 if applied else position.skipped + 1)
    seen = sum(len(job.split.train[row].ids) for row in rows)
    line: dict[str, Any] = {"step": position.step, "loss": value if applied else None, "learning_rate": rate, "gradient_norm": norm}
    line |= {"tokens_per_second": seen / seconds, "memory_gib": peak_memory_bytes(job.model.device) / GIB, "seconds": position.seconds}
    journal.step(line if applied else line | {"skipped_rows": rows})
    if position.skipped >= SKIPPED_IN_A_ROW:
        raise UserError(
            f"step {position.step}: loss or gradient was not finite {SKIPPED_IN_A_ROW} times in a row; none of it reached the weights. "
            f"Lower optimizer.learning_rate (now {job.recipe.optimizer.learning_rate:g}), or use model.dtype=float32, in a new folder."
        )
    return position


def scored(row: Encoded) -> int:
    """How many tokens of a row are predicted; the first has nothing before it."""
    return len(row.labels) - 1 - row.labels[1:].count(NOT_SCORED)


def micro_batches(rows: Sequence[int], size: int, engine: Engine) -> Iterator[tuple[Sequence[int], float]]:
    """Cut the rows of this process into pieces, each with its weight: 0 for a stand-in where there are fewer rows than processes."""
    mine = rows[engine.rank :: engine.processes]
    if not mine:
        yield rows[:1], 0.0
    for start in range(0, len(mine), size):
        yield mine[start : start + size], 1.0


def look(job: Job, position: Position, journal: Journal) -> Position:
    """Now and then: the evaluation loss, the best adapter, and answers to watched prompts."""
    section, last = job.recipe.train, position.step == job.steps
    every = section.evaluate_every or max(1, job.steps // 10)
    if last or position.step % every == 0:
        loss = evaluation_loss(job) if job.split.dev else None
        if loss is not None:
            journal.record({"step": position.step, "eval_loss": loss})
            journal.bar.say(f"step {position.step}: evaluation loss {loss:.4f} on {len(job.split.dev)} held-out rows")
        if loss is None or (math.isfinite(loss) and (position.best_loss is None or loss < position.best_loss)):
            position = replace(position, best_loss=loss, best_step=position.step)
            save_result(job, position)
    if job.split.dev and (last or position.step % (section.watch_every or max(1, job.steps // 5)) == 0):
        watch(job, position.step, journal)
    return position


@torch.no_grad()
def evaluation_loss(job: Job) -> float:
    """Mean cross-entropy per target token of the held-out rows."""
    tuner, rows = job.tuner.eval(), job.split.dev
    total = 0.0
    for batch in sorted_by_length([len(row.ids) for row in rows], job.recipe.train.micro_batch_size):
        packed = pack([rows[i].ids for i in batch], job.model.network, [rows[i].labels for i in batch])
        total += float(tuner(packed.to(job.model.device)))
    return total / sum(map(scored, rows))


def save_result(job: Job, position: Position) -> None:
    """Keep the best so far where the other commands look for it."""
    scores = {} if position.best_loss is None else {"eval_loss": position.best_loss}
    folder = job.run.adapter if job.tuner.encoder is not None else job.run.model
    base = Path(job.model.name)
    job.tuner.save(folder, base=str(job.recipe.model.path), base_folder=base, step=position.step, scores=scores)


@torch.no_grad()
def watch(job: Job, step: int, journal: Journal) -> None:
    """Answer the first held-out prompts greedily, so that one can watch the model learn."""
    samples = job.split.dev_samples[: job.recipe.train.watch_prompts]
    if not samples:
        return
    section = job.recipe.data
    prompts = [job.model.prompt(one.query, one.history, max_source_length=section.max_source_length, system=one.system) for one in samples]
    try:
        answers = generate(job.model.network, prompts, Sampling(section.max_target_length), prefix=job.tuner.eval().prefix())
    except NotFiniteError as error:  # the losses tell; looking on shall not end the run
        journal.bar.say(f"step {step}: {error}")
        return
    for sample, answer in zip(samples, answers, strict=True):
        journal.sample(step, sample.query, job.model.tokenizer.decode(answer))


@contextmanager
def stop_on_signal() -> Iterator[list[int]]:
    """A list that becomes true on Ctrl-C or SIGTERM, so that the step in progress ends and is saved; a second one stops at once."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():  # where Python allows no signal handlers
        yield received
        return

    def note(number: int, _frame: object) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)
        sys.stderr.write("\nstopping after this step; once more stops at once / 本步结束后停止，再按一次立即停止\n")

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
