"""`imprint train RECIPE.yaml`: config -> data -> model -> tune -> engine -> loop -> save, told once."""

import gc
import math
import os
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import torch

from imprint.config import dump, read_recipe
from imprint.data.batch import Batches
from imprint.data.dataset import DataSection, Split, load_split
from imprint.data.frames import opening
from imprint.data.sample import Sample
from imprint.data.texts import TextsSection, load_texts
from imprint.engine import Crew, Engine, join, launch, launched, orphaned, processes_here, refuse_missing_type
from imprint.errors import UserError
from imprint.files import write_json, write_text
from imprint.fit import GIB, Part, Room, gradients, mean_loss, probe, refuse_full_disk, refuse_small_memory, scored
from imprint.forgetting.measure import refuse_unreadable
from imprint.generate import NotFiniteError, Sampling, generate
from imprint.guard import RESCUES, Broken, Guard, Hopeless, Notice, Suspicion, Verdict, farewell, lowered
from imprint.journal import Journal
from imprint.model import Model, load
from imprint.progress import say
from imprint.recipe import Recipe
from imprint.resume import (
    Rescue,
    after_rescues,
    data_digest,
    newest_state,
    open_run,
    read_rescues,
    refuse_other_rows,
    write_rescue,
)
from imprint.review import review_finished
from imprint.runs import RunFolder, step_of
from imprint.runtime import choose_device, choose_dtype, memory_bytes, out_of_memory, peak_memory_bytes, seed_everything, stop_on_signal
from imprint.state import Position, save_state
from imprint.tune.tuner import Tuner, start_tuner
from imprint.verdict import Course, next_commands, verdict

NAMED_ROWS = 5


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
    room: Room = field(default_factory=Room)
    """How much is computed at once."""
    weights: int = 0
    """Numbers in the base; counted before they are shared between processes."""

    @property
    def crew(self) -> Crew:
        """The processes that train together."""
        return self.engine.crew

    @property
    def trained(self) -> int:
        """Numbers that learn."""
        return sum(shape.numel() for shape in self.engine.shapes.values())


GO_ON = "Run the same command again to go on. / 已停止；再次运行同一命令即可继续"
OnSave = Callable[[Job, Position], None] | None


def train_command(path: Path, overrides: Sequence[str] = ()) -> int:
    """`imprint train`: run the recipe at `path` in as many processes as it says; returns the exit status. Raises as `train_recipe`."""
    recipe = read_recipe(path, overrides, Recipe)
    if not launched():
        count = processes_here(recipe.engine, recipe.model.device, recipe.train.batch_size)
        if count > 1 or recipe.engine.nodes > 1:
            return launch(recipe.engine, count, ["train", str(path), *overrides])
    try:
        train_recipe(recipe)
    except KeyboardInterrupt:
        if not launched() or not int(os.environ["RANK"]):
            raise  # the others have stopped together with the leader, which says so
    return 0


def train(path: Path, overrides: Sequence[str] = ()) -> RunFolder:
    """Run the recipe at `path` in this process, or go on with it; returns the run folder. Raises as `train_recipe`."""
    return train_recipe(read_recipe(path, overrides, Recipe))


