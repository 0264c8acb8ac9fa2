"""A recipe: everything that decides a run, each knob said once in the section beside the code that uses it."""

from pathlib import Path
from typing import Literal

from imprint.config import Field, MayChange, Section
from imprint.data.section import AnyData
from imprint.engine.section import EngineSection, OptimizerSection
from imprint.forgetting.section import ForgettingSection
from imprint.loading.section import ModelSection
from imprint.task import TaskSection, TextTask
from imprint.tune.section import TuneSection


class TrainSection(Section):
    """The loop: how long, how much at a time, how often to look and to save."""

    steps: MayChange[int | None] = Field(None, ge=1, description="Optimizer steps; null goes by `epochs`.")
    epochs: MayChange[float] = Field(1.0, gt=0, description="Times through the data, where `steps` is null.")
    batch_size: int = Field(16, ge=1, description="Rows in one optimizer step, over all processes.")
    micro_batch_size: int = Field(16, ge=1, description="Rows computed at once on one device; the rest of a batch is accumulated.")
    group_by_length: bool = Field(
        True,
        description="Put rows of similar length into one batch, which is faster; false shuffles rows alone, and what an epoch leaves over "
        "begins the next step, as in the original.",
    )
    loss_average: Literal["token", "micro_batch"] = Field(
        "token", description="One mean over all target tokens of a step, or the original's mean of the micro-batches' means."
    )
    checkpointing: MayChange[bool] = Field(
        False, description="Compute activations again in the backward pass: less memory, about a third slower."
    )
    guard: MayChange[bool] = Field(
        True, description="Watch the loss: where it breaks, go back to a good state with a lower rate, at most three times."
    )
    seed: int = Field(0, ge=0, lt=2**32, description="Seed of data order, random starts and dropout.")
    evaluate_every: MayChange[int | None] = Field(None, ge=1, description="Steps between evaluation losses; null takes a tenth of the run.")
    save_every: MayChange[int] = Field(100, ge=1, description="Steps between saved states.")
    keep_states: MayChange[int] = Field(2, ge=1, description="How many saved states are kept.")
    watch_every: MayChange[int | None] = Field(
        None, ge=1, description="Steps between answers to the watched prompts; null takes a fifth of the run."
    )
    watch_prompts: MayChange[int] = Field(2, ge=0, description="How many held-out prompts are answered while it trains.")
    report: MayChange[bool] = Field(True, description="Write report.html at the end.")
    tracker: MayChange[Literal["trackio"] | None] = Field(
        None,
        description="Also log to Trackio, on this machine: `trackio show --project imprint` draws it. Needs imprint[trackio].",
    )


class Recipe(Section):
    """A whole run."""

    output: MayChange[Path] = Field(description="The run folder; a run that was stopped goes on where it was.")
    model: ModelSection = Field(description="The base.")
    data: AnyData = Field(description="What it learns from.")
    tune: TuneSection = Field(description="What is trained.")
    task: TaskSection = Field(
        default_factory=TextTask, description="What kind of answers it gives, which decides how they are scored; see docs/tasks.md."
    )
    optimizer: OptimizerSection = Field(default_factory=OptimizerSection, description="AdamW and its schedule.")
    train: TrainSection = Field(default_factory=TrainSection, description="The loop.")
    engine: MayChange[EngineSection] = Field(default_factory=EngineSection, description="The processes that share the work.")
    forgetting: MayChange[ForgettingSection] = Field(
        default_factory=ForgettingSection,
        description="What a finished run has taken from its base; with the same questions before and after.",
    )
