"""A recipe: all settings of a run; each knob is declared once, in the section beside the code that uses it."""

from pathlib import Path
from typing import Annotated, Literal

from imprint.config import Field, InsteadOf, MayChange, Section
from imprint.data.section import AnyData
from imprint.engine.section import EngineSection, OptimizerSection
from imprint.forgetting.section import ForgettingSection
from imprint.loading.section import ModelSection
from imprint.task import TaskSection, TextTask
from imprint.tune.section import TuneSection


class TrainSection(Section):
    """The training loop: its length, its batches, and how often it evaluates and saves."""

    steps: MayChange[int | None] = Field(
        None, ge=1, le=10**9, description="Optimizer steps; null uses `epochs`. A recipe with both takes `steps`."
    )
    epochs: MayChange[Annotated[float, InsteadOf("steps")]] = Field(
        1.0, gt=0, le=10**6, description="Passes over the data, if `steps` is null; on the command line it makes the recipe's `steps` null."
    )
    batch_size: int = Field(16, ge=1, description="Rows in one optimizer step, over all processes.")
    micro_batch_size: int = Field(16, ge=1, description="Rows per forward pass on one device; the gradients of a batch are accumulated.")
    group_by_length: bool = Field(
        True,
        description="Put rows of similar length into one batch, which is faster; false only shuffles rows, and the rows left over at the "
        "end of an epoch begin the next step, as in the original.",
    )
    fit: MayChange[Literal["auto", "off"]] = Field(
        "auto",
        description="On a GPU, auto chooses by forecast how micro-batches are computed: several at once or in parts, with activations kept "
        "or recomputed (docs/forecast.md); off takes the recipe's numbers as they are. Batch, loss and gradient are the same.",
    )
    merge_micro_batches: MayChange[bool] = Field(
        True,
        description="On one GPU, compute micro-batches together as far as memory allows: the same loss and gradient in less time, with one "
        "dropout mask of a prefix for them. Not with `fit: off`.",
    )
    loss_average: Literal["token", "micro_batch"] = Field(
        "token", description="One mean over all target tokens of a step, or the original's mean of the micro-batches' means."
    )
    checkpointing: MayChange[bool | None] = Field(
        None,
        description="Recompute activations in the backward pass: less memory, about a third slower; null does so only where the longest "
        "rows need it on this GPU, by forecast (docs/forecast.md); with `fit: off`, not.",
    )
    cuda_graphs: MayChange[bool] = Field(
        True, description="On a GPU, repeat the kernels of a step as one CUDA graph, so that no time goes into launching them."
    )
    guard: MayChange[bool] = Field(
        True, description="Watch the loss: if it diverges, return to a good state with a lower learning rate, at most three times."
    )
    seed: int = Field(0, ge=0, lt=2**32, description="Seed of data order, random initialization and dropout.")
    evaluate_every: MayChange[int | None] = Field(None, ge=1, description="Steps between evaluation losses; null takes a tenth of the run.")
    save_every: MayChange[int] = Field(100, ge=1, description="Steps between saved states.")
    keep_states: MayChange[int] = Field(2, ge=1, description="Number of saved states to keep.")
    watch_every: MayChange[int | None] = Field(
        None, ge=1, description="Steps between answers to the watched prompts; null takes a fifth of the run."
    )
    watch_prompts: MayChange[int] = Field(2, ge=0, description="Number of held-out prompts answered during training.")
    report: MayChange[bool] = Field(True, description="Write report.html at the end.")
    tracker: MayChange[Literal["trackio"] | None] = Field(
        None,
        description="Also log to Trackio, on this machine: `trackio show --project imprint` shows it. Needs imprint[trackio].",
    )


class Recipe(Section):
    """All settings of a run."""

    output: MayChange[Path] = Field(description="Run folder; a stopped run resumes from it.")
    model: ModelSection = Field(description="The base.")
    data: AnyData = Field(description="Training data.")
    tune: TuneSection = Field(description="What is trained.")
    task: TaskSection = Field(
        default_factory=TextTask, description="Kind of task, which determines how answers are scored; see docs/tasks.md."
    )
    optimizer: OptimizerSection = Field(default_factory=OptimizerSection, description="AdamW and its schedule.")
    train: TrainSection = Field(default_factory=TrainSection, description="The training loop.")
    engine: MayChange[EngineSection] = Field(default_factory=EngineSection, description="The processes that train together.")
    forgetting: MayChange[ForgettingSection] = Field(
        default_factory=ForgettingSection,
        description="Forgetting of the base, measured by the same questions and texts before and after tuning.",
    )