def train_recipe(recipe: Recipe, *, split: Split | None = None, on_save: OnSave = None) -> RunFolder:
    """Run a recipe, on its own data or on rows that are already encoded; `on_save` is called before each state is written.

    Raises UserError for everything a user can mend, KeyboardInterrupt after a stop that has been saved.
    """
    if not launched() and (recipe.engine.processes or 1) * recipe.engine.nodes > 1:
        raise UserError("engine.processes: this is one process. The command `imprint train RECIPE.yaml` starts several.")
    if recipe.tune.method != "full" and (recipe.engine.fsdp or recipe.engine.stage == 3):
        refuse_shared_base(recipe.tune.method)
    if recipe.engine.deepspeed is not None:
        device = choose_device(recipe.model.device)
        refuse_missing_type(device, choose_dtype(recipe.model.dtype, device))
    with join(recipe.model.device, grouped=recipe.engine.shares) as crew, open_run(recipe, say, crew) as run:
        finished = False
        while not finished:  # again after each rescue, exactly as a new process would begin
            seed_everything(recipe.train.seed)
            base = recipe.model
            model = load(base.path, quantize=base.quantize, dtype=base.dtype, device=base.device, template=base.template)
            model.source_prefix = recipe.data.source_prefix
            refuse_unreadable(recipe.forgetting, Path(model.name))
            split = split or read_split(recipe, run, model, crew)
            job = prepare(recipe, run, model, split, crew)
            del model  # of two bases only one fits
            finished = go_on(job, on_save)
            del job
            if not finished or recipe.forgetting.measure:  # then a base is loaded anew, and the optimizer holds this one in a circle
                gc.collect()
        if crew.leads:
            review_finished(run.path, recipe.forgetting, say, report=recipe.train.report)
    return run


def read_split(recipe: Recipe, run: RunFolder, model: Model, crew: Crew) -> Split:
    """The encoded rows of a recipe; raw text is tokenized into the run folder, by the leader alone."""
    if not isinstance(recipe.data, TextsSection):
        return load_split(recipe.data, model.template, Path(model.name), quiet=not crew.leads)
    section, found = recipe.data, []

    def tokenize() -> None:
        found.append(load_texts(section, model.tokenizer, run.tokens))

    crew.of_leader(tokenize, slow=True)
    return found[0] if found else load_texts(section, model.tokenizer, run.tokens)


def prepare(recipe: Recipe, run: RunFolder, model: Model, split: Split, crew: Crew) -> Job:
    """Tuner, engine and batches of a run."""
    if not any(map(scored, split.train)) and isinstance(recipe.data, DataSection):
        raise UserError(
            f"{recipe.data.train}: no token of its {len(split.train)} rows is a target, so there is nothing to learn. Check that "
            f'data.response_column ("{recipe.data.response_column}") holds the answers.\n没有任何要学习的词元：请检查 '
            "data.response_column 是否是回答所在的列。"
        )
    tuner = start_tuner(model.network, recipe.tune, model.tokenizer, checkpointing=recipe.train.checkpointing)
    engine = Engine(model.device, crew, recipe.engine)
    with tuner.base():
        weights = model.network.weights
    section = recipe.train
    batches = Batches(
        split.lengths(),
        section.batch_size,
        seed=section.seed,
        group_by_length=section.group_by_length,
        micro_size=section.micro_batch_size,
        pool=len(split.general),
        general=split.general_per_epoch,
    )
    steps = section.steps or batches.steps(section.epochs)
    if recipe.engine.deepspeed is not None and model.network.quantization_bit:
        raise UserError(
            "engine.deepspeed: takes no quantised base, whose scales it would round. Leave it out: a prefix or a LoRA needs little memory, "
            "and the gradients are added up without it.\n量化底座不需要 DeepSpeed：请去掉 engine.deepspeed。"
        )
    sizes = [parameter.numel() for parameter in tuner.trained().values()]
    crew.together(lambda: refuse_small_memory(sum(sizes), max(sizes), engine, memory_bytes()))
    engine.prepare(tuner, tuner.trained(), recipe.optimizer, steps, tuner.rate_ratios())
    if tuner.adapter is not None and not engine.whole:  # as a DeepSpeed file says
        refuse_shared_base(recipe.tune.method)
    if crew.rank:
        seed_everything(section.seed + crew.rank)  # from here on each draws for rows of its own
    return Job(recipe, run, model, split, tuner, engine, batches, steps, weights=weights)


