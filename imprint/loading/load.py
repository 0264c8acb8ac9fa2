"""`imprint.load`: loads a model folder, a run or a bundle as a Model."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import torch

from imprint import arguments
from imprint.files.atomic import find_folder
from imprint.loading.base import base_folder, base_of_run, run_of_base
from imprint.loading.bos import warn_of_missing_bos
from imprint.loading.plain_kernels import warn_of_plain_kernels
from imprint.loading.section import OpenSection
from imprint.loading.source import ModelSource, adapter_path, resolve_source
from imprint.messages import Bilingual, UserError
from imprint.model import Model
from imprint.models.checkpoint import load_network
from imprint.models.families import build_network, read_config
from imprint.models.vocabulary import reduce_vocabulary_memory
from imprint.quant.formats import find_format
from imprint.quant.names import FormatName, KernelChoice
from imprint.runtime import choose_device, choose_dtype, free_cached_memory
from imprint.templates import Template, TemplateName, read_template
from imprint.templates import writes_date as template_writes_date
from imprint.tokenizers import Tokenizer, missing_tokenizer_error, tokenizer_file
from imprint.tune.adapter_folder import load_adapter


def load(
    folder: str | Path,
    *,
    adapter: str | Path | None = None,
    quantize: FormatName | None = None,
    dtype: str | torch.dtype | None = None,
    device: str | None = None,
    kernels: KernelChoice | None = None,
    template: TemplateName = "auto",
) -> Model:
    """Load a model folder, `embedded`, a run folder, a bundle of one, or a model of the hub: what `imprint chat` takes.

    A text such as "Qwen/Qwen3-4B" or "Qwen/Qwen3-4B@main" that is no folder here is downloaded into Hugging Face's cache; a `Path` is
    always a folder.

    A run is loaded as its base with the prefix or LoRA, which `adapter_off()` switches off, or as the model of full tuning; arguments that
    are None take the value of its recipe. `adapter`: an adapter folder of Imprint, a run (its adapter is used), a LoRA folder of peft, an
    original prefix file of any name, or its folder. `quantize`: round the weights of the blocks to 8 or 4 bits, to "int4-g128" or "fp8",
    while loading; for a folder that is quantized already, None. `dtype`: the compute dtype or its name; by default float32 on the CPU,
    bfloat16 or float16 on a GPU. `kernels`: "auto", the default, uses those in Triton on a GPU, "plain" PyTorch alone.
    `template`: the prompt template where the folder does not determine it. Raises UserError for a folder that cannot be loaded.
    """
    path = arguments.path("folder", folder)
    source = resolve_source(folder if isinstance(folder, str) else path)
    if adapter is not None:
        arguments.path("adapter", adapter)
    if device is not None:
        arguments.text("device", device)
    chosen = None if template == "auto" else template
    if kernels not in {None, *get_args(KernelChoice)}:
        raise arguments.wrong_argument("kernels", '"auto", "plain" or None', kernels, ' "auto"、"plain" 或 None')
    return load_model(source, adapter=adapter, quantize=quantize, dtype=dtype, device=device, kernels=kernels, template=chosen)


def load_base(
    path: str | Path,
    *,
    quantize: FormatName | None = None,
    quantize_head: bool = False,
    embedding_on_host: bool = False,
    dtype: str | torch.dtype | None = None,
    device: str | None = None,
    kernels: KernelChoice = "auto",
    template: TemplateName = "auto",
    date: str | None = None,
    warns_of_bos: bool = True,
) -> Model:
    """The base of a recipe: a model folder, or the result of a run, with a LoRA merged into the weights.

    `date`: what its chat template writes as today's date, year-month-day; None is today. `warns_of_bos`: print what to do
    where the tokenizer leaves out a BOS that the base needs. Raises UserError for a run with a prefix, which
    cannot be merged into the weights.
    """
    weight_format = None if quantize is None else find_format(quantize, optional=True)
    folder, chosen_device = base_folder(path), choose_device(device)
    network = load_network(folder, dtype=choose_dtype(dtype, chosen_device), device=chosen_device, weight_format=weight_format)
    network.use_kernels(kernels)
    fields = read_config(folder)
    model = Model(network, read_template(folder, fields, template, date=date), str(folder), tokenizer_file=tokenizer_file(fields))
    model.find_adapter = adapter_path
    if warns_of_bos:
        warn_of_missing_bos(model, folder)
    _merge_run_loras(model, path, quantize)
    if quantize_head or embedding_on_host:
        reduce_vocabulary_memory(network, quantize_head=quantize_head, embedding_on_host=embedding_on_host)
        network.use_kernels(kernels)
        free_cached_memory(chosen_device)
    warn_of_plain_kernels(network)
    return model


def load_model(
    source: ModelSource,
    *,
    base: bool = False,
    adapter: str | Path | None = None,
    quantize: FormatName | None = None,
    quantize_head: bool | None = None,
    embedding_on_host: bool | None = None,
    dtype: str | torch.dtype | None = None,
    device: str | None = None,
    kernels: KernelChoice | None = None,
    template: TemplateName | None = None,
) -> Model:
    """The model of a source: a model folder, or a run with its result, or with `base` the untouched base of a run.

    Arguments that are None take the value of the run. An `adapter` is added to the model of the source, as `tune.adapter` to `model.path`:
    the LoRA of a run is merged first, and a run with a prefix is refused. Raises UserError where there is nothing to load.
    """
    run = source.run
    path, adapter_folder = _base_and_adapter(source, base=base, adapter=adapter)
    if run is not None:
        merged = adapter is not None and not base and source.method == "lora"
        quantize = quantize or (None if merged else run.model.quantize)
        dtype, device, template = dtype or run.model.dtype, device or run.model.device, template or run.model.template
        kernels = kernels or run.model.kernels
        if not merged:
            quantize_head = run.model.quantize_head if quantize_head is None else quantize_head
            embedding_on_host = run.model.embedding_on_host if embedding_on_host is None else embedding_on_host
    date = None if run is None else run.model.date
    model = load_base(
        path,
        quantize=quantize,
        quantize_head=bool(quantize_head),
        embedding_on_host=bool(embedding_on_host),
        dtype=dtype,
        device=device,
        kernels=kernels or "auto",
        template=template or "auto",
        date=date,
    )
    if adapter_folder is not None:
        model.attach(*load_adapter(adapter_folder, model.network))
    if run is not None:
        model.source_prefix = run.data_section.source_prefix
    return model


def load_with(source: ModelSource, section: OpenSection) -> Model:
    """The model by the knobs of a command; `base_path` was passed to `resolve_source` already."""
    return load_model(
        source,
        base=section.base,
        adapter=section.adapter,
        quantize=section.quantize,
        quantize_head=section.quantize_head,
        embedding_on_host=section.embedding_on_host,
        dtype=section.dtype,
        device=section.device,
        kernels=section.kernels,
        template=section.template,
    )


def with_tokenizer_of(folder: Path, model: Model, fields: Mapping[str, Any]) -> Model | None:
    """A model that was saved without tokenizer files, with those of another folder; None where it has none.

    `fields`: the model's config.json.
    """
    template = read_template(folder, fields) if folder.is_dir() else None
    if template is None:
        return None
    complete = Model(model.network, template, model.name)
    complete.adapter, complete.description = model.adapter, model.description
    return complete


def open_template(source: ModelSource, template: TemplateName | None = None) -> Template:
    """The prompt template with its tokenizer; no weights are read. Raises UserError where there is no tokenizer.

    `template` None takes the run's own.
    """
    folder = source.network_folder
    fields = read_config(folder)
    run = None if source.run is None else source.run.model
    opened = read_template(folder, fields, template or (run.template if run else "auto"), date=run.date if run else None)
    if opened is None:
        raise missing_tokenizer_error(folder, tokenizer_file(fields))
    return opened


def writes_date(location: str | Path, template: TemplateName) -> bool:
    """Whether the chat template of a base writes today's date; no weights are read."""
    return template_writes_date(base_folder(location), template)


