"""The decoding step as CUDA graphs: one for each bucket of batch sizes, over tensors that stay where they are while their content changes.

A graph repeats the kernels of a step without Python, for sequences of any length up to the cache's capacity. The rows that fill up a bucket
are sequences of one token in free slots of the cache. Legend: B sequences in the batch, N slots of the cache, P keys of all prefixes, V
vocabulary size.
"""

import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from imprint.messages import Bilingual
from imprint.models.attention import NO_ADAPTER, Prefix, PrefixRanges, RowAdapters
from imprint.models.cache import KVCache
from imprint.models.kernel_paths import compiled_kernels, graphs_problem
from imprint.models.network import PLAIN_CHOSEN, Network
from imprint.models.step_fusion import FusedStep, computed
from imprint.pack import Pack
from imprint.terminal import say

BUCKETS = (1, 2, 4, 8, 16, 24, 32, 40, 48, 56, 64)
"""Batch sizes that graphs are made for; above 64, multiples of LARGE_BUCKETS."""
LARGE_BUCKETS = 32
STEPS_BEFORE = 1
"""Steps that are computed as they are before one is captured, so that a very short answer costs no capture."""
STEPS_IN_LARGER, STEPS_IN_ALL = 8, 64
"""Steps of a batch size, one after the other and in all, in the graph of a larger one before it gets its own: while requests join one by
one, sizes come and go that are not worth the time of twenty steps.
"""
MIN_CAPACITY = 64


