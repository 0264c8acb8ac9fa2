"""One optimizer step over one batch."""

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from imprint.runtime import peak_memory_bytes
from imprint.training.job import Job, named
from imprint.training.memory import GIB, Part, gradients, mean_loss, scored
from imprint.training.run_log import Journal
from imprint.training.state import Position


def train_step(job: Job, position: Position, journal: Journal) -> Position:
    """One optimizer step over one batch; a loss or gradient that is not finite never reaches the weights, and its rows are named."""
    began = time.monotonic()
    engine = job.engine
    job.tuner.train()
    rows = job.batches.batch(position.step)
    tokens = sum(scored(job.split.row(row)) for row in rows)
    engine.loss_scale = 1 / max(tokens, 1)
    rate = engine.learning_rate(position.step)
    applied, tried = False, False
    while not tried or engine.retry:  # of float16 at a lower scale of the loss
        tried = True
        value = engine.all_sum(gradients(job.tuner, engine, parts_of(job, rows, tokens), job.room, journal.bar.say)) / max(tokens, 1)
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
    size, count = job.recipe.train.micro_batch_size, job.world.size
    shared = [rows[rank::count] for rank in range(count)]
    cut = [[mine[start : start + size] for start in range(0, len(mine), size)] for mine in shared]
    parts = []
    for piece in cut[job.world.rank]:
        encoded = [job.split.row(row) for row in piece]
        means = sum(map(len, cut)) * max(1, sum(map(scored, encoded)))
        parts.append(Part(encoded, tokens / means if job.recipe.train.loss_average == "micro_batch" else 1.0))
    stand_in = Part([job.split.row(rows[0])], 0.0)
    return parts + [stand_in] * (len(cut[0]) - len(parts))