def read_max_length(source: ModelSource) -> int:
    """Length of the longest sequence that the network of a source was trained on; no weights are read.

    Raises UserError for an unsupported architecture.
    """
    folder = source.network_folder
    with torch.device("meta"):
        return build_network(read_config(folder), folder).shape.max_length


def open_tokenizer(source: ModelSource) -> Tokenizer:
    """The tokenizer of a run or a model folder, as `open_template`."""
    return open_template(source).tokenizer


def _base_and_adapter(source: ModelSource, *, base: bool, adapter: str | Path | None) -> tuple[str | Path, Path | None]:
    """The base to load, and the adapter to add to it."""
    chosen = None if adapter is None else adapter_path(adapter)
    if source.run is None:
        return source.folder, chosen
    if base:
        _ = source.base_folder  # raises where it does not exist
        return source.run.model.location, chosen
    method = source.require_result()
    if chosen is not None and method == "prefix":
        raise UserError(
            Bilingual(
                f"adapter: {source.path} is a run, which has its own. Give a model folder to use {adapter} with it.",
                f"adapter：{source.path} 是训练结果，自带适配器：请改用模型目录，再加上 {adapter}。",
            )
        )
    if chosen is not None or method == "full":
        return source.folder, chosen
    _ = source.base_folder
    return source.run.model.location, source.run_folder.adapter


def _merge_run_loras(model: Model, path: str | Path, quantize: FormatName | None) -> None:
    """Merge the LoRA of a run that serves as a base into the weights, after those of the runs that are its own bases."""
    run = run_of_base(path)
    if run is None or find_folder(run.model) is not None:
        return
    if quantize is not None:
        raise UserError(
            Bilingual(
                f"model.quantize: {quantize}, but {path} is a run with a LoRA, which is merged into its base before further tuning, and "
                "quantized weights cannot represent it. Leave model.quantize out, or export the merged model first.",
                "以 LoRA 结果作底座时要先合并权重，不能同时量化：请去掉 model.quantize，或先导出合并后的模型。",
            )
        )
    _merge_run_loras(model, base_of_run(run), quantize)
    model.attach(*load_adapter(run.adapter, model.network))
    if model.adapter is None or not model.adapter.mergeable:
        raise UserError(
            Bilingual(
                f"model.path: {path} is a run with a prefix, which is no part of the weights and cannot be a base. Tune it further "
                f"with tune.adapter={run.adapter} and the base's own model.path, or tune with lora or full first.",
                f"model.path：{path} 是前缀，不是权重的一部分，不能作为底座："
                f"请用 tune.adapter={run.adapter} 继续训练它，或先用 lora、full 微调。",
            )
        )
    model.merge()
