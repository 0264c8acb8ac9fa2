"""One optimizer step over one batch."""

import math
import time
from collections.abc import Sequence
from dataclasses import replace

from imprint.events import Step, finite_or_none
from imprint.messages import Bilingual
from imprint.runtime import peak_memory_bytes
from imprint.training.job import TrainJob, describe_rows
from imprint.training.memory import GIB, MicroBatch, accumulate_gradients, mean_loss, num_targets
from imprint.training.run_log import RunLog
from imprint.training.state import TrainProgress


def train_step(job: TrainJob, progress: TrainProgress, run_log: RunLog) -> TrainProgress:
    """Train on the batch of step `progress.step` and log it; the step is skipped if its loss or gradient is not finite."""
    start = time.monotonic()
    engine, run_log.step = job.engine, progress.step
    job.tuner.train()
    rows = job.batches.batch(progress.step)
    targets = sum(num_targets(job.split.row(row)) for row in rows)
    engine.mean_factor = 1 / max(targets, 1)
    rate = engine.learning_rate(progress.step)
    applied, first_attempt = False, True
    while first_attempt or engine.retry:  # float16: repeated at a lower loss scale
        first_attempt = False
        parts = micro_batches(job, rows, targets)
        loss = accumulate_gradients(job.tuner, engine, parts, job.token_budget, run_log.memory_notice, job.graphs)
        loss = engine.all_sum(loss) / max(targets, 1)
        norm, applied = engine.update(progress.step, apply=math.isfinite(loss))
    seconds = time.monotonic() - start
    progress = replace(progress, seconds=progress.seconds + seconds, skipped=0 if applied else progress.skipped + 1)
    run_log.write(
        Step(
            step=progress.step,
            loss=loss if applied else None,
            learning_rate=rate,
            gradient_norm=finite_or_none(norm),
            tokens_per_second=sum(len(job.split.row(row).ids) for row in rows) / seconds,
            memory_gib=peak_memory_bytes(job.model.device) / GIB,
            seconds=progress.seconds,
            skipped_rows=() if applied else tuple(rows),
            broken_rows=() if applied else broken_rows(job, rows, run_log),
        )
    )
    budget = job.token_budget
    return replace(progress, piece_tokens=budget.tokens, merged_micro_batches=budget.micro_batches)


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
