"""The objects that a training run works with, and how they are built from a recipe."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from imprint.data.batches import BatchSampler
from imprint.data.dataset import DataSplits, load_splits
from imprint.data.readers.documents import list_text_files
from imprint.data.readers.sources import data_files, detect_format, parse_source
from imprint.data.section import DataSection, TextsSection
from imprint.data.texts import load_texts
from imprint.engine.engine import Engine
from imprint.engine.world import World
from imprint.loading.load import load_base
from imprint.loading.source import adapter_path
from imprint.messages import Bilingual, UserError
from imprint.model import Model
from imprint.models.network import PLAIN_CHOSEN, Network
from imprint.quant.fp8 import Fp8
from imprint.quant.scaled_matmul import fp8_fallback_reason
from imprint.runs import RunFolder
from imprint.runtime import memory_bytes, seed_everything
from imprint.training.graphs import GradientGraphs, graphs_for, refusal
from imprint.training.memory import TokenBudget, num_targets, refuse_small_memory
from imprint.training.recipe import Recipe
from imprint.tune.section import AnySection, FullSection
from imprint.tune.tuner import Tuner, build_tuner

LISTED_ROWS = 5
"""Most rows that a message lists."""


@dataclass(frozen=True)
class TrainJob:
    """The objects that the training loop works with."""

    recipe: Recipe
    """The resolved recipe."""
    run: RunFolder
    """The run folder."""
    model: Model
    """The base with its tokenizer and template."""
    split: DataSplits
    """The encoded rows for training and evaluation."""
    tuner: Tuner
    """The network with its trainable parameters."""
    engine: Engine
    """Devices, processes and optimizer."""
    batches: BatchSampler
    """The rows of each step."""
    steps: int
    """Optimizer steps of the whole run."""
    token_budget: TokenBudget = field(default_factory=TokenBudget)
    """How many tokens are computed at once."""
    graphs: GradientGraphs | None = None
    """Repeat passes of the same size; None where every pass is computed as it is."""
    base_parameters: int = 0
    """Number of parameters of the base; counted before they are sharded."""
    flags: Mapping[str, str] = field(default_factory=dict)
    """Knob -> what is typed for it, where the run was started without a recipe."""

    @property
    def world(self) -> World:
        """The processes that train together."""
        return self.engine.world

    @property
    def rows_at_once(self) -> int:
        """Rows of the micro-batches that are computed as one."""
        return self.recipe.train.micro_batch_size * self.token_budget.micro_batches

    @property
    def trained_parameters(self) -> int:
        """Number of trained parameters."""
        return sum(shape.numel() for shape in self.engine.shapes.values())


def check_data(recipe: Recipe) -> None:
    """Raise UserError for files of the data that are not there or are none of rows or texts, before a base is downloaded or loaded."""
    for path in (recipe.data.train, recipe.data.dev):
        if path is None:
            continue
        if isinstance(recipe.data, TextsSection):
            list_text_files(path)
        else:
            detect_format(data_files(parse_source(path).path)[0])


def load_model(recipe: Recipe) -> Model:
    """The base of a recipe, as it is trained. Raises UserError for one that cannot be loaded."""
    base = recipe.model
    model = load_base(
        base.location,
        quantize=base.quantize,
        quantize_head=base.quantize_head,
        embedding_on_host=base.embedding_on_host,
        dtype=base.dtype,
        device=base.device,
        kernels=base.kernels,
        template=base.template,
        date=base.date,
    )
    model.source_prefix = recipe.data.source_prefix
    return model


def load_data(recipe: Recipe, run: RunFolder, model: Model, world: World) -> DataSplits:
    """The encoded rows of a recipe; raw text is tokenized into the run folder, by the main process only."""
    if not isinstance(recipe.data, TextsSection):
        return load_splits(
            recipe.data,
            model.template,
            Path(model.name),
            quiet=not world.is_main,
            max_length=model.network.shape.max_length,
            agree=lambda limits: world.on_main(lambda: limits),
        )
    section, loaded = recipe.data, list[DataSplits]()

    def tokenize() -> None:
        loaded.append(load_texts(section, model.tokenizer, run.tokens))

    world.on_main(tokenize, slow=True)
    return loaded[0] if loaded else load_texts(section, model.tokenizer, run.tokens)


def with_limits(recipe: Recipe, split: DataSplits) -> Recipe:
    """The recipe with the limits under which its rows are encoded, so that everything that reads its config.yaml uses the same."""
    if split.limits is None:
        return recipe
    return recipe.model_copy(update={"data": recipe.data.model_copy(update=split.limits.knobs)})


def build_batches(recipe: Recipe, split: DataSplits) -> BatchSampler:
    """The rows of each step."""
    section = recipe.train
    return BatchSampler(
        split.lengths(),
        section.batch_size,
        seed=section.seed,
        group_by_length=section.group_by_length,
        micro_size=section.micro_batch_size,
        num_general=len(split.general),
        general_per_epoch=split.general_per_epoch,
    )


def build_job(recipe: Recipe, run: RunFolder, model: Model, split: DataSplits, world: World) -> TrainJob:
    """Build tuner, engine and batches. Raises UserError if nothing can be learned, or the settings do not fit together or into memory."""
    if not any(map(num_targets, split.train)) and isinstance(recipe.data, DataSection):
        raise UserError(
            Bilingual(
                f"{recipe.data.train}: no token of its {len(split.train)} rows is a target, so there is nothing to learn. Check that "
                f'data.response_column ("{recipe.data.response_column}") holds the answers.',
                f"{recipe.data.train}：没有任何要学习的词元："
                f"请检查 data.response_column（{recipe.data.response_column}）是否是回答所在的列。",
            )
        )
    tuner = build_tuner(
        model.network,
        resolve_adapter(recipe.tune),
        lambda text: model.tokenizer.encode(text),
        checkpointing=bool(recipe.train.checkpointing),
    )
    with tuner.adapter_off():
        base_parameters = model.network.num_parameters
    section, batches = recipe.train, build_batches(recipe, split)
    steps = section.steps or batches.total_steps(section.epochs)
    if recipe.engine.deepspeed is not None and model.network.weight_format:
        raise UserError(
            Bilingual(
                "engine.deepspeed: does not support a quantized base, whose scales it would round. Leave it out: a prefix or a LoRA "
                "needs little memory, and gradients are reduced without DeepSpeed too.",
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
        kernels=model.network.kernels,
    )
    if tuner.adapter is not None and not engine.replicated:  # stage 3 of a DeepSpeed file
        refuse_sharded_base(recipe.tune.method)
    if world.rank:
        seed_everything(section.seed + world.rank)  # each process draws other dropout masks from here on
    graphs = gradient_graphs(recipe, tuner, engine)
    return TrainJob(recipe, run, model, split, tuner, engine, batches, steps, base_parameters=base_parameters, graphs=graphs)


def gradient_graphs(recipe: Recipe, tuner: Tuner, engine: Engine) -> GradientGraphs | None:
    """Graphs that repeat the passes of a process on its GPU; None where they cannot, or are switched off."""
    return graphs_for(tuner) if recipe.train.cuda_graphs and engine.independent_passes else None


def graphs_notice(job: TrainJob) -> Bilingual | None:
    """Why a run on a GPU has no CUDA graphs although they are asked for."""
    if job.graphs is not None or not job.recipe.train.cuda_graphs or job.model.device.type != "cuda":
        return None
    reason = refusal(job.tuner) or Bilingual("the passes of all processes depend on each other", "各进程的计算相互依赖")
    return Bilingual(f"training without CUDA graphs: {reason.english}", f"训练不使用 CUDA 图：{reason.chinese}")


def products_notice(network: Network) -> Bilingual | None:
    """Why the FP8 weights of a network are dequantized for every product, which saves memory but no time."""
    if not isinstance(network.weight_format, Fp8):
        return None
    reason = PLAIN_CHOSEN if network.kernels == "plain" else fp8_fallback_reason(network.device, network.dtype)
    if reason is None:
        return None
    return Bilingual(
        f"FP8 weights are dequantized for every product, which takes more time than 16 bits: {reason.english}",
        f"FP8 权重在每次乘法前还原，比 16 位慢：{reason.chinese}",
    )


def resolve_adapter(section: AnySection) -> AnySection:
    """The section with the folder of the adapter that it continues: `tune.adapter` may name a run, as `adapter` of every command."""
    if isinstance(section, FullSection) or section.adapter is None:
        return section
    return section.model_copy(update={"adapter": adapter_path(section.adapter)})


def refuse_sharded_base(method: str) -> NoReturn:
    """Raise UserError: the weights of a frozen base cannot be sharded."""
    raise UserError(
        Bilingual(
            f"engine: sharding all weights over processes needs tune.method=full; this is {method}, whose base is frozen. Use "
            "engine.deepspeed=zero2 or leave it out, and model.quantize=4 if the base is too large.",
            "engine.deepspeed=zero3 与 engine.fsdp 只用于全参数微调；请改用 zero2 或去掉该项，底座放不下时用 model.quantize=4。",
        )
    )


def describe_rows(job: TrainJob, rows: Sequence[int]) -> Bilingual:
    """The locations (file:line) of rows, for a message: at most the first few."""
    locations = [job.split.location(row) for row in rows[:LISTED_ROWS]]
    more = len(rows) - LISTED_ROWS
    rest = Bilingual(f" and {more} more", f" 等 {len(rows)} 行") if more > 0 else Bilingual("", "")
    english, chinese = ", ".join(location.english for location in locations), "、".join(location.chinese for location in locations)
    return Bilingual(english + rest.english, chinese + rest.chinese)
