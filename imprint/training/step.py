"""One optimizer step over one batch."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from imprint.engine.async_scalar import AsyncScalar
from imprint.engine.engine import Engine
from imprint.events import Step, finite_or_none
from imprint.messages import Bilingual
from imprint.runtime import peak_memory_bytes
from imprint.training.graphs import GradientGraphs
from imprint.training.job import TrainJob, describe_rows
from imprint.training.memory import GIB, MicroBatch, Notify, SubBatch, TokenBudget, accumulate_gradients, mean_loss, num_targets
from imprint.training.run_log import RunLog
from imprint.training.state import TrainProgress
from imprint.tune.tuner import Tuner

SHORT_SECONDS = 1.0
"""A step that a graph computes in less is logged while the GPU computes the next one."""


@dataclass(frozen=True)
class StepBatch:
    """What one step computes in this process."""

    rows: Sequence[int]
    """The rows of all processes."""
    targets: int
    """Scored tokens of these rows."""
    tokens: int
    """Tokens of these rows."""
    micro_batches: Sequence[MicroBatch]
    sub_batches: Sequence[SubBatch]
    """The micro-batches under the budget of that time."""
    budget: TokenBudget
    """A copy of it."""


class StepBatches:
    """The batches of the steps of a run. That of the next step is made while a GPU computes this one."""

    def __init__(self, job: TrainJob) -> None:
        self._job = job
        self._made: dict[int, StepBatch] = {}

    def take(self, step: int) -> StepBatch:
        """The batch of a step, made ahead or now."""
        batch = self._made.pop(step, None)
        if batch is None or batch.budget != self._job.token_budget:
            batch = self._make(step)
        return batch

    def prepare(self, step: int) -> None:
        """Make the batch of a step ahead, to its packs. What goes wrong is met again, and told, by the step itself."""
        if step > self._job.steps or step in self._made:
            return
        self._made.clear()
        try:
            batch = self._make(step)
            for sub_batch in batch.sub_batches:
                sub_batch.packed(self._job.tuner.network, self._job.graphs)
        except Exception:
            return
        self._made[step] = batch

    def _make(self, step: int) -> StepBatch:
        job = self._job
        rows = job.batches.batch(step)
        encoded = [job.split.row(row) for row in rows]
        targets = sum(map(num_targets, encoded))
        parts, budget = micro_batches(job, rows, targets), replace(job.token_budget)
        return StepBatch(rows, targets, sum(len(row.ids) for row in encoded), parts, budget.sub_batches(parts), budget)


def train_step(job: TrainJob, progress: TrainProgress, run_log: RunLog, batches: StepBatches) -> TrainProgress:
    """Train on the batch of step `progress.step` and log it; the step is skipped if its loss or gradient is not finite."""
    start = time.monotonic()
    engine, run_log.step = job.engine, progress.step
    if not job.tuner.training:  # setting the mode of every module takes the time of a few kernels
        job.tuner.train()
    batch = batches.take(progress.step)
    engine.mean_factor = 1 / max(batch.targets, 1)
    rate = engine.learning_rate(progress.step)
    applied, first_attempt = False, True

    def meanwhile() -> None:
        run_log.flush()
        batches.prepare(progress.step + 1)

    while first_attempt or engine.retry:  # float16: repeated at a lower loss scale
        first_attempt = False
        loss, norm, applied = compute_step(
            job.tuner,
            engine,
            batch,
            progress.step,
            job.token_budget,
            run_log.memory_notice,
            job.graphs,
            meanwhile,
        )
    loss /= max(batch.targets, 1)
    seconds = time.monotonic() - start
    progress = replace(progress, seconds=progress.seconds + seconds, skipped=0 if applied else progress.skipped + 1)
    log = run_log.write_later if job.graphs is not None and seconds < SHORT_SECONDS else run_log.write
    log(
        Step(
            step=progress.step,
            loss=loss if applied else None,
            learning_rate=rate,
            gradient_norm=finite_or_none(norm),
            tokens_per_second=batch.tokens / seconds,
            memory_gib=peak_memory_bytes(job.model.device) / GIB,
            seconds=progress.seconds,
            skipped_rows=() if applied else tuple(batch.rows),
            broken_rows=() if applied else broken_rows(job, batch.rows, run_log),
        )
    )
    budget = job.token_budget
    return replace(progress, piece_tokens=budget.tokens, merged_micro_batches=budget.micro_batches)


def compute_step(
    tuner: Tuner,
    engine: Engine,
    batch: StepBatch,
    step: int,
    budget: TokenBudget,
    notify: Notify,
    graphs: GradientGraphs | None,
    meanwhile: Callable[[], None],
) -> tuple[float, float, bool]:
    """Gradients and update of a step: its summed loss, the gradient norm, and whether the update was applied.

    `meanwhile` is called once everything is queued that a GPU can do by itself, before its results are waited for.
    """
    prepared = batch.sub_batches if batch.budget == budget else None
    found = accumulate_gradients(tuner, engine, batch.micro_batches, budget, notify, graphs, prepared)
    read = AsyncScalar(found)
    if engine.world_size == 1:
        norm, applied = engine.update(step, apply=found.isfinite(), meanwhile=meanwhile)
        return float(read), norm, applied
    meanwhile()
    loss = engine.all_sum(float(read))
    return loss, *engine.update(step, apply=math.isfinite(loss))


def broken_rows(job: TrainJob, rows: Sequence[int], run_log: RunLog) -> tuple[int, ...]:
    """The rows of a skipped step whose own loss is not finite; a notice lists them, or all rows if only the gradient is not finite."""
    broken = []
    for row in rows:
        loss = mean_loss(job.tuner, job.engine, [job.split.row(row)], 1, job.token_budget, run_log.memory_notice)
        if not math.isfinite(loss):
            broken.append(row)
    quantity, chinese = ("loss", "损失") if broken else ("gradient", "梯度")
    locations = describe_rows(job, broken or rows)
    run_log.notice(
        Bilingual(
            f"step {run_log.step}: skipped, the {quantity} of these rows is not finite: {locations.english}",
            f"第 {run_log.step} 步已跳过：这些行的{chinese}不是有限值：{locations.chinese}",
        ),
        "guard",
    )
    return tuple(broken)


def micro_batches(job: TrainJob, rows: Sequence[int], targets: int) -> list[MicroBatch]:
    """The micro-batches of this process, whose rows have `targets` targets in all processes; none if there are no targets.

    All processes get the same number, because they synchronise at each one: a process that has fewer adds fillers of weight 0.
    """
    if not targets:
        return []
    size, world_size = job.recipe.train.micro_batch_size, job.world.size
    rows_by_rank = [rows[rank::world_size] for rank in range(world_size)]
    split = [[own[start : start + size] for start in range(0, len(own), size)] for own in rows_by_rank]
    count = sum(map(len, split))
    result = []
    for micro_batch in split[job.world.rank]:
        encoded = [job.split.row(row) for row in micro_batch]
        mean_weight = targets / (count * max(1, sum(map(num_targets, encoded))))
        result.append(MicroBatch(encoded, mean_weight if job.recipe.train.loss_average == "micro_batch" else 1.0))
    filler = MicroBatch([job.split.row(rows[0])], 0.0)
    return result + [filler] * (len(split[0]) - len(result))
