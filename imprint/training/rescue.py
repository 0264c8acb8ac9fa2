"""Rescues: when the guard finds that a run has diverged, the run goes back to a good state with a lower learning rate."""

from dataclasses import replace
from functools import partial
from typing import NoReturn

from imprint.events import Rescued, WatchedAnswer, read_rescues, write_rescue
from imprint.messages import Bilingual, UserError
from imprint.runs import step_of
from imprint.training.guard import (
    MAX_RESCUES,
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
from imprint.training.state import TrainProgress


def rescue_if_diverged(job: TrainJob, progress: TrainProgress, run_log: RunLog, guard: Guard) -> bool:
    """Let the guard decide about the events of this step; True if the run has diverged and a rescue was recorded.

    Raises UserError if the guard gives up: a rescue would not help, or there were too many.
    """
    events = run_log.events_of(progress.step)
    decisions: list[Decision] = [guard.observe(event) for event in events]
    decisions.append(guard.observe_answers([event.answer for event in events if isinstance(event, WatchedAnswer)]))
    for decision in decisions:
        if isinstance(decision, SpikeSuspected):
            rows = [job.split.row(row) for step in decision.steps for row in job.batches.batch(step)]
            loss = mean_loss(job.tuner, job.engine, rows, job.rows_at_once, job.token_budget, run_log.memory_notice)
            decision = guard.confirm(decision, loss, progress.step)
        if isinstance(decision, GuardWarning):
            run_log.notice(decision.message, "guard")
        if isinstance(decision, Unrecoverable):
            give_up(job, run_log, decision.message, describe_rows(job, job.batches.batch(progress.step)))
        if isinstance(decision, Diverged):
            job.world.on_main(partial(record_rescue, job, progress, run_log, decision))
            return True
    return False


def give_up(job: TrainJob, run_log: RunLog, advice: Bilingual, rows: Bilingual | None = None) -> NoReturn:
    """End the run: log the advice and raise it as a UserError."""
    run_log.notice(advice, "guard", show=False)  # the error is printed
    of_step = Bilingual("", "") if rows is None else Bilingual(f" Rows of this step: {rows.english}.", f"该步的数据：{rows.chinese}。")
    raise UserError(Bilingual(f"{job.run.path}: {advice.english}{of_step.english}", f"{advice.chinese}{of_step.chinese}"))


def record_rescue(job: TrainJob, progress: TrainProgress, run_log: RunLog, divergence: Diverged) -> None:
    """Record in rescues.jsonl and in the log which state the run goes back to. Raises UserError after the last rescue."""
    earlier = read_rescues(job.run)
    rows = job.batches.batch(divergence.good_step + 1)
    if len(earlier) >= MAX_RESCUES:
        rate, warmup = job.engine.optimizer_section.learning_rate * progress.rate_scale, job.engine.optimizer_section.warmup_steps
        dtype = str(job.tuner.network.dtype).removeprefix("torch.")
        give_up(job, run_log, final_advice(divergence.reason, rate=rate, warmup=warmup, dtype=dtype, rows=describe_rows(job, rows)))
    back_to = next((step for step in map(step_of, job.run.states()) if step <= divergence.good_step), 0)
    if [rescue.back_to for rescue in earlier[-2:]] == [back_to] * 2:
        back_to = 0  # two rescues to this state did not help
    scale = lowered_rate_scale(progress.rate_scale, back_to)
    rescue = Rescued(
        step=progress.step,
        back_to=back_to,
        rate_scale=scale,
        reason=divergence.reason,
        rows=tuple(job.split.location(row).english for row in rows),
        best_step=progress.best_step,
        best_loss=progress.best_loss,
    )
    write_rescue(job.run, rescue)
    peak, begun_with = job.engine.optimizer_section.learning_rate * scale, describe_rows(job, rows)
    run_log.notice(
        Bilingual(
            f"step {progress.step}: {divergence.reason}. It began after step {divergence.good_step}, with {begun_with.english}. "
            f"The run goes back to {f'the state of step {back_to}' if back_to else 'its start'} with a peak learning rate of {peak:.2g} "
            f"(rescue {len(earlier) + 1} of {MAX_RESCUES}; recorded in {job.run.rescues}).",
            f"训练在第 {divergence.good_step} 步之后失控，始于 {begun_with.chinese}："
            f"回到{f'第 {back_to} 步的状态' if back_to else '起点'}，峰值学习率降为 {peak:.2g}（第 {len(earlier) + 1} "
            f"次，最多 {MAX_RESCUES} 次）。",
        ),
        "guard",
    )
    run_log.write(rescue)


def apply_rescues(progress: TrainProgress, rescues: list[Rescued]) -> TrainProgress:
    """The progress with the rate, best step and counters of the rescues that were recorded after it was saved."""
    if progress.rescues >= len(rescues):
        return progress
    last = rescues[-1]
    return replace(
        progress, rescues=len(rescues), rate_scale=last.rate_scale, best_step=last.best_step, best_loss=last.best_loss, skipped=0
    )
