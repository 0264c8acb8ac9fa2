"""What fits: a step in smaller pieces once memory runs out, with the same loss and gradient; and a run on the disk.

A micro-batch stays what it is: one mean under `loss_average: micro_batch`, one drawing of the prefix's dropout. Its pieces are computed one
after the other, each from the same random state, and their gradients add up to that of the whole.
"""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from imprint.data.batches import longest_first_batches
from imprint.data.encode import EncodedRow
from imprint.data.token_file import row_lengths
from imprint.engine.engine import Engine
from imprint.engine.world import World
from imprint.messages import Bilingual, UserError
from imprint.pack import IGNORE_INDEX, Pack, PositionScheme, pack
from imprint.runs import RunFolder
from imprint.runtime import is_out_of_memory, peak_memory_bytes
from imprint.tune.tuner import Tuner

Notify = Callable[[Bilingual], None]
GIB = 2**30
OFFLOADED_BYTES = 16
GATHERED_BYTES = 2 * 10**9
STATE_BYTES = 12
"""Of a state for each number that learns: the number itself in fp32, and the two that AdamW keeps."""


@dataclass(frozen=True)
class MicroBatch:
    """A micro-batch, and what its summed loss counts for in that of the step."""

    rows: Sequence[EncodedRow]
    """Its rows."""
    weight: float
    """Its weight: 0 for a stand-in where there are fewer rows than processes."""


@dataclass
class TokenBudget:
    """How much is computed at once: what memory has taught so far."""

    tokens: int | None = None
    """The most tokens of a piece; None: nothing ran out yet. One row is a piece however long it is."""

    def split(self, rows: Sequence[EncodedRow]) -> list[Sequence[EncodedRow]]:
        """Cut rows into runs of neighbours that fit."""
        limit = self.tokens
        found: list[list[EncodedRow]] = []
        held = 0
        for row in rows:
            if not found or (limit is not None and held + len(row.ids) > limit):
                found.append([])
                held = 0
            found[-1].append(row)
            held += len(row.ids)
        return list(found)

    def shrink(self, piece: Sequence[EncodedRow], notify: Notify) -> None:
        """Compute half as much at once as the piece that did not fit. Raises UserError where it was one row."""
        tokens = sum(len(row.ids) for row in piece)
        if len(piece) == 1:
            raise UserError(
                Bilingual(
                    f"out of memory with a single row of {tokens} tokens; what was saved is kept. Set train.checkpointing=true, lower "
                    "data.max_source_length or data.max_target_length (of raw text: data.length), or take model.dtype=bfloat16 or "
                    "model.quantize=4.",
                    f"只算一行（{tokens} 个词元）显存或内存也不够；已保存的内容不受影响。请打开 train.checkpointing，减小 "
                    "data.max_source_length、"
                    "data.max_target_length（纯文本为 data.length），或使用 model.dtype=bfloat16、model.quantize=4。",
                )
            )
        self.tokens = tokens // 2
        notify(
            Bilingual(
                f"out of memory with {len(piece)} rows ({tokens} tokens) at once: from here on at most {self.tokens} tokens at once. "
                "Batch, loss and gradient stay the same; a step takes a little longer.",
                f"显存或内存不足：此后每次最多算 {self.tokens} 个词元；批大小、损失和梯度都不变，只是稍慢。",
            )
        )


def accumulate_gradients(tuner: Tuner, engine: Engine, micro_batches: Sequence[MicroBatch], budget: TokenBudget, notify: Notify) -> float:
    """Leave the gradient of a step in the parameters and return its loss, both summed over the shares of this process.

    Where memory runs out, everything is thrown away and computed again in smaller pieces, from the same random state.
    """
    start = _rng_states(engine.device)
    while True:
        tried: list[Sequence[EncodedRow]] = []
        try:
            return _forward_backward(tuner, engine, micro_batches, budget, tried)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if engine.world_size > 1 or engine.engine_section.is_sharded:  # it cannot begin anew by itself, half-way through
                raise UserError(_out_of_memory_advice(tried[-1], engine)) from error
        # Only here is the exception gone, and with it the frames that held the tensors.
        engine.discard_gradients()
        _empty_cache(engine.device)
        budget.shrink(tried[-1], notify)
        _restore_rng(start, engine.device)


