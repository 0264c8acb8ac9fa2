"""The memory and the seconds of a step, term by term, from the dry run of a micro-batch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final

from imprint.forecast.cards import Card
from imprint.forecast.dry_run import BaseSize, DryRun, Setting, Texts, base_size, dry_run
from imprint.forecast.speed import kernel_seconds, update_seconds
from imprint.forecast.stand_ins import PLAIN, ComputePath
from imprint.forecast.trace import Owner
from imprint.messages import Bilingual
from imprint.models.network import Network
from imprint.quant.names import FormatName
from imprint.tune.section import AnySection, FullSection

MOMENT_BYTES: Final = 8
"""AdamW's two moments of an element, in fp32."""
COPY_BYTES: Final = 4
"""The fp32 copy of an element that is trained in 16 bits."""
LOW_BYTES: Final = 2
"""What a split copy has beside the weight (engine/split_weights.py)."""
BUCKET_ELEMENTS: Final = 2**28
"""Gradients that are converted to fp32 at a time (engine/master_weights.py)."""
WORKSPACE_BYTES: Final = 2 * 8_519_680
"""What cuBLAS keeps for the forward and the backward pass; PyTorch gives it this much."""
LARGE_WORKSPACE_BYTES: Final = 2 * 2**25
"""The same from Hopper on."""
CONTEXT_BYTES: Final = 9 * 2**26
"""What a CUDA context takes beside all tensors, with the kernels that it has loaded."""
SCATTERED_SHARE: Final = 0.05
"""Share of the memory for activations that PyTorch's allocator holds beside what tensors use, since it is in pieces."""
Build = Callable[[FormatName | None], Network]
"""Makes the network in its dtype and a weight format; called under the meta device."""
MEMORY_NAMES: Final[dict[Owner, Bilingual]] = {
    "gradient": Bilingual("gradients", "梯度"),
    "forward": Bilingual("activations kept for the backward pass", "为反向传播保留的激活"),
    "head": Bilingual("logits and loss, a chunk at a time", "分块的 logits 与损失"),
    "backward": Bilingual("working memory of the backward pass", "反向传播的工作内存"),
    "end": Bilingual("working memory at the end of it", "反向传播末尾的工作内存"),
}


@dataclass(frozen=True)
class Term:
    """A named part of the memory, or of the disk."""

    name: Bilingual
    """What it is."""
    nbytes: int
    """Its bytes."""


@dataclass(frozen=True)
class Choice:
    """The knobs that decide how much memory a step takes, and how long."""

    tune: AnySection
    """What is trained."""
    quantize: FormatName | None
    """The weight format of the base."""
    checkpointing: bool
    """Whether activations are recomputed."""
    micro_batch: int
    """Rows of a micro-batch on one device."""


@dataclass(frozen=True)
class Sharding:
    """What the processes of a run share."""

    stage: int = 0
    """0 for nothing; 1 the optimizer state, 2 the gradients too, 3 the weights too."""
    processes: int = 1
    """How many there are."""
    offload: bool = False
    """Whether the optimizer state is in main memory."""

    def share(self, nbytes: int, stage: int) -> int:
        """What one process has of something that is sharded from a stage on."""
        return nbytes // self.processes if self.stage >= stage else nbytes


@dataclass(frozen=True)
class Plan:
    """What a forecast knows of a run, beside the choice."""

    build: Build
    """Makes the network."""
    rows: Sequence[Texts]
    """As many of the longest rows as a step has on one device, longest first; each of one or more texts."""
    mean_tokens: float
    """Tokens of a row of the run, on average."""
    sharding: Sharding = Sharding()
    """What is sharded over the processes."""
    cache_bytes: int = 0
    """Keys and values of the watched prompts while they are answered."""
    path: ComputePath = PLAIN
    """How the kernels of a step are computed and launched."""

    def has_graphs(self, choice: Choice) -> bool:
        """Whether passes are repeated as CUDA graphs: in several processes those of full tuning wait for each other."""
        return self.path.graphs and (self.sharding.processes == 1 or not isinstance(choice.tune, FullSection))