def refuse_shared_base(method: str) -> NoReturn:
    """Raise UserError: a frozen base is not shared between processes."""
    raise UserError(
        f"engine: to share all weights between processes is offered for tune.method=full; this is {method}, whose base stays as it is. "
        "Take engine.deepspeed=zero2 or leave it out, and model.quantize=4 where the base is too large.\n"
        "engine.deepspeed=zero3 与 engine.fsdp 只用于全参数微调；请改用 zero2 或去掉该项，底座放不下时用 model.quantize=4。"
    )


def go_on(job: Job, on_save: OnSave) -> bool:
    """The loop, from the newest good state to the end: True; or to where the guard goes back: False."""
    run, section = job.run, job.recipe.train
    position = resume(job)
    job.crew.of_leader(lambda: begin(job))
    with Journal(run, step=position.step, steps=job.steps, quiet=not job.crew.leads) as journal, stop_on_signal() as signals:
        guard = Guard.of(journal.points, journal.samples, job.steps)
        prune(job, guard)  # a process killed right behind its last save deleted none
        announce(job, position, journal)
        for step in range(position.step + 1, job.steps + 1):
            position = train_step(job, replace(position, step=step), journal)
            position = look(job, position, journal)
            stop = job.crew.anybody(says=bool(signals) or orphaned())
            if section.guard and rescued(job, position, journal, guard):
                if stop:
                    raise KeyboardInterrupt(f"stopped. {GO_ON}")
                return False
            if step % section.save_every == 0 or step == job.steps or stop:
                if on_save is not None:
                    on_save(job, position)
                save_state(run.state(step), job.engine, position)
                prune(job, guard)
            if stop and step < job.steps:
                raise KeyboardInterrupt(f"stopped and saved at step {step}. {GO_ON}")
    conclude(job, position, journal)
    return True


def begin(job: Job) -> None:
    """See that there is room on the disk, and bind the folder to the recipe: not before, for one that cannot run shall not bind it."""
    wide = 4 if job.tuner.adapter is not None else job.tuner.network.dtype.itemsize
    refuse_full_disk(job.run, job.trained, wide * job.trained, job.recipe.train.keep_states, say)
    write_text(job.run.config, dump(job.recipe))


def prune(job: Job, guard: Guard) -> None:
    """Keep the newest states, and while the run is uneasy the newest good one too."""
    if job.crew.leads:
        job.run.keep_newest(job.recipe.train.keep_states, good=guard.good if guard.uneasy else None)


def resume(job: Job) -> Position:
    """Bring everything to the newest good state, or leave it at the start."""
    digest = data_digest(job.split)
    position = Position(data=digest)
    state = newest_state(job.run, say, job.crew)
    if state is not None:
        refuse_other_rows(state.position, digest, job.recipe.data.files)
        position = state.restore(job.engine)
        if position.step > job.steps:
            raise UserError(f"train.steps: {job.run.path} has done {position.step} steps already. Give at least that many.")
    position = after_rescues(position, read_rescues(job.run))
    job.engine.rate_scale = position.rate_scale
    job.room.tokens = None if job.recipe.engine.shares else position.piece_tokens  # where all must compute as many pieces
    return position


def announce(job: Job, position: Position, journal: Journal) -> None:
    """Say in a few lines what is about to happen, try the longest rows where memory is a device's, and measure the loss before tuning."""
    tell = journal.bar.say
    network = job.model.network
    bits = f" in {network.quantization_bit} bits" if network.quantization_bit else ""
    together = f" by {job.crew.count} processes" if job.crew.count > 1 else ""
    tell(
        f"base {job.model.name}: {job.weights / 1e6:.1f} M parameters{bits} on {job.model.device}; {job.trained / 1e6:.2f} M are trained"
        f"{together}"
    )
    for source in (*job.engine.remarks(), *job.split.sources):
        tell(source)
    tell(f"{len(job.split.train)} rows to learn from, {len(job.split.dev)} held out; {job.split.train_report.sentence()}")
    if position.rate_scale != 1:
        tell(f"rescued {position.rescues} times so far: the learning rate is {position.rate_scale:.3g} of the recipe's / 学习率已降低")
    if 0 < position.step < job.steps:
        tell(f"going on after step {position.step} of {job.steps}")
    if job.model.device.type == "cuda" and position.step < job.steps:
        heaviest = job.split.heaviest(job.recipe.train.micro_batch_size)
        probe(job.tuner, job.engine, heaviest, len(heaviest), job.room, tell)
    if not position.step and job.split.dev and not any(point["step"] == 0 for point in journal.points):
        loss = evaluation_loss(job, journal)
        journal.record({"step": 0, "eval_loss": loss})
        tell(f"before tuning: evaluation loss {loss:.4f} on {len(job.split.dev)} held-out rows")


