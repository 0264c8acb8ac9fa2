"""Going back to a good state where the guard says so, and the record of it."""

from dataclasses import asdict, dataclass, replace
from functools import partial

from imprint.errors import UserError
from imprint.files import append_jsonl, read_jsonl
from imprint.runs import RunFolder, step_of
from imprint.training.guard import (
    RESCUES,
    Decision,
    Diverged,
    Guard,
    GuardWarning,
    SpikeSuspected,
    Unrecoverable,
    final_advice,
    lowered_rate_scale,
)
from imprint.training.job import TrainJob, describe_rows
from imprint.training.memory import mean_loss
from imprint.training.run_log import RunLog
from imprint.training.state import TrainState


def rescue_if_diverged(job: TrainJob, state: TrainState, run_log: RunLog, guard: Guard) -> bool:
    """Let the guard see what this step has logged; True where the run must go back, which is then on record.

    Raises UserError where going back does not help, or did not help often enough.
    """
    found: list[Decision] = [guard.observe(point) for point in run_log.points_of(state.step)]
    found.append(guard.observe_answers([sample["answer"] for sample in run_log.samples if sample["step"] == state.step]))
    for one in found:
        if isinstance(one, SpikeSuspected):
            rows = [job.split.row(row) for step in one.steps for row in job.batches.batch(step)]
            now = mean_loss(job.tuner, job.engine, rows, job.recipe.train.micro_batch_size, job.token_budget, run_log.bar.say)
            one = guard.confirm(one, now, state.step)
        if isinstance(one, GuardWarning):
            run_log.bar.say(one.words)
        if isinstance(one, Unrecoverable):
            raise UserError(f"{job.run.path}: {one.words}\n{describe_rows(job, job.batches.batch(state.step))}")
        if isinstance(one, Diverged):
            job.world.on_main(partial(record_rescue, job, state, run_log, one))
            return True
    return False


def record_rescue(job: TrainJob, state: TrainState, run_log: RunLog, broken: Diverged) -> None:
    """Put on record that the run goes back to a good state, with a lower rate. Raises UserError after the last time."""
    before = read_rescues(job.run)
    rows = job.batches.batch(broken.good + 1)
    if len(before) >= RESCUES:
        rate, warmup = job.engine.optimizer_section.learning_rate * state.rate_scale, job.engine.optimizer_section.warmup_steps
        dtype = str(job.tuner.network.head_weight.dtype).removeprefix("torch.")
        raise UserError(
            f"{job.run.path}: " + final_advice(broken.reason, rate=rate, warmup=warmup, dtype=dtype, rows=describe_rows(job, rows))
        )
    back_to = next((step for step in map(step_of, job.run.states()) if step <= broken.good), 0)
    if [rescue.back_to for rescue in before[-2:]] == [back_to] * 2:
        back_to = 0  # this state is not as good as it looks
    scale = lowered_rate_scale(state.rate_scale, back_to)
    places = tuple(job.split.location(row) for row in rows)
    rescue = Rescue(state.step, back_to, scale, broken.reason, places, state.best_step, state.best_loss)
    write_rescue(job.run, rescue)
    peak = job.engine.optimizer_section.learning_rate * scale
    run_log.bar.say(
        f"step {state.step}: {broken.reason}. It began after step {broken.good}, with {describe_rows(job, rows)}. The run goes back to "
        f"{f'the state of step {back_to}' if back_to else 'its start'} with a peak learning rate of {peak:.2g} "
        f"(rescue {len(before) + 1} of {RESCUES}; {job.run.rescues} keeps it).\n"
        f"训练已失控：回到{f'第 {back_to} 步的状态' if back_to else '起点'}，峰值学习率降为 {peak:.2g}（第 {len(before) + 1} "
        f"次，最多 {RESCUES} 次）。"
    )


@dataclass(frozen=True)
class Rescue:
    """One time that the guard brought a run back: a line of rescues.jsonl, written before anything else is changed."""

    step: int
    """The step after which it was done."""
    back_to: int
    """The step whose state the run went on from; 0 is the start."""
    rate_scale: float
    """What the learning rate is multiplied by from there on."""
    reason: str
    """What was seen."""
    rows: tuple[str, ...]
    """Places of the rows that were learned when it began."""
    best_step: int
    """The step whose adapter was kept then, which may be later than `back_to`."""
    best_loss: float | None
    """Evaluation loss at that step."""


def read_rescues(run: RunFolder) -> list[Rescue]:
    """What the guard has done in a run so far."""
    try:
        return [Rescue(**{**line, "rows": tuple(line["rows"])}) for line in read_jsonl(run.rescues)]
    except (TypeError, KeyError) as error:
        raise UserError(f"{run.rescues}: is not what Imprint wrote ({error}). Put the old file back, or choose another folder.") from error


def write_rescue(run: RunFolder, rescue: Rescue) -> None:
    """Put a rescue on record: from now on no start goes on from a state that it gave up."""
    append_jsonl(run.rescues, asdict(rescue))


def apply_rescues(state: TrainState, rescues: list[Rescue]) -> TrainState:
    """A state with what the guard has decided since it was written."""
    if state.rescues >= len(rescues):
        return state
    last = rescues[-1]
    return replace(state, rescues=len(rescues), rate_scale=last.rate_scale, best_step=last.best_step, best_loss=last.best_loss, skipped=0)
