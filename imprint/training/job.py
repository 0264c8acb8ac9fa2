"""Everything a training run works with, and how it is put together."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from imprint.data.batches import BatchSampler
from imprint.data.dataset import DataSplits, load_splits
from imprint.data.section import DataSection, TextsSection
from imprint.data.texts import load_texts
from imprint.engine.engine import Engine
from imprint.engine.world import World
from imprint.messages import Bilingual, UserError
from imprint.model import Model
from imprint.runs import RunFolder
from imprint.runtime import memory_bytes, seed_everything
from imprint.training.memory import TokenBudget, num_targets, refuse_small_memory
from imprint.training.recipe import Recipe
from imprint.tune.tuner import Tuner, start_tuner

NAMED_ROWS = 5


@dataclass(frozen=True)
class TrainJob:
    """Everything the loop works with."""

    recipe: Recipe
    """The resolved recipe."""
    run: RunFolder
    """Where it is written."""
    model: Model
    """The base with its tokenizer."""
    split: DataSplits
    """Encoded rows."""
    tuner: Tuner
    """What learns."""
    engine: Engine
    """Devices and optimizer."""
    batches: BatchSampler
    """Which rows a step takes."""
    steps: int
    """Optimizer steps in all."""
    token_budget: TokenBudget = field(default_factory=TokenBudget)
    """How much is computed at once."""
    base_parameters: int = 0
    """Numbers in the base; counted before they are shared between processes."""

    @property
    def world(self) -> World:
        """The processes that train together."""
        return self.engine.world

    @property
    def trained_parameters(self) -> int:
        """Numbers that learn."""
        return sum(shape.numel() for shape in self.engine.shapes.values())


def load_data(recipe: Recipe, run: RunFolder, model: Model, world: World) -> DataSplits:
    """The encoded rows of a recipe; raw text is tokenized into the run folder, by the leader alone."""
    if not isinstance(recipe.data, TextsSection):
        return load_splits(recipe.data, model.template, Path(model.name), quiet=not world.is_main)
    section, found = recipe.data, []

    def tokenize() -> None:
        found.append(load_texts(section, model.tokenizer, run.tokens))

    world.on_main(tokenize, slow=True)
    return found[0] if found else load_texts(section, model.tokenizer, run.tokens)


def build_job(recipe: Recipe, run: RunFolder, model: Model, split: DataSplits, world: World) -> TrainJob:
    """Tuner, engine and batches of a run."""
    if not any(map(num_targets, split.train)) and isinstance(recipe.data, DataSection):
        raise UserError(
            Bilingual(
                f"{recipe.data.train}: no token of its {len(split.train)} rows is a target, so there is nothing to learn. Check that "
                f'data.response_column ("{recipe.data.response_column}") holds the answers.',
                "没有任何要学习的词元：请检查 data.response_column 是否是回答所在的列。",
            )
        )
    tuner = start_tuner(model.network, recipe.tune, model.tokenizer, checkpointing=recipe.train.checkpointing)
    with tuner.adapter_off():
        base_parameters = model.network.num_parameters
    section = recipe.train
    batches = BatchSampler(
        split.lengths(),
        section.batch_size,
        seed=section.seed,
        group_by_length=section.group_by_length,
        micro_size=section.micro_batch_size,
        num_general=len(split.general),
        general_per_epoch=split.general_per_epoch,
    )
    steps = section.steps or batches.total_steps(section.epochs)
    if recipe.engine.deepspeed is not None and model.network.quantization_bit:
        raise UserError(
            Bilingual(
                "engine.deepspeed: takes no quantised base, whose scales it would round. Leave it out: a prefix or a LoRA "
                "needs little memory, "
                "and the gradients are added up without it.",
                "量化底座不需要 DeepSpeed：请去掉 engine.deepspeed。",
            )
        )
    sizes = [parameter.numel() for parameter in tuner.trainable_parameters().values()]
    world.on_all(lambda: refuse_small_memory(sum(sizes), max(sizes), model.device, world, memory_bytes(), offload=recipe.engine.offload))
    engine = Engine.start(
        tuner,
        tuner.trainable_parameters(),
        recipe.optimizer,
        steps,
        device=model.device,
        world=world,
        engine=recipe.engine,
        lr_ratios=tuner.lr_ratios(),
    )
    if tuner.adapter is not None and not engine.replicated:  # as a DeepSpeed file says
        refuse_sharded_base(recipe.tune.method)
    if world.rank:
        seed_everything(section.seed + world.rank)  # from here on each draws for rows of its own
    return TrainJob(recipe, run, model, split, tuner, engine, batches, steps, base_parameters=base_parameters)


def refuse_sharded_base(method: str) -> NoReturn:
    """Raise UserError: a frozen base is not shared between processes."""
    raise UserError(
        Bilingual(
            f"engine: to share all weights between processes is offered for tune.method=full; this is {method}, whose base stays as it is. "
            "Take engine.deepspeed=zero2 or leave it out, and model.quantize=4 where the base is too large.",
            "engine.deepspeed=zero3 与 engine.fsdp 只用于全参数微调；请改用 zero2 或去掉该项，底座放不下时用 model.quantize=4。",
        )
    )


def describe_rows(job: TrainJob, rows: Sequence[int]) -> str:
    """Where rows stand, the first few of them."""
    places = [job.split.location(row) for row in rows]
    more = f" and {len(places) - NAMED_ROWS} more" if len(places) > NAMED_ROWS else ""
    return ", ".join(places[:NAMED_ROWS]) + more