def conclude(job: Job, position: Position, journal: Journal) -> None:
    """Say that the run is finished, what came of it, and what to do with it; a run that learned nothing ends in a UserError."""
    if not position.best_step:
        raise UserError(
            f"{job.run.path}: no evaluation loss was ever finite, so nothing is kept. Lower optimizer.learning_rate, "
            "use model.dtype=float32, or check the base's weights; then train in a new folder."
        )
    path, place = job.run.path, job.run.adapter if job.tuner.adapter is not None else job.run.model
    loss = "" if position.best_loss is None else f" with evaluation loss {position.best_loss:.4f}"
    journal.bar.say(f"finished: {job.steps} of {job.steps} steps are done; {place} holds step {position.best_step}{loss}")
    rows, held_out, size = len(job.split.train), len(job.split.dev), job.recipe.train.batch_size
    general = job.split.general_per_epoch
    course = Course.of(journal.points, rows=rows, held_out=held_out, batch_size=size, steps=job.steps, general=general)
    data, said = job.recipe.data, verdict(course)
    if job.crew.leads and job.recipe.train.report:
        write_json(job.run.verdict, [line.split("\n", 1) for line in said])
    for line in (*said, *next_commands(str(path), None if data.dev is None else str(data.dev), data.kind, held_out=held_out)):
        journal.bar.say(line)


def train_step(job: Job, position: Position, journal: Journal) -> Position:
    """One optimizer step over one batch; a loss or gradient that is not finite never reaches the weights, and its rows are named."""
    began = time.monotonic()
    engine = job.engine
    job.tuner.train()
    rows = job.batches.of_step(position.step)
    tokens = sum(scored(job.split.row(row)) for row in rows)
    engine.scale = 1 / max(tokens, 1)
    rate = engine.rate(position.step)
    applied, tried = False, False
    while not tried or engine.try_again:  # of float16 at a lower scale of the loss
        tried = True
        value = engine.total(gradients(job.tuner, engine, parts_of(job, rows, tokens), job.room, journal.bar.say)) / max(tokens, 1)
        norm, applied = engine.update(position.step, apply=math.isfinite(value))
    seconds = time.monotonic() - began
    position = replace(position, seconds=position.seconds + seconds, skipped=0 if applied else position.skipped + 1)
    seen = sum(len(job.split.row(row).ids) for row in rows)
    line: dict[str, Any] = {"step": position.step, "loss": value if applied else None, "learning_rate": rate, "gradient_norm": norm}
    line |= {"tokens_per_second": seen / seconds, "memory_gib": peak_memory_bytes(job.model.device) / GIB, "seconds": position.seconds}
    if not applied:
        broken = [
            row for row in rows if not math.isfinite(mean_loss(job.tuner, engine, [job.split.row(row)], 1, job.room, journal.bar.say))
        ]
        line |= {"skipped_rows": rows, "broken_rows": broken}
        where = "the loss of these rows is not finite" if broken else "the gradient of these rows is not finite"
        journal.bar.say(
            f"step {position.step}: thrown away, {where}: {named(job, broken or rows)} / 本步已丢弃：这些行的损失或梯度不是有限值"
        )
    journal.step(line)
    return replace(position, piece_tokens=job.room.tokens)