def _out_of_memory_advice(piece: Sequence[EncodedRow], engine: Engine) -> Bilingual:
    tokens = sum(len(row.ids) for row in piece)
    return Bilingual(
        f"process {engine.rank} on {engine.device} ran out of memory with {len(piece)} rows ({tokens} tokens) at once; what was saved is "
        "kept. Set train.micro_batch_size lower (the batch stays the same), train.checkpointing=true, or share more between the processes "
        "(engine.deepspeed=zero3, engine.offload=true).",
        "显存或内存不足：请减小 train.micro_batch_size，打开 train.checkpointing，或使用 engine.deepspeed=zero3、engine.offload=true。",
    )


def _forward_backward(
    tuner: Tuner, engine: Engine, micro_batches: Sequence[MicroBatch], budget: TokenBudget, tried: list[Sequence[EncodedRow]]
) -> float:
    loss = torch.zeros((), device=engine.device)
    for number, micro_batch in enumerate(micro_batches, 1):
        before = _rng_states(engine.device)
        pieces = budget.split(micro_batch.rows)
        for place, piece in enumerate(pieces, 1):
            tried[:] = [piece]
            if place > 1:
                _restore_rng(before, engine.device)
            batch = pack_rows(piece, tuner.network).to(engine.device)
            piece_loss: Tensor = engine.module(batch) * micro_batch.weight
            engine.backward(piece_loss, last=number == len(micro_batches) and place == len(pieces))
            loss += piece_loss.detach()
    return float(loss)


def probe(tuner: Tuner, engine: Engine, rows: Sequence[EncodedRow], size: int, budget: TokenBudget, notify: Notify) -> None:
    """Compute the heaviest micro-batch that there can be and forget its gradient: too little memory shows now, not after an hour."""
    heaviest = sorted(rows, key=lambda row: -len(row.ids))[:size]
    start = _rng_states(engine.device)
    tuner.train()
    accumulate_gradients(tuner, engine, [MicroBatch(heaviest, engine.discard_scale)], budget, notify)
    engine.discard_gradients()
    _restore_rng(start, engine.device)
    peak, tokens = peak_memory_bytes(engine.device) / GIB, sum(len(row.ids) for row in heaviest)
    have = f" of {torch.cuda.get_device_properties(engine.device).total_memory / GIB:.1f}" if engine.device.type == "cuda" else ""
    notify(
        Bilingual(
            f"the longest {len(heaviest)} rows ({tokens} tokens) need {peak:.1f}{have} GiB of memory at their peak",
            f"最长的 {len(heaviest)} 行（{tokens} 个词元）峰值需要 {peak:.1f} GiB 显存",
        )
    )


