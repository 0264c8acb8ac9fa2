"""Memory and disk limits: a step that runs out of memory is repeated in smaller sub-batches, with the same loss and gradient.

Sub-batches are parts of a micro-batch. They are computed one after the other, each from the same random state, and their gradients add up
to that of the micro-batch: it remains one mean under `loss_average: micro_batch`, with one dropout mask of the prefix. Where memory allows,
several micro-batches are computed as one, with one dropout mask.
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
from imprint.runtime import free_cached_memory, is_out_of_memory, peak_memory_bytes
from imprint.training.graphs import USES_BEFORE, GradientGraphs
from imprint.training.sized_pack import SizedPack
from imprint.tune.tuner import Tuner

Notify = Callable[[Bilingual], None]
GIB = 2**30
OFFLOADED_BYTES = 16
"""Main memory per offloaded parameter: weight, gradient and AdamW's two moments in fp32."""
GATHERED_BYTES = 2 * 10**9
"""Most bytes of a saved state that are gathered in main memory at a time."""
STATE_BYTES = 12
"""Size of a saved state per trained parameter: its value in fp32 and AdamW's two moments."""
RngStates = tuple[Tensor, Tensor | None]
"""Random states of the CPU and the GPU."""


@dataclass(frozen=True)
class MicroBatch:
    """A micro-batch, and the weight of its summed loss in that of the step."""

    rows: Sequence[EncodedRow]
    """Its rows."""
    weight: float
    """Its weight: 0 for a filler, where a process has fewer micro-batches than the others."""


@dataclass
class SubBatch:
    """Rows that are computed at once."""

    rows: Sequence[EncodedRow]
    weights: Sequence[float]
    """Factors of the rows' losses."""
    first: bool
    """Whether it is the first one of its micro-batches."""
    last: bool
    """Whether it is the last one of its step."""
    whole: bool
    """Whether it is all of its step."""
    _packed: Pack | SizedPack | None = None

    def packed(self, scheme: PositionScheme, graphs: GradientGraphs | None) -> Pack | SizedPack:
        """The rows as a pack, made once; as the graphs need it, if there are any."""
        if self._packed is None:
            batch = pack_rows(self.rows, scheme, self.weights)
            self._packed = batch if graphs is None or graphs.failure is not None else graphs.sized(batch)
        return self._packed


@dataclass
class TokenBudget:
    """How many tokens are computed at once; lowered when memory runs out."""

    tokens: int | None = None
    """Most tokens of a sub-batch; None: no limit so far. A single row is a sub-batch even if it is longer."""
    micro_batches: int = 1
    """How many micro-batches are computed as one."""

    def split(self, rows: Sequence[EncodedRow]) -> list[Sequence[EncodedRow]]:
        """Split rows into sub-batches of consecutive rows within the limit."""
        sub_batches: list[list[EncodedRow]] = []
        tokens = 0
        for row in rows:
            if not sub_batches or (self.tokens is not None and tokens + len(row.ids) > self.tokens):
                sub_batches.append([])
                tokens = 0
            sub_batches[-1].append(row)
            tokens += len(row.ids)
        return list(sub_batches)

    def sub_batches(self, micro_batches: Sequence[MicroBatch]) -> list[SubBatch]:
        """The sub-batches of a step."""
        found = []
        for start in range(0, len(micro_batches), self.micro_batches):
            merged = micro_batches[start : start + self.micro_batches]
            weights = [micro_batch.weight for micro_batch in merged for _ in micro_batch.rows]
            parts, used = self.split([row for micro_batch in merged for row in micro_batch.rows]), 0
            for index, part in enumerate(parts, 1):
                last = start + len(merged) == len(micro_batches) and index == len(parts)
                whole = len(merged) == len(micro_batches) and len(parts) == 1
                found.append(SubBatch(part, weights[used : used + len(part)], index == 1, last, whole))
                used += len(part)
        return found

    def shrink(self, sub_batch: Sequence[EncodedRow], notify: Notify) -> None:
        """Set the limit to half of a sub-batch that ran out of memory. Raises UserError for a single row."""
        tokens = sum(len(row.ids) for row in sub_batch)
        if len(sub_batch) == 1:
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
                f"out of memory with {len(sub_batch)} rows ({tokens} tokens) at once: from here on at most {self.tokens} tokens at once. "
                "Batch, loss and gradient stay the same; a step takes a little longer.",
                f"显存或内存不足：此后每次最多算 {self.tokens} 个词元；批大小、损失和梯度都不变，只是稍慢。",
            )
        )