def parts_of(job: Job, rows: Sequence[int], tokens: int) -> list[Part]:
    """The micro-batches of this process; where no token of the step is a target there is nothing to compute.

    All processes get as many, for they meet at each one: where one has fewer, a row stands in that counts for nothing.
    """
    if not tokens:
        return []
    size, count = job.recipe.train.micro_batch_size, job.crew.count
    shared = [rows[rank::count] for rank in range(count)]
    cut = [[mine[start : start + size] for start in range(0, len(mine), size)] for mine in shared]
    parts = []
    for piece in cut[job.crew.rank]:
        encoded = [job.split.row(row) for row in piece]
        means = sum(map(len, cut)) * max(1, sum(map(scored, encoded)))
        parts.append(Part(encoded, tokens / means if job.recipe.train.loss_average == "micro_batch" else 1.0))
    stand_in = Part([job.split.row(rows[0])], 0.0)
    return parts + [stand_in] * (len(cut[0]) - len(parts))


def named(job: Job, rows: Sequence[int]) -> str:
    """Where rows stand, the first few of them."""
    places = [job.split.place(row) for row in rows]
    more = f" and {len(places) - NAMED_ROWS} more" if len(places) > NAMED_ROWS else ""
    return ", ".join(places[:NAMED_ROWS]) + more


def rescued(job: Job, position: Position, journal: Journal, guard: Guard) -> bool:
    """Let the guard see what this step has logged; True where the run must go back, which is then on record.

    Raises UserError where going back does not help, or did not help often enough.
    """
    found: list[Verdict] = [guard.see(point) for point in journal.points_of(position.step)]
    found.append(guard.answers([sample["answer"] for sample in journal.samples if sample["step"] == position.step]))
    for one in found:
        if isinstance(one, Suspicion):
            rows = [job.split.row(row) for step in one.steps for row in job.batches.of_step(step)]
            now = mean_loss(job.tuner, job.engine, rows, job.recipe.train.micro_batch_size, job.room, journal.bar.say)
            one = guard.confirmed(one, now, position.step)
        if isinstance(one, Notice):
            journal.bar.say(one.words)
        if isinstance(one, Hopeless):
            raise UserError(f"{job.run.path}: {one.words}\n{named(job, job.batches.of_step(position.step))}")
        if isinstance(one, Broken):
            job.crew.of_leader(partial(go_back, job, position, journal, one))
            return True
    return False


def go_back(job: Job, position: Position, journal: Journal, broken: Broken) -> None:
    """Put on record that the run goes back to a good state, with a lower rate. Raises UserError after the last time."""
    before = read_rescues(job.run)
    rows = job.batches.of_step(broken.good + 1)
    if len(before) >= RESCUES:
        rate, warmup = job.engine.section.learning_rate * position.rate_scale, job.engine.section.warmup_steps
        dtype = str(job.tuner.network.head_weight.dtype).removeprefix("torch.")
        raise UserError(f"{job.run.path}: " + farewell(broken.reason, rate=rate, warmup=warmup, dtype=dtype, rows=named(job, rows)))
    back_to = next((step for step in map(step_of, job.run.states()) if step <= broken.good), 0)
    if [rescue.back_to for rescue in before[-2:]] == [back_to] * 2:
        back_to = 0  # this state is not as good as it looks
    scale = lowered(position.rate_scale, back_to)
    places = tuple(job.split.place(row) for row in rows)
    rescue = Rescue(position.step, back_to, scale, broken.reason, places, position.best_step, position.best_loss)
    write_rescue(job.run, rescue)
    peak = job.engine.section.learning_rate * scale
    journal.bar.say(
        f"step {position.step}: {broken.reason}. It began after step {broken.good}, with {named(job, rows)}. The run goes back to "
        f"{f'the state of step {back_to}' if back_to else 'its start'} with a peak learning rate of {peak:.2g} "
        f"(rescue {len(before) + 1} of {RESCUES}; {job.run.rescues} keeps it).\n"
        f"训练已失控：回到{f'第 {back_to} 步的状态' if back_to else '起点'}，峰值学习率降为 {peak:.2g}（第 {len(before) + 1} "
        f"次，最多 {RESCUES} 次）。"
    )