@torch.no_grad()
def mean_loss(tuner: Tuner, engine: Engine, rows: Sequence[EncodedRow], size: int, budget: TokenBudget, notify: Notify) -> float:
    """Mean cross-entropy per target token, without dropout; in smaller pieces where memory runs out.

    Several processes take the batches in turn, each as many as the others: one that has none left computes the last one for nothing.
    """
    tuner.eval()
    world, batches = engine.world, longest_first_batches(row_lengths(rows), size)
    total = 0.0
    for number in range(world.rank, -(-len(batches) // world.size) * world.size, world.size):
        loss = _summed_loss([rows[i] for i in batches[min(number, len(batches) - 1)]], tuner, engine, budget, notify)
        total += loss if number < len(batches) else 0.0
    return world.all_sum(total) / max(1, sum(map(num_targets, rows)))


def _summed_loss(rows: Sequence[EncodedRow], tuner: Tuner, engine: Engine, budget: TokenBudget, notify: Notify) -> float:
    while True:
        tried: Sequence[EncodedRow] = rows
        try:
            total = 0.0
            for tried in budget.split(rows):
                total += float(tuner(pack_rows(tried, tuner.network).to(engine.device)))
            return total
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if not engine.replicated:  # the others gather weights together with this one, piece by piece
                raise UserError(_out_of_memory_advice(tried, engine)) from error
        _empty_cache(engine.device)
        budget.shrink(tried, notify)


def pack_rows(rows: Sequence[EncodedRow], scheme: PositionScheme) -> Pack:
    """Rows laid end to end; texts that share a row are rows of their own in the pack, so that none sees another."""
    texts = [text for row in rows for text in row.sequences]
    return pack([ids for ids, _ in texts], scheme, [labels for _, labels in texts])


def num_targets(row: EncodedRow) -> int:
    """How many tokens of a row are predicted; the first has nothing before it."""
    return len(row.labels) - 1 - row.labels[1:].count(IGNORE_INDEX)


def check_disk(run: RunFolder, parameters: int, result_bytes: int, keep_states: int) -> Bilingual | None:
    """Compare what a run will write with the free space. Returns a warning where not all states fit; raises UserError if not even one does.

    `parameters` are trained; `result_bytes` is the size of the result.
    """
    state = STATE_BYTES * parameters
    written = sum(file.stat().st_size for folder in (*run.states(), run.adapter, run.model) for file in folder.rglob("*") if file.is_file())
    free = shutil.disk_usage(run.path).free
    least, most = max(0, state + result_bytes - written), max(0, (keep_states + 1) * state + 2 * result_bytes - written)
    sizes = (
        f"{run.path}: a saved state takes {state / GIB:.2f} GiB and the result {result_bytes / GIB:.2f} GiB, but {free / GIB:.2f} GiB are "
        "free"
    )
    if least > free:
        raise UserError(
            Bilingual(
                f"{sizes}. Free some space, or choose a folder on another disk (output=...).",
                "磁盘空间不足：请清理，或把 output 放到另一块磁盘。",
            )
        )
    if most <= free:
        return None
    return Bilingual(
        f"{sizes}: {most / GIB:.2f} GiB may be needed with train.keep_states={keep_states}. Free some space meanwhile, or lower it; where "
        "the disk is full the run stops with what was saved.",
        f"磁盘可能不够：全程约需 {most / GIB:.2f} GiB，可减小 train.keep_states。",
    )


def refuse_small_memory(
    numbers: int, largest: int, device: torch.device, world: World, memory: tuple[int, int], *, offload: bool = False
) -> None:
    """Compare what a run will hold in main memory with what there is (all, and free now): UserError where it does not fit.

    `numbers` learn in all, `largest` of them in one parameter. Offloaded are weight, gradient and AdamW's two, each of 4 bytes; to be
    written, some parameters are gathered in whole.
    """
    offloaded = OFFLOADED_BYTES * numbers * world.local_size // world.size if offload else 0
    gathered = 2 * min(GATHERED_BYTES, STATE_BYTES * numbers) + (0 if device.type == "cpu" else 2 * STATE_BYTES * largest)
    needed, (total, free) = offloaded + gathered * world.local_size, memory
    if needed > free:
        how = (
            "With engine.offload 16 bytes for each number that learns are there; use more GPUs without it" if offloaded else "Close others"
        )
        raise UserError(
            Bilingual(
                f"main memory: {needed / GIB:.1f} GiB are needed to train and to save, {free / GIB:.1f} of {total / GIB:.1f} GiB are free. "
                f"{how}, or take a machine with more.",
                f"内存不足：训练与保存约需 {needed / GIB:.1f} GiB，目前可用 {free / GIB:.1f} GiB。",
            )
        )


def _rng_states(device: torch.device) -> tuple[Tensor, Tensor | None]:
    """The random state that dropout draws from."""
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None


def _restore_rng(state: tuple[Tensor, Tensor | None], device: torch.device) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1], device)


def _empty_cache(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()