def accumulate_gradients(
    tuner: Tuner,
    engine: Engine,
    micro_batches: Sequence[MicroBatch],
    budget: TokenBudget,
    notify: Notify,
    graphs: GradientGraphs | None = None,
    prepared: Sequence[SubBatch] | None = None,
) -> Tensor:
    """Accumulate the gradient of a step over this process's micro-batches; returns their summed loss, which may not be computed yet.

    If memory runs out, the gradients are discarded and computed again in smaller sub-batches, from the same random state. `graphs`, if
    given, repeat passes of the same size. `prepared`: the sub-batches of this budget, if there are any.
    """
    start = _rng_states(engine.device)
    while True:
        attempted: list[Sequence[EncodedRow]] = []
        sub_batches, prepared = prepared or budget.sub_batches(micro_batches), None
        try:
            loss = _forward_backward(tuner, engine, sub_batches, attempted, graphs, start)
            if graphs is not None and (notice := graphs.failure_notice()) is not None:
                notify(notice)
            return loss
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if engine.world_size > 1 or engine.engine_section.uses_deepspeed_or_fsdp:  # collective: one process cannot start over alone
                raise UserError(_out_of_memory_advice(attempted[-1], engine)) from error
        # Outside the except block: only now the exception is freed, and with it the frames that refer to the tensors.
        engine.discard_gradients()
        if graphs is None:
            free_cached_memory(engine.device)
        else:
            graphs.clear()
        budget.shrink(attempted[-1], notify)
        _restore_rng(start, engine.device)


def _out_of_memory_advice(sub_batch: Sequence[EncodedRow], engine: Engine) -> Bilingual:
    tokens = sum(len(row.ids) for row in sub_batch)
    return Bilingual(
        f"process {engine.rank} on {engine.device} ran out of memory with {len(sub_batch)} rows ({tokens} tokens) at once; what was saved "
        "is kept. Set train.micro_batch_size lower (the batch stays the same), train.checkpointing=true, or share more between the "
        "processes (engine.deepspeed=zero3, engine.offload=true).",
        "显存或内存不足：请减小 train.micro_batch_size，打开 train.checkpointing，或使用 engine.deepspeed=zero3、engine.offload=true。",
    )


def _forward_backward(
    tuner: Tuner,
    engine: Engine,
    sub_batches: Sequence[SubBatch],
    attempted: list[Sequence[EncodedRow]],
    graphs: GradientGraphs | None,
    before: RngStates,
) -> Tensor:
    """Forward and backward pass of all sub-batches; `attempted` always holds the latest one, `before` is the random state now.

    All sub-batches of a micro-batch begin with the same random state.
    """
    loss = torch.zeros((), device=engine.device)
    for number, sub_batch in enumerate(sub_batches):
        attempted[:] = [sub_batch.rows]
        if not sub_batch.first:
            _restore_rng(before, engine.device)
        elif number:
            before = _rng_states(engine.device)
        batch = sub_batch.packed(tuner.network, graphs)
        repeated = None if graphs is None else graphs.add_gradients(batch, whole=sub_batch.whole)
        if repeated is not None:
            loss += repeated
            continue
        plain = batch.pack if isinstance(batch, SizedPack) else batch
        sub_batch_loss: Tensor = engine.module(plain.to(engine.device))
        engine.backward(sub_batch_loss, last=sub_batch.last)
        loss += sub_batch_loss.detach()
    return loss


