"""Going back to a good state where the guard says so, and the record of it."""

from dataclasses import replace
from functools import partial
from typing import NoReturn

from imprint.events import Rescued, SampledAnswer, read_rescues, write_rescue
from imprint.messages import Bilingual, UserError
from imprint.runs import step_of
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
    events = run_log.events_of(state.step)
    decisions: list[Decision] = [guard.observe(event) for event in events]
    decisions.append(guard.observe_answers([event.answer for event in events if isinstance(event, SampledAnswer)]))
    for decision in decisions:
        if isinstance(decision, SpikeSuspected):
            rows = [job.split.row(row) for step in decision.steps for row in job.batches.batch(step)]
            now = mean_loss(job.tuner, job.engine, rows, job.recipe.train.micro_batch_size, job.token_budget, run_log.memory_notice)
            decision = guard.confirm(decision, now, state.step)
        if isinstance(decision, GuardWarning):
            run_log.notice(decision.message, "guard")
        if isinstance(decision, Unrecoverable):
            give_up(job, run_log, decision.message, describe_rows(job, job.batches.batch(state.step)))
        if isinstance(decision, Diverged):
            job.world.on_main(partial(record_rescue, job, state, run_log, decision))
            return True
    return False


def give_up(job: TrainJob, run_log: RunLog, advice: Bilingual, rows: str = "") -> NoReturn:
    """End the run with advice, which is in the log too. Raises UserError."""
    run_log.notice(advice, "guard", show=False)  # the error prints it
    raise UserError(Bilingual(f"{job.run.path}: {advice.english}", advice.chinese + (f"\n{rows}" if rows else "")))


def record_rescue(job: TrainJob, state: TrainState, run_log: RunLog, broken: Diverged) -> None:
    """Put on record that the run goes back to a good state, with a lower rate. Raises UserError after the last time."""
    before = read_rescues(job.run)
    rows = job.batches.batch(broken.good + 1)
    if len(before) >= RESCUES:
        rate, warmup = job.engine.optimizer_section.learning_rate * state.rate_scale, job.engine.optimizer_section.warmup_steps
        dtype = str(job.tuner.network.head_weight.dtype).removeprefix("torch.")
        give_up(job, run_log, final_advice(broken.reason, rate=rate, warmup=warmup, dtype=dtype, rows=describe_rows(job, rows)))
    back_to = next((step for step in map(step_of, job.run.states()) if step <= broken.good), 0)
    if [rescue.back_to for rescue in before[-2:]] == [back_to] * 2:
        back_to = 0  # this state is not as good as it looks
    scale = lowered_rate_scale(state.rate_scale, back_to)
    rescue = Rescued(
        step=state.step,
        back_to=back_to,
        rate_scale=scale,
        reason=broken.reason,
        rows=tuple(job.split.location(row) for row in rows),
        best_step=state.best_step,
        best_loss=state.best_loss,
    )
    write_rescue(job.run, rescue)
    peak = job.engine.optimizer_section.learning_rate * scale
    run_log.notice(
        Bilingual(
            f"step {state.step}: {broken.reason}. It began after step {broken.good}, with {describe_rows(job, rows)}. The run goes back to "
            f"{f'the state of step {back_to}' if back_to else 'its start'} with a peak learning rate of {peak:.2g} "
            f"(rescue {len(before) + 1} of {RESCUES}; {job.run.rescues} keeps it).",
            f"训练已失控：回到{f'第 {back_to} 步的状态' if back_to else '起点'}，峰值学习率降为 {peak:.2g}（第 {len(before) + 1} "
            f"次，最多 {RESCUES} 次）。",
        ),
        "guard",
    )
    run_log.write(rescue)


def apply_rescues(state: TrainState, rescues: list[Rescued]) -> TrainState:
    """A state with what the guard has decided since it was written."""
    if state.rescues >= len(rescues):
        return state
    last = rescues[-1]
    return replace(state, rescues=len(rescues), rate_scale=last.rate_scale, best_step=last.best_step, best_loss=last.best_loss, skipped=0)
