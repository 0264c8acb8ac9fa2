"""The forecast of a recipe: what its run will take, before anything is loaded."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import torch

from imprint.data.dataset import DataSplits, load_splits
from imprint.data.limits import limits_of
from imprint.data.section import TextsSection
from imprint.data.texts import load_texts
from imprint.files.scratch import scratch_folder
from imprint.forecast.cards import Card
from imprint.forecast.choices import by_distance, may_be_recommended, other_choices
from imprint.forecast.estimate import Build, Choice, Estimate, Plan, Sharding, Term, estimate
from imprint.forecast.run import RunForecast
from imprint.forecast.stand_ins import ComputePath
from imprint.loading.base import base_folder
from imprint.loading.empty import empty_network, is_quantized, open_folder_template
from imprint.messages import Bilingual, UserError
from imprint.models.loss import has_kernel
from imprint.models.network import Network
from imprint.models.packed_attention import PackedAttention
from imprint.progress import Progress
from imprint.quant.scaled_matmul import fp8_fallback_reason
from imprint.runtime import choose_dtype
from imprint.training.job import build_batches, resolve_adapter, with_limits
from imprint.training.memory import STATE_BYTES
from imprint.training.recipe import Recipe
from imprint.tune.adapter import PrefixMetadata
from imprint.tune.adapter_folder import METADATA_FILE, read_adapter_metadata
from imprint.tune.section import AnySection, FullSection

TOKEN_BYTES: Final = 4
"""A token of raw text in the run folder."""
FP32_BYTES: Final = 4


@dataclass(frozen=True)
class PlannedRun:
    """What a forecast is made of."""

    recipe: Recipe
    """The recipe with the limits of its rows."""
    split: DataSplits
    """Its rows."""
    network: Network
    """The base on the meta device."""
    plan: Plan
    """What is computed."""
    quantizable: bool
    """Whether the base is not quantized already."""


def plan_run(recipe: Recipe, device: torch.device | None = None) -> PlannedRun:
    """Read rows and base of a recipe, without weights. `device`: the GPU of this machine that computes it; None for any with Triton.

    Raises UserError for unusable data or base.
    """
    folder = base_folder(recipe.model.location)
    build = network_builder(recipe, folder, None if device is None else choose_dtype(recipe.model.dtype, device))
    with torch.device("meta"):
        network = build(recipe.model.quantize)
    split = _load_rows(recipe, folder, network.shape.max_length)
    recipe = with_limits(recipe, split)
    return PlannedRun(recipe, split, network, make_plan(recipe, split, network, build, device), quantizable=not is_quantized(folder))


def forecast_run(run: PlannedRun, name: str, *, cards: Sequence[Card] | None = None) -> RunForecast:
    """The forecast of a recipe, with those of other settings.

    `cards`: compute only what may be told of these; of none, the recipe's own settings. Raises UserError where a base cannot be forecast.
    """
    recipe, split, plan = run.recipe, run.split, run.plan
    own = recipe_choice(recipe, len(plan.rows))
    estimates = _estimates(plan, other_choices(own, len(plan.rows), quantizable=run.quantizable), cards)
    longest = sum(len(ids) for row in plan.rows[: own.micro_batch] for ids, _ in row)
    steps = recipe.train.steps or build_batches(recipe, split).total_steps(recipe.train.epochs)
    counts = split.counts()
    return RunForecast(
        name,
        recipe.model.path,
        run.network.num_parameters,
        Bilingual(
            f"{counts.english}; {plan.mean_tokens:.1f} tokens a row on average, {longest:,} in the longest micro-batch",
            f"{counts.chinese}；平均每行 {plan.mean_tokens:.1f} 个词元，最长的微批共 {longest:,} 个",
        ),
        estimates,
        recipe.train.batch_size,
        steps,
        len(split.dev) * (1 + -(-steps // (recipe.train.evaluate_every or max(1, steps // 10)))),
        _disk_terms(recipe, split, estimates[0].trained, run.network.dtype.itemsize),
        Term(Bilingual("cache of the watched answers, at another time", "回答观察提示的缓存（不同时占用）"), plan.cache_bytes),
    )


def network_builder(recipe: Recipe, folder: Path, dtype: torch.dtype | None = None) -> Build:
    """What makes the network of a folder in a weight format, in a dtype; None for that of the recipe: 16 bit unless it says otherwise."""
    section = recipe.model
    default = torch.float32 if section.device == "cpu" else torch.bfloat16
    chosen = dtype or (default if section.dtype is None else choose_dtype(section.dtype, torch.device("cpu")))
    head, on_host = section.quantize_head, section.embedding_on_host
    return lambda quantize: (
        empty_network(folder, chosen, None)  # without the recipe's weight format, the vocabulary stays as it is, too
        if quantize is None and section.quantize is not None
        else empty_network(folder, chosen, quantize, quantize_head=head, embedding_on_host=on_host)
    )


def make_plan(recipe: Recipe, split: DataSplits, network: Network, build: Build, device: torch.device | None = None) -> Plan:
    """What a forecast knows of a run. `device`: where it is computed; None for the network's."""
    processes = (recipe.engine.processes or 1) * recipe.engine.nodes
    lengths, limits, shape = split.lengths(), limits_of(recipe.data), network.shape
    prompts = min(recipe.train.watch_prompts, len(split.dev_samples))
    cached = 2 * shape.num_layers * shape.num_kv_heads * shape.head_dim * network.dtype.itemsize
    return Plan(
        build,
        [row.sequences for row in split.longest_rows(-(-recipe.train.batch_size // processes))],
        sum(lengths) / len(lengths),
        Sharding(recipe.engine.sharding_stage, processes, offload=recipe.engine.offload),
        cache_bytes=prompts * (limits.prompt + limits.answer) * cached,
        path=_compute_path(recipe, network, device or network.device),
    )


def _compute_path(recipe: Recipe, network: Network, device: torch.device) -> ComputePath:
    """How a device computes a network; the meta device stands for any GPU with Triton."""
    auto, dtype, head_dim = recipe.model.kernels == "auto", network.dtype, network.shape.head_dim
    if device.type == "meta":
        triton = fp8 = auto and dtype.itemsize == 2
        fused, split = triton and PackedAttention.fits(head_dim), dtype == torch.bfloat16
    else:
        triton = auto and has_kernel(device, dtype)
        fused, split = auto and PackedAttention.computes(head_dim, device, dtype), triton and dtype == torch.bfloat16
        fp8 = triton and fp8_fallback_reason(device, dtype) is None
    replicated = not recipe.engine.uses_deepspeed_or_fsdp
    single = replicated and (recipe.engine.processes or 1) * recipe.engine.nodes == 1
    return ComputePath(
        fused, triton, graphs=fused and replicated and recipe.train.cuda_graphs, fp8=fp8, split_masters=single and auto and split
    )


def with_processes(recipe: Recipe, processes: int) -> Recipe:
    """The recipe with this `engine.processes`."""
    return recipe.model_copy(update={"engine": recipe.engine.model_copy(update={"processes": processes})})


def recipe_choice(recipe: Recipe, rows: int) -> Choice:
    """The choice that a recipe makes itself; `rows` are those of a step on one device."""
    section = recipe.train
    return Choice(_known_sizes(recipe.tune), recipe.model.quantize, bool(section.checkpointing), min(section.micro_batch_size, rows))


def _known_sizes(section: AnySection) -> AnySection:
    """The section with the sizes of the adapter that it continues, as its adapter.json says them; of another form, the defaults."""
    section = resolve_adapter(section)
    if isinstance(section, FullSection) or section.adapter is None or not (section.adapter / METADATA_FILE).is_file():
        return section
    metadata = read_adapter_metadata(section.adapter).method_metadata
    sizes = (
        {"length": metadata.length, "projection": metadata.projection}
        if isinstance(metadata, PrefixMetadata)
        else {"rank": metadata.rank, "targets": metadata.targets}
    )
    return section.model_copy(update=sizes)


def _load_rows(recipe: Recipe, folder: Path, max_length: int) -> DataSplits:
    """The rows of a recipe as training encodes them; raw text is tokenized into a folder that is removed."""
    template = open_folder_template(folder, recipe.model.template, date=recipe.model.date)
    if not isinstance(recipe.data, TextsSection):
        return load_splits(recipe.data, template, folder, max_length=max_length)
    with scratch_folder() as scratch:
        split = load_texts(recipe.data, template.tokenizer, scratch / "tokens")
        return replace(split, train=list(split.train), dev=list(split.dev))  # the file is removed


def _estimates(plan: Plan, choices: Sequence[Choice], cards: Sequence[Card] | None) -> list[Estimate]:
    """The estimates of choices; those that cannot be computed are left out, but for the first. Raises UserError where that cannot.

    `cards`: leave out those that are not told of any of these.
    """
    estimates: list[Estimate] = []
    for group in by_distance(choices):
        if cards is None or not estimates or may_be_recommended(group, estimates, cards):
            _add_estimates(estimates, plan, group)
    return estimates


def _add_estimates(estimates: list[Estimate], plan: Plan, choices: Sequence[Choice]) -> None:
    with Progress(Bilingual("computing settings", "计算各种设置"), len(choices), "setting") as progress:
        for choice in progress.track(choices, every=1):
            try:
                estimates.append(estimate(plan, choice))
            except UserError:  # a weight format or a LoRA that this base cannot have
                if not estimates:
                    raise
            except (RuntimeError, NotImplementedError) as error:  # of a network that computes shapes from numbers
                if not estimates:
                    reason = str(error).splitlines()[0][:200]
                    raise UserError(
                        Bilingual(
                            f"this base cannot be forecast: what it computes depends on numbers ({reason}). `imprint train` probes the "
                            "longest rows before the first step.",
                            "该底座的计算依赖具体数值，无法预测；imprint train 会在第一步之前试算最长的几行。",
                        )
                    ) from error


def _disk_terms(recipe: Recipe, split: DataSplits, trained: int, itemsize: int) -> list[Term]:
    """What a run writes."""
    kept, width = recipe.train.keep_states, itemsize if isinstance(recipe.tune, FullSection) else FP32_BYTES
    tokens = sum(split.lengths()) if isinstance(recipe.data, TextsSection) else 0
    states = Bilingual(f"saved states: {kept}, and the one being written", f"保存的状态：{kept} 个和正在写的")
    terms = [
        Term(states, STATE_BYTES * trained * (kept + 1)),
        Term(Bilingual("the result, and the one before it", "结果与上一份结果"), 2 * width * trained),
        Term(Bilingual("tokens of the texts", "文本的词元"), TOKEN_BYTES * tokens),
    ]
    return [term for term in terms if term.nbytes]