def look(job: Job, position: Position, journal: Journal) -> Position:
    """Now and then: the evaluation loss, the best adapter, and answers to watched prompts."""
    section, last = job.recipe.train, position.step == job.steps
    every = section.evaluate_every or max(1, job.steps // 10)
    if last or position.step % every == 0:
        loss = evaluation_loss(job, journal) if job.split.dev else None
        if loss is not None:
            journal.record({"step": position.step, "eval_loss": loss})
            journal.bar.say(f"step {position.step}: evaluation loss {loss:.4f} on {len(job.split.dev)} held-out rows")
        if loss is None or (math.isfinite(loss) and (position.best_loss is None or loss < position.best_loss)):
            position = replace(position, best_loss=loss, best_step=position.step)
            save_result(job, position)
    if job.split.dev and (last or position.step % (section.watch_every or max(1, job.steps // 5)) == 0):
        watch(job, position.step, journal)
    return position


def evaluation_loss(job: Job, journal: Journal) -> float:
    """Mean cross-entropy per target token of the held-out rows."""
    return mean_loss(job.tuner, job.engine, job.split.dev, job.recipe.train.micro_batch_size, job.room, journal.bar.say)


def save_result(job: Job, position: Position) -> None:
    """Keep the best so far where the other commands look for it."""
    scores = {} if position.best_loss is None else {"eval_loss": position.best_loss}
    folder = job.run.adapter if job.tuner.adapter is not None else job.run.model
    base, template, step = Path(job.model.name), job.model.template.name, position.step
    named = str(job.recipe.model.path)
    if job.engine.whole:
        with job.engine.exact() if job.tuner.adapter is not None else nullcontext():
            job.crew.of_leader(lambda: job.tuner.save(folder, base=named, base_folder=base, template=template, step=step, scores=scores))
    else:
        job.tuner.save_whole(folder, base, job.engine.full, writes=job.crew.leads)


def watch(job: Job, step: int, journal: Journal) -> None:
    """Answer the first held-out prompts greedily, so that one can watch the model learn; all processes hear what it says."""
    samples = job.split.dev_samples[: job.recipe.train.watch_prompts]
    if not samples:
        return
    found = job.crew.of_leader(partial(answers, job, samples)) if job.engine.whole else answers(job, samples)
    if isinstance(found, str):
        journal.bar.say(f"step {step}: {found}")
        return
    for sample, answer in zip(samples, found, strict=True):
        journal.sample(step, sample.query, answer)


@torch.no_grad()
def answers(job: Job, samples: Sequence[Sample]) -> list[str] | str:
    """What the model answers to these prompts now, or why it cannot: the losses tell, and looking on shall not end the run."""
    limit = job.recipe.data.max_target_length
    try:
        with job.engine.answering():
            found = generate(job.model.network, asked(job, samples), Sampling(limit), prefix=job.tuner.eval().prefix())
    except (NotFiniteError, RuntimeError, MemoryError) as error:
        if not isinstance(error, NotFiniteError) and not (out_of_memory(error) and job.engine.whole):
            raise
        return str(error)
    return [job.model.template.scored(job.model.tokenizer.decode(answer)) for answer in found]


def asked(job: Job, samples: Sequence[Sample]) -> list[list[int]]:
    """The prompts of watched rows; the opening of a raw text is gone on with as it stands."""
    section = job.recipe.data
    if isinstance(section, TextsSection):
        return [opening(job.model.tokenizer, one.query) for one in samples]
    longest = section.max_source_length
    return [job.model.prompt(one.query, one.history, max_source_length=longest, system=one.system) for one in samples]