def probe_memory(
    tuner: Tuner,
    engine: Engine,
    rows: Sequence[EncodedRow],
    size: int,
    budget: TokenBudget,
    notify: Notify,
    graphs: GradientGraphs | None = None,
    *,
    adds: bool = False,
) -> None:
    """Compute a micro-batch of the longest rows and discard its gradient, so that a lack of memory shows before training.

    With graphs it is computed twice, so that the largest one is made first and smaller ones find room in its memory; `adds`: the one
    for steps of several micro-batches, whose gradients are added up.
    """
    longest = sorted(rows, key=lambda row: -len(row.ids))[:size]
    start = _rng_states(engine.device)
    tuner.train()
    passes = 1 if graphs is None else 1 + USES_BEFORE
    for number in range(1, passes + 1):
        accumulate_gradients(tuner, engine, [MicroBatch(longest, engine.discard_scale)], budget, notify, graphs)
        if number == passes or not adds:
            engine.discard_gradients()
    _restore_rng(start, engine.device)
    peak, tokens = peak_memory_bytes(engine.device) / GIB, sum(len(row.ids) for row in longest)
    of_total = f" of {torch.cuda.get_device_properties(engine.device).total_memory / GIB:.1f}" if engine.device.type == "cuda" else ""
    notify(
        Bilingual(
            f"the longest {len(longest)} rows ({tokens} tokens) need {peak:.1f}{of_total} GiB of memory at their peak",
            f"最长的 {len(longest)} 行（{tokens} 个词元）峰值需要 {peak:.1f} GiB 显存",
        )
    )


@torch.no_grad()
def mean_loss(tuner: Tuner, engine: Engine, rows: Sequence[EncodedRow], size: int, budget: TokenBudget, notify: Notify) -> float:
    """Mean cross-entropy per target token, without dropout; in smaller sub-batches if memory runs out.

    Several processes take the batches in turn. All compute the same number: one that has none left repeats the last and ignores the result.
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
        attempted: Sequence[EncodedRow] = rows
        try:
            total = 0.0
            for attempted in budget.split(rows):
                total += float(tuner(pack_rows(attempted, tuner.network).to(engine.device)))
            return total
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if not engine.replicated:  # collective: one process cannot start over alone
                raise UserError(_out_of_memory_advice(attempted, engine)) from error
        free_cached_memory(engine.device)
        budget.shrink(attempted, notify)


def pack_rows(rows: Sequence[EncodedRow], scheme: PositionScheme, weights: Sequence[float] | None = None) -> Pack:
    """Pack rows; several texts in one row become separate sequences, so that none attends to another.

    `weights`: a factor of each row's losses, 1 if not given.
    """
    texts = [text for row in rows for text in row.sequences]
    weighted = weights is not None and any(weight != 1 for weight in weights)
    of_texts = [weight for row, weight in zip(rows, weights or (), strict=True) for _ in row.sequences] if weighted else None
    return pack([ids for ids, _ in texts], scheme, [labels for _, labels in texts], of_texts)


def num_targets(row: EncodedRow) -> int:
    """Number of scored tokens of a row; the first is never scored, since nothing precedes it."""
    return len(row.labels) - 1 - row.labels[1:].count(IGNORE_INDEX)


def check_disk(run: RunFolder, parameters: int, result_bytes: int, keep_states: int) -> Bilingual | None:
    """Compare the size of a run's files with the free disk space: a warning if not all states fit, UserError if not even one does.

    `parameters` is the number of trained parameters, `result_bytes` the size of the result.
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
    elements: int, largest: int, device: torch.device, world: World, memory: tuple[int, int], *, offload: bool = False
) -> None:
    """Raise UserError if a run needs more main memory than is free; `memory` is (total, available) in bytes.

    `elements`: trained elements of all parameters; `largest`: those of the largest parameter. Memory is needed for an offloaded optimizer,
    and for the parameters that are gathered while a state is saved.
    """
    offloaded = OFFLOADED_BYTES * elements * world.local_size // world.size if offload else 0
    gathered = 2 * min(GATHERED_BYTES, STATE_BYTES * elements) + (0 if device.type == "cpu" else 2 * STATE_BYTES * largest)
    needed, (total, free) = offloaded + gathered * world.local_size, memory
    if needed > free:
        remedy = "engine.offload takes 16 bytes per trained parameter; use more GPUs without it" if offloaded else "Close other programs"
        raise UserError(
            Bilingual(
                f"main memory: training and saving need {needed / GIB:.1f} GiB, {free / GIB:.1f} of {total / GIB:.1f} GiB are free. "
                f"{remedy}, or take a machine with more.",
                f"内存不足：训练与保存约需 {needed / GIB:.1f} GiB，目前可用 {free / GIB:.1f} GiB。",
            )
        )


def _rng_states(device: torch.device) -> RngStates:
    """The random states of the CPU and, if used, the GPU, from which dropout draws."""
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None


def _restore_rng(state: RngStates, device: torch.device) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1], device)
