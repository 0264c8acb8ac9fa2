"""Loss and gradient of a micro-batch as one CUDA graph: the GPU repeats the kernels of a pass, which Python would launch one by one.

A graph computes packs of one size. A pack is filled up to the next size with rows of one token and with targets of weight 0, which
changes no loss and no gradient. Legend: T packed tokens, N scored targets.
"""

import gc
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from imprint.messages import Bilingual
from imprint.pack import Pack
from imprint.runtime import free_cached_memory, is_out_of_memory
from imprint.training.direct_gradients import write_gradients
from imprint.training.pack_sizes import FastestSizes, product_seconds, rounded_up
from imprint.training.sized_pack import PackSize, SizedPack, in_memory
from imprint.tune.lora.section import LoraSection
from imprint.tune.tuner import Tuner

USES_BEFORE = 1
"""Packs of a size that are computed as they are before the first graph is made."""
CAPTURES_AT_ONCE = True
"""Whether the first pack of another size makes its graph: a pass beside the graphs would need as much memory as they have once more."""
WRITTEN_FROM_BYTES = 2**28
"""Bytes of gradients from which a pass that is all of its step writes them, without reading what is there."""
Compute = Callable[[], None]
Capture = Callable[[Compute], Compute]
"""What computes something -> what repeats it over the same tensors. Raises RuntimeError where that is not possible."""


@dataclass
class GradientGraph:
    """The graph of one size, and the tensors that it reads and writes."""

    memory: Tensor
    """Of the pack that it reads."""
    loss: Tensor
    """Of the latest pack."""
    replay: Compute


