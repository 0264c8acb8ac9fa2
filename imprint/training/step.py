"""One optimizer step over one batch."""

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from imprint.runtime import peak_memory_bytes
from imprint.training.job import TrainJob, describe_rows
from imprint.training.memory import GIB, MicroBatch, accumulate_gradients, mean_loss, num_targets
from imprint.training.run_log import RunLog
from imprint.training.state import TrainState


def train_step(job: TrainJob, state: TrainState, run_log: RunLog) -> TrainState:
    """One optimizer step over one batch; a loss or gradient that is not finite never reaches the weights, and its rows are named."""
    began = time.monotonic()
    engine = job.engine
    job.tuner.train()
    rows = job.batches.batch(state.step)
    tokens = sum(num_targets(job.split.row(row)) for row in rows)
    engine.loss_scale = 1 / max(tokens, 1)
    rate = engine.learning_rate(state.step)
    applied, tried = False, False
    while not tried or engine.retry:  # of float16 at a lower scale of the loss
        tried = True
        value = engine.all_sum(
            accumulate_gradients(job.tuner, engine, micro_batches(job, rows, tokens), job.token_budget, run_log.bar.say)
        ) / max(tokens, 1)
        norm, applied = engine.update(state.step, apply=math.isfinite(value))
    seconds = time.monotonic() - began
    state = replace(state, seconds=state.seconds + seconds, skipped=0 if applied else state.skipped + 1)
    seen = sum(len(job.split.row(row).ids) for row in rows)
    line: dict[str, Any] = {"step": state.step, "loss": value if applied else None, "learning_rate": rate, "gradient_norm": norm}
    line |= {"tokens_per_second": seen / seconds, "memory_gib": peak_memory_bytes(job.model.device) / GIB, "seconds": state.seconds}
    if not applied:
        broken = [
            row
            for row in rows
            if not math.isfinite(mean_loss(job.tuner, engine, [job.split.row(row)], 1, job.token_budget, run_log.bar.say))
        ]
        line |= {"skipped_rows": rows, "broken_rows": broken}
        where = "the loss of these rows is not finite" if broken else "the gradient of these rows is not finite"
        run_log.bar.say(
            f"step {state.step}: thrown away, {where}: {describe_rows(job, broken or rows)} / 本步已丢弃：这些行的损失或梯度不是有限值"
        )
    run_log.step(line)
    return replace(state, piece_tokens=job.token_budget.tokens)


def micro_batches(job: TrainJob, rows: Sequence[int], tokens: int) -> list[MicroBatch]:
    """The micro-batches of this process; where no token of the step is a target there is nothing to compute.

    All processes get as many, for they meet at each one: where one has fewer, a row stands in that counts for nothing.
    """
    if not tokens:
        return []
    size, count = job.recipe.train.micro_batch_size, job.world.size
    shared = [rows[rank::count] for rank in range(count)]
    cut = [[mine[start : start + size] for start in range(0, len(mine), size)] for mine in shared]
    parts = []
    for piece in cut[job.world.rank]:
        encoded = [job.split.row(row) for row in piece]
        means = sum(map(len, cut)) * max(1, sum(map(num_targets, encoded)))
        parts.append(MicroBatch(encoded, tokens / means if job.recipe.train.loss_average == "micro_batch" else 1.0))
    stand_in = MicroBatch([job.split.row(rows[0])], 0.0)
    return parts + [stand_in] * (len(cut[0]) - len(parts))