class Recorder(Protocol):
    """One way to repeat a step."""

    def record(self, step: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """What computes the step again, over the same tensors. Raises RuntimeError where the step cannot be repeated so."""

    def restart(self) -> None:
        """All that was recorded is dropped."""


class CudaRecorder:
    """Captures CUDA graphs, which share one pool of memory."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._pool: Any = None

    def record(self, step: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """See Recorder."""
        with torch.cuda.device(self.device):
            return self._capture(step)

    def restart(self) -> None:
        """See Recorder: a pool that no graph uses any more must not be used again."""
        self._pool = None

    def _capture(self, step: Callable[[], Tensor]) -> Callable[[], Tensor]:
        current, side = torch.cuda.current_stream(), torch.cuda.Stream()
        side.wait_stream(current)
        with torch.cuda.stream(side):
            step()  # kernels are compiled and libraries take their memory
        current.wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            out = step()
        self._pool = graph.pool()

        def replay() -> Tensor:
            with torch.cuda.device(self.device):
                graph.replay()
            return out

        return replay


def recorder_for(network: Network) -> Recorder | None:
    """What records the steps of a network: CUDA graphs on a GPU; None where each step is computed as it is."""
    return CudaRecorder(network.device) if refusal(network) is None else None


def refusal(network: Network) -> Bilingual | None:
    """Why the steps of a network are not repeated as CUDA graphs; None where they are."""
    if (why := graphs_problem(network.device)) is not None:
        return why
    if network.kernels == "plain":
        return PLAIN_CHOSEN
    if network.training:
        return Bilingual("the network is in training mode", "网络处于训练模式")
    if not network.replays_steps:
        return Bilingual("the embedding is in main memory (model.embedding_on_host)", "嵌入层在内存中（model.embedding_on_host）")
    # sharded parameters are gathered by Python code, which a graph does not repeat
    if any(type(parameter) is not nn.Parameter or not parameter.numel() for parameter in network.parameters()):
        return Bilingual("the weights are sharded over processes", "权重分布在多个进程上")
    return None


def captures_summary(network: Network) -> Bilingual | None:
    """How many graphs decoding has made, and how many Triton kernels this process has compiled; None where there are none."""
    captures = network.step_captures
    graphs = Bilingual(f"CUDA graphs of decoding: {captures}", f"解码 CUDA 图 {captures} 个") if captures else None
    return joined(graphs, compiled_kernels())


def joined(*counts: Bilingual | None) -> Bilingual | None:
    """Counts in one line; None where there are none."""
    there = [count for count in counts if count is not None]
    english, chinese = "; ".join(count.english for count in there), "；".join(count.chinese for count in there)
    return Bilingual(english, chinese) if there else None


def bucket_of(rows: int) -> int:
    """The smallest bucket with this many rows."""
    return next((bucket for bucket in BUCKETS if bucket >= rows), -(-rows // LARGE_BUCKETS) * LARGE_BUCKETS)


def rounded_capacity(tokens: int) -> int:
    """A capacity for this many tokens or a few more, so that a cache grows rarely and at most by a quarter too much."""
    step = max(MIN_CAPACITY, 1 << max(0, tokens.bit_length() - 3))
    return -(-tokens // step) * step


@dataclass(frozen=True)
class StepKind:
    """What is fixed in a graph."""

    rows: int
    """Its bucket."""
    loras: int | str | None
    """As RowAdapters.loras; "each" for one of each sequence."""
    prefixed: bool
    """Whether there are prefixes."""


class StepGraphs:
    """The steps of one network and cache, captured when they are needed."""

    def __init__(self, network: Network, cache: KVCache, recorder: Recorder) -> None:
        self.network = network
        self.cache = cache
        self.failed = False
        """Whether a capture has failed: then every step is computed as it is."""
        self._recorder = recorder
        self._fuses = network.device.type == "cuda"
        self._prefix: Prefix = []
        self._forget()

    def load(self, adapters: RowAdapters, lengths: Tensor, bidirectional_lengths: Tensor, mask_positions: Tensor) -> None:
        """Take over the sequences of a batch (B,), whose cache may have grown."""
        if self._keys is not self.cache.keys[0] or self._revision != self.network.revision:
            self._forget()
        count = self._count = len(lengths)
        for target, source in (
            (self._lengths, lengths),
            (self._bidirectional_lengths, bidirectional_lengths),
            (self._mask_positions, mask_positions),
        ):
            target.zero_()
            target[:count] = source
        if isinstance(adapters.loras, Tensor):
            self._loras.fill_(NO_ADAPTER)
            self._loras[:count] = adapters.loras
        if adapters.prefix is not None:
            self._load_prefix(adapters, adapters.prefix)
        loras = "each" if isinstance(adapters.loras, Tensor) else adapters.loras
        self._kind = StepKind(bucket_of(count), loras, adapters.prefix is not None)

    def step(self, tokens: Tensor) -> Tensor | None:
        """Logits (B, V) after one more token (B,) of each sequence; None where the step must be computed as it is.

        The logits are overwritten by the next step.
        """
        if self._revision != self.network.revision or self.failed:
            return None
        graph = self._graph()
        if graph is None:
            return None
        self._tokens[: self._count] = tokens
        logits = graph()[: self._count]
        self._lengths[: self._count] += 1
        return logits

    def _forget(self) -> None:
        """Drop the graphs, and make tensors for the cache as it is."""
        self._graphs: dict[StepKind, Callable[[], Tensor]] = {}
        self._recorder.restart()
        self._wanted: Counter[StepKind] = Counter()
        self._latest: StepKind | None = None
        self._in_turn = 0
        """Steps of the latest kind, one after the other."""
        self._revision = self.network.revision
        self._keys = self.cache.keys[0]
        slots, device = self.cache.slots, self.network.device

        def zeros() -> Tensor:
            return torch.zeros(slots, dtype=torch.long, device=device)

        self._tokens, self._lengths, self._bidirectional_lengths, self._mask_positions, self._loras = (zeros() for _ in range(5))
        self._seq_ids = torch.arange(slots, device=device)
        self._nothing = torch.empty(0, dtype=torch.long, device=device)
        self._ranges = PrefixRanges(zeros(), zeros(), torch.arange(slots, device=device))
        self._loaded: Prefix | None = None

    def _load_prefix(self, adapters: RowAdapters, prefix: Prefix) -> None:
        keys, count = adapters.prefix_length, self._count
        if prefix is not self._loaded:
            if not self._prefix or len(self._prefix[0][0]) < keys:
                shape = (1 << (keys - 1).bit_length(), *prefix[0][0].shape[1:])
                self._prefix = [(key.new_zeros(shape), value.new_zeros(shape)) for key, value in prefix]
                self._offsets = torch.zeros(shape[0], dtype=torch.long, device=self.network.device)
                self._graphs = {kind: graph for kind, graph in self._graphs.items() if not kind.prefixed}
                if not self._graphs:
                    self._recorder.restart()
            torch._foreach_copy_([part[:keys] for pair in self._prefix for part in pair], [part for pair in prefix for part in pair])
            offsets = adapters.prefix_offsets
            self._offsets[:keys] = torch.arange(-keys, 0, device=self._offsets.device) if offsets is None else offsets
            self._loaded = prefix
        ranges = adapters.prefix_ranges(count, self.network.device)
        for target, source in ((self._ranges.begins, ranges.begins), (self._ranges.lengths, ranges.lengths)):
            target.zero_()
            target[:count] = source
        self._ranges.order.copy_(self._seq_ids)
        self._ranges.order[:count] = ranges.order

    def _graph(self) -> Callable[[], Tensor] | None:
        """The graph of the smallest bucket that has one, or a new one; None where it is too early for one, or a capture has failed."""
        kind = self._kind
        self._in_turn = self._in_turn + 1 if kind == self._latest else 1
        self._latest = kind
        self._wanted[kind] += 1
        if kind in self._graphs:
            return self._graphs[kind]
        larger = [
            (other.rows, graph)
            for other, graph in self._graphs.items()
            if other.rows > kind.rows and (other.loras, other.prefixed) == (kind.loras, kind.prefixed)
        ]
        if larger and self._in_turn <= STEPS_IN_LARGER and self._wanted[kind] <= STEPS_IN_ALL:
            return min(larger, key=lambda one: one[0])[1]
        if self._wanted[kind] <= STEPS_BEFORE or kind.rows > self.cache.slots:
            return None
        try:
            self._graphs[kind] = self._record(kind)
        except RuntimeError as error:
            self.failed = True
            reason = str(error).partition("\n")[0]
            line = Bilingual(
                f"decoding without CUDA graphs, which is slower: capturing one failed ({reason}).",
                f"未使用 CUDA 图，解码较慢：捕获失败（{reason}）。",
            )
            say(line.line, stream=sys.stderr)
            return None
        self.network.step_captures += 1
        return self._graphs[kind]

    def _record(self, kind: StepKind) -> Callable[[], Tensor]:
        """A new graph, of fewer kernels than the network's own lines have where that works."""
        if self._fuses:
            try:
                return self._recorder.record(lambda: self._fused(kind))
            except Exception:  # whatever a network does that a sum put off does not allow
                self._fuses = False
        return self._recorder.record(lambda: self._compute(kind))

    def _fused(self, kind: StepKind) -> Tensor:
        with FusedStep():
            logits: Tensor = computed(self._compute(kind))
        return logits

    def _compute(self, kind: StepKind) -> Tensor:
        """The step itself, over the tensors that stay: logits of a bucket's rows."""
        network, rows = self.network, slice(0, kind.rows)
        lengths = self._lengths[rows]
        positions = network.positions(lengths, self._bidirectional_lengths[rows], self._mask_positions[rows])
        seq_ids, nothing = self._seq_ids[rows], self._nothing
        pack = Pack(self._tokens[rows], positions, seq_ids, lengths, lengths + 1, (1,) * kind.rows, nothing, nothing)
        loras = self._loras[rows] if isinstance(kind.loras, str) else kind.loras
        adapters = RowAdapters(loras=loras)
        if kind.prefixed:
            ranges = PrefixRanges(self._ranges.begins[rows], self._ranges.lengths[rows], self._ranges.order[rows])
            adapters = RowAdapters(self._prefix, prefix_offsets=self._offsets, loras=loras, ranges=ranges)
        capacity = self.cache.capacity if network.max_row_tokens is None else min(self.cache.capacity, network.max_row_tokens)
        return network.logits(network(pack, adapters=adapters, cache=self.cache.view(0, kind.rows, capacity)))