class GradientGraphs:
    """The graphs of one tuner, made as sizes come; they share memory, so a larger size than before replaces all of them.

    `tokens_for`: the size for a number of tokens.
    """

    def __init__(
        self,
        tuner: Tuner,
        parameters: Mapping[str, nn.Parameter],
        make_capture: Callable[[], Capture] | None = None,
        tokens_for: Callable[[int], int] = rounded_up,
    ) -> None:
        self.tuner = tuner
        self.parameters = list(parameters.values())
        self.captures = 0
        """Number of captures so far."""
        self.failure: str | None = None
        """Why a capture failed: then every pack is computed as it is."""
        self._failure_shown = False
        self._at_once = CAPTURES_AT_ONCE
        self._tokens_for = tokens_for
        self._make_capture = make_capture or CudaCapture
        self._capture = self._make_capture()
        self._uses: Counter[PackSize] = Counter()
        self._graphs: dict[tuple[PackSize, bool], GradientGraph] = {}
        """By size, and whether gradients are written instead of added."""
        self._gradients: list[Tensor] = []
        self._writes = sum(parameter.nbytes for parameter in self.parameters) >= WRITTEN_FROM_BYTES

    def sized(self, pack: Pack) -> SizedPack:
        """A pack as `add_gradients` needs it, for which a GPU need not be waited."""
        size = PackSize(self._tokens_for(pack.ids.numel()), rounded_up(pack.target_tokens))
        return SizedPack.of(pack, size, pinned=self.tuner.network.device.type == "cuda")

    def add_gradients(self, pack: Pack | SizedPack, *, whole: bool = False) -> Tensor | None:
        """Add the gradients of a pack's summed loss; returns the loss, or None where the pack must be computed as it is.

        `whole`: the pack is all of its step. Raises RuntimeError for a lack of memory and UserError for a row that is too long; no gradient
        is added then.
        """
        sized = pack if isinstance(pack, SizedPack) else self.sized(pack)
        size = sized.size
        self._uses[size] += 1
        early = self._uses[size] <= USES_BEFORE
        if self.failure is not None or (early and not (self._at_once and self.captures)):
            return None
        self.tuner.network.check_length(max(sized.pack.lengths))
        writes = whole and self._writes and all(parameter.grad is None for parameter in self.parameters)
        known = (size, writes) in self._graphs
        if not known:
            self._make_room(size)
        self._keep_gradients(writes=writes)
        if (rows := self.tuner.network.host_rows) is not None:
            rows.load(sized.filled.ids, self.tuner.network.device)
        if not known and not self._add_graph(sized, writes=writes, early=early):
            return None
        graph = self._graphs[size, writes]
        graph.memory.copy_(sized.memory, non_blocking=True)
        graph.replay()
        if writes:
            for parameter, gradient in zip(self.parameters, self._gradients, strict=True):
                parameter.grad = gradient
        return graph.loss.clone()

    def summary(self) -> Bilingual:
        """How many graphs were made, for how many sizes of packs."""
        sizes = len(self._uses)
        return Bilingual(f"CUDA graphs made: {self.captures}; sizes of packs: {sizes}", f"CUDA 图 {self.captures} 个，批次大小 {sizes} 种")

    def failure_notice(self) -> Bilingual | None:
        """What the user is told, once, where a capture has failed."""
        if self.failure is None or self._failure_shown:
            return None
        self._failure_shown = True
        return Bilingual(
            f"training without CUDA graphs, which may be slower: one could not be made ({self.failure}). train.cuda_graphs=false leaves "
            "them out from the start.",
            f"未使用 CUDA 图，训练可能较慢：无法生成（{self.failure}）。train.cuda_graphs=false 可直接关闭。",
        )

    def clear(self) -> None:
        """Free the graphs and their memory."""
        self._graphs.clear()
        self._gradients.clear()
        self._capture = self._make_capture()
        gc.collect()
        free_cached_memory(self.tuner.network.device)

    def _make_room(self, size: PackSize) -> None:
        """Free what the graph of a size cannot use: smaller graphs, whose memory it would not fit into, and memory outside of theirs.

        It comes before any tensor that stays, which would else be put into a part of that memory and keep the rest from being freed.
        """
        if self._graphs and size.tokens > max(other.tokens for other, _ in self._graphs):
            self._graphs.clear()
            self._capture = self._make_capture()
        free_cached_memory(self.tuner.network.device)

    def _keep_gradients(self, *, writes: bool) -> None:
        """Let every parameter have the gradient tensor that the graphs add to, with what it has now; none where they write."""
        if not self._gradients:
            self._gradients = [torch.zeros_like(parameter) for parameter in self.parameters]
        if writes:
            return
        for parameter, gradient in zip(self.parameters, self._gradients, strict=True):
            if parameter.grad is None:
                gradient.zero_()
            elif parameter.grad is not gradient:
                gradient.copy_(parameter.grad)
            parameter.grad = gradient

    def _add_graph(self, sized: SizedPack, *, writes: bool, early: bool) -> bool:
        """Make the graph of a size; false where that fails. `early`: no pack of it was computed before, so it may succeed later."""
        device = self.tuner.network.device
        memory, rows = sized.memory.to(device, copy=True), self.tuner.network.host_rows
        static = in_memory(memory, sized.filled)
        loss = torch.zeros((), device=device)

        def compute() -> None:
            with nullcontext() if rows is None else rows.preloaded():
                computed = self.tuner(static)
            if writes:
                write_gradients(computed, dict(zip(self.parameters, self._gradients, strict=True)))
            else:
                computed.backward()
            loss.copy_(computed.detach())

        try:
            self._graphs[sized.size, writes] = GradientGraph(memory, loss, self._capture(compute))
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            if early:
                self._at_once = False
            else:
                self.failure = str(error).partition("\n")[0]
            self.clear()
            return False
        self.captures += 1
        return True


class CudaCapture:
    """Captures CUDA graphs, which share one pool of memory."""

    def __init__(self) -> None:
        self._pool: Any = torch.cuda.graph_pool_handle()

    def __call__(self, compute: Compute) -> Compute:
        """See Capture."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):  # NCCL's own thread may ask its events meanwhile
            compute()
        return graph.replay


def graphs_for(tuner: Tuner) -> GradientGraphs | None:
    """The graphs of a tuner on its GPU; None where its passes cannot be repeated. Their passes are fused (models/step_fusion.py)."""
    if refusal(tuner) is not None:
        return None
    tuner.network.fuses_training = True
    sizes = FastestSizes(partial(product_seconds, tuner.network))
    return GradientGraphs(tuner, tuner.trainable_parameters(), tokens_for=sizes)


def refusal(tuner: Tuner) -> Bilingual | None:
    """Why the passes of a tuner are not the same kernels for all packs of a size; None where they are."""
    if (why := tuner.network.packing_problem) is not None:
        return Bilingual(f"attention is computed by PyTorch: {why.english}", f"注意力由 PyTorch 计算：{why.chinese}")
    if tuner.checkpointing and tuner.section.dropout > 0 and isinstance(tuner.section, LoraSection):
        return Bilingual(
            "recomputed activations need the random state of the dropout (tune.dropout=0 or train.checkpointing=false helps)",
            "重算激活需要 dropout 的随机状态，可设 tune.dropout=0 或 train.checkpointing=false",
        )
    return None
