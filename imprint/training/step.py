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
from imprint.training.state import TrainState


def train_step(job: TrainJob, state: TrainState, run_log: RunLog) -> TrainState:
    """One optimizer step over one batch; a loss or gradient that is not finite never reaches the weights, and its rows are named."""
    began = time.monotonic()
    engine, run_log.step = job.engine, state.step
    job.tuner.train()
    rows = job.batches.batch(state.step)
    targets = sum(num_targets(job.split.row(row)) for row in rows)
    engine.loss_scale = 1 / max(targets, 1)
    rate = engine.learning_rate(state.step)
    applied, tried = False, False
    while not tried or engine.retry:  # float16: once more at a lower scale of the loss
        tried = True
        parts = micro_batches(job, rows, targets)
        loss = accumulate_gradients(job.tuner, engine, parts, job.token_budget, run_log.memory_notice)
        loss = engine.all_sum(loss) / max(targets, 1)
        norm, applied = engine.update(state.step, apply=math.isfinite(loss))
    seconds = time.monotonic() - began
    state = replace(state, seconds=state.seconds + seconds, skipped=0 if applied else state.skipped + 1)
    run_log.write(
        Step(
            step=state.step,
            loss=loss if applied else None,
            learning_rate=rate,
            gradient_norm=finite_or_none(norm),
            tokens_per_second=sum(len(job.split.row(row).ids) for row in rows) / seconds,
            memory_gib=peak_memory_bytes(job.model.device) / GIB,
            seconds=state.seconds,
            skipped_rows=() if applied else tuple(rows),
            broken_rows=() if applied else broken_rows(job, rows, run_log),
        )
    )
    return replace(state, piece_tokens=job.token_budget.tokens)


def broken_rows(job: TrainJob, rows: Sequence[int], run_log: RunLog) -> tuple[int, ...]:
    """The rows of a skipped step whose own loss is not finite; the log names them, or all where only the gradient is not finite."""
    broken = []
    for row in rows:
        loss = mean_loss(job.tuner, job.engine, [job.split.row(row)], 1, job.token_budget, run_log.memory_notice)
        if not math.isfinite(loss):
            broken.append(row)
    what, chinese = ("loss", "损失") if broken else ("gradient", "梯度")
    names = describe_rows(job, broken or rows)
    run_log.notice(
        Bilingual(
            f"step {run_log.step}: thrown away, the {what} of these rows is not finite: {names}",
            f"第 {run_log.step} 步已丢弃：这些行的{chinese}不是有限值：{names}",
        ),
        "guard",
    )
    return tuple(broken)


def micro_batches(job: TrainJob, rows: Sequence[int], targets: int) -> list[MicroBatch]:
    """The micro-batches of this process; none where no token of the step is a target.

    All processes get the same number, because they synchronise at each one: where one has fewer, a row of weight 0 fills up.
    """
    if not targets:
        return []
    size, count = job.recipe.train.micro_batch_size, job.world.size
    shared = [rows[rank::count] for rank in range(count)]
    cut = [[mine[start : start + size] for start in range(0, len(mine), size)] for mine in shared]
    parts = []
    for piece in cut[job.world.rank]:
        encoded = [job.split.row(row) for row in piece]
        means = sum(map(len, cut)) * max(1, sum(map(num_targets, encoded)))
        parts.append(MicroBatch(encoded, targets / means if job.recipe.train.loss_average == "micro_batch" else 1.0))
    stand_in = MicroBatch([job.split.row(rows[0])], 0.0)
    return parts + [stand_in] * (len(cut[0]) - len(parts))