@dataclass(frozen=True)
class Estimate:
    """What a choice takes on one device."""

    choice: Choice
    terms: tuple[Term, ...]
    """Memory at its peak; the sum is that of all tensors."""
    activation_bytes: int
    """The part of it that comes and goes within a step."""
    trained: int
    """Number of trained elements."""
    run: DryRun
    """The dry run of a micro-batch of the longest rows."""
    micro_batches: int
    """How many micro-batches a step has on one device."""
    length_share: float
    """Tokens of an average row over those of the longest ones."""
    graphs: bool = False
    """Whether kernels are repeated as a CUDA graph."""
    split_masters: bool = False
    """Whether an fp32 copy is only what the 16-bit weight leaves of it."""

    @property
    def peak_bytes(self) -> int:
        """Peak of all tensors."""
        return sum(term.nbytes for term in self.terms)

    @property
    def beside_bytes(self) -> int:
        """What a process takes beside all tensors: its CUDA context, and memory in pieces that the allocator holds."""
        return CONTEXT_BYTES + int(SCATTERED_SHARE * self.activation_bytes)

    def needed_bytes(self, card: Card) -> int:
        """What a card must have: tensors, cuBLAS, the context, and memory in pieces."""
        return self.allocated_bytes(card) + self.beside_bytes

    def allocated_bytes(self, card: Card) -> int:
        """The peak that `torch.cuda.max_memory_allocated` shows: tensors and cuBLAS."""
        return self.peak_bytes + (LARGE_WORKSPACE_BYTES if card.large_workspace else WORKSPACE_BYTES)

    def fits(self, card: Card) -> bool:
        """Whether it fits on a card."""
        return self.needed_bytes(card) <= card.memory_bytes

    def step_seconds(self, card: Card) -> float:
        """Seconds of an optimizer step of average rows."""
        micro_batch = kernel_seconds(self.run.kernels, card, self.length_share, graphs=self.graphs)
        return self.micro_batches * micro_batch + update_seconds(self.trained, self.run.trained_bytes, card, split=self.split_masters)


def estimate(plan: Plan, choice: Choice) -> Estimate:
    """What a choice takes. Raises RuntimeError where a network computes shapes from numbers."""
    rows = plan.rows[: choice.micro_batch]
    micro_batches = -(-len(plan.rows) // choice.micro_batch)
    setting = Setting(
        lambda: plan.build(choice.quantize),
        choice.tune,
        choice.checkpointing,
        accumulates=micro_batches > 1 or plan.has_graphs(choice),
        fused_attention=plan.path.fused_attention,
        triton=plan.path.triton,
        fp8=plan.path.fp8,
    )
    base = _base_size(plan.build, choice.quantize, fp8=plan.path.fp8)
    run = dry_run(setting, base.depth, [text for row in rows for text in row])
    terms = (*_lasting_terms(plan, choice, run, base.weights), *_step_terms(plan, run))
    tokens = sum(len(ids) for row in rows for ids, _ in row) / len(rows)
    return Estimate(
        choice,
        tuple(term for term in terms if term.nbytes > 0),
        run.peak.total() - run.peak["gradient"],
        run.trained,
        run,
        micro_batches,
        min(1.0, plan.mean_tokens / tokens),
        plan.has_graphs(choice),
        plan.path.split_masters,
    )


@cache
def _base_size(build: Build, quantize: FormatName | None, *, fp8: bool) -> BaseSize:
    """The size of the base in a weight format; the same for all other settings."""
    return base_size(lambda: build(quantize), fp8=fp8)


def _lasting_terms(plan: Plan, choice: Choice, run: DryRun, weights: int) -> list[Term]:
    """What is there from the first step to the last."""
    sharding = plan.sharding
    full = isinstance(choice.tune, FullSection)
    copied = run.trained * 2 == run.trained_bytes  # 16-bit elements
    state = 0 if sharding.offload else sharding.share(run.trained, 1)
    copies = (
        Term(Bilingual("lower halves of the fp32 values of trained weights", "训练权重 fp32 值的低 16 位"), LOW_BYTES * state)
        if plan.path.split_masters
        else Term(Bilingual("fp32 copies of trained weights", "训练权重的 fp32 副本"), COPY_BYTES * state)
    )
    return [
        Term(Bilingual("weights", "权重"), sharding.share(weights, 3)),
        Term(Bilingual("trained parameters, fp32", "训练的参数（fp32）"), 0 if full else run.trained_bytes),
        *([copies] if copied else []),
        Term(Bilingual("AdamW's moments, fp32", "AdamW 的动量（fp32）"), MOMENT_BYTES * state),
    ]


def _step_terms(plan: Plan, run: DryRun) -> list[Term]:
    """What takes most: a micro-batch, the update of 16-bit weights, or the answers to the watched prompts."""
    peak = run.peak
    if plan.cache_bytes > peak.total():
        return [Term(Bilingual("cache of the watched answers", "回答观察提示的缓存"), plan.cache_bytes)]
    if run.trained * 2 == run.trained_bytes and not plan.sharding.stage and not plan.path.split_masters:
        update = run.trained_bytes + COPY_BYTES * min(run.trained, BUCKET_ELEMENTS)
        if update > peak.total():
            return [
                Term(MEMORY_NAMES["gradient"], run.trained_bytes),
                Term(Bilingual("gradients in fp32, a bucket at a time", "分桶转为 fp32 的梯度"), update - run.trained_bytes),
            ]
    gradients = plan.sharding.share(peak["gradient"], 2)
    return [Term(name, gradients if owner == "gradient" else peak[owner]) for owner, name in MEMORY_NAMES.items()]
