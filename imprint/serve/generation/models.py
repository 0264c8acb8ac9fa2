"""Opens the models of a service: one base, and the runs that were tuned on it."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import torch

from imprint.loading.licence import find_licence, imported_name
from imprint.loading.load import load_model, open_template
from imprint.loading.source import ModelSource, resolve_source
from imprint.messages import Bilingual, UserError
from imprint.model import Model
from imprint.models.network import Network
from imprint.runs import STARTER_OUTPUT
from imprint.runtime import memory_bytes
from imprint.serve.generation.answer import MountedModel
from imprint.serve.generation.job import ModelInfo
from imprint.serve.generation.notes import note_of
from imprint.serve.generation.section import ServedModelsSection
from imprint.serve.generation.worker import Limits, Worker

BASE = "base"
"""The name of the base, for jobs and for requests."""
CACHE_SHARE = 0.7
"""Share of the memory that is free once the weights are loaded, for the key-value cache."""
MAX_KV_TOKENS = 2**20
"""The largest cache that is chosen without being asked for."""


def open_worker(paths: Sequence[str], section: ServedModelsSection) -> Worker:
    """A worker for these models. Raises UserError as `open_models`."""
    mounted = open_models(paths, section)
    network = mounted[0].model.network
    limits = Limits(
        slots=section.slots,
        kv_tokens=section.kv_tokens or affordable_kv_tokens(network),
        prefill_chunk_tokens=section.prefill_chunk_tokens,
        waiting=section.max_waiting,
    )
    length, neutralize = _max_length(network, section, limits), section.neutralize_marks
    return Worker([replace(one, info=replace(one.info, max_length=length), neutralize_marks=neutralize) for one in mounted], limits)


def find_models(paths: Sequence[str], section: ServedModelsSection) -> list[ModelSource]:
    """What stands at these paths. Raises UserError where it is nothing that can be opened."""
    return [resolve_source(path, section.base_path) for path in paths]


def open_models(paths: Sequence[str], section: ServedModelsSection) -> list[MountedModel]:
    """The base of these runs, model folders or bundles, and each run by its name; all of them share the weights of the base.

    A model folder, or a run that tuned all weights, is the base itself; a run of full tuning can be asked for by its own name, too. Raises
    UserError for several bases, for names that are not different, and for what `imprint.load` cannot open.
    """
    sources = find_models(paths, section)
    whole = [source for source in sources if source.run is None or source.require_result() == "full"]
    if len(whole) > 1:
        raise _several_bases(whole[0].path, whole[1].path)
    _refuse_different_precision(sources, section)
    first = whole[0] if whole else sources[0]
    model = load_model(
        first,
        base=not whole,
        quantize=section.quantize,
        dtype=section.dtype,
        device=section.device,
        kernels=section.kernels,
        template=section.template,
    )
    if not whole:
        model = model.with_template(model.template, "")  # the base without what the run puts in front of its prompts
    base = run_name(first) if whole and first.run else Path(first.run.model.path if first.run else first.path).name
    mounted = [_mounted(BASE, base, model, BASE)]
    for source in sources:
        if source.run is not None:
            name = _new_name(source, mounted)
            view = model if source is first and whole else _mount(source, name, model, first, section)
            mounted.append(_mounted(name, base, view, BASE if view is model else name))
    return [replace(one, info=_licensed(one.info, first)) for one in mounted]


def _licensed(info: ModelInfo, source: ModelSource) -> ModelInfo:
    """With the licence of the base, and the name of the file that it was made from."""
    folders = [source.network_folder]
    with suppress(UserError):  # a run of full tuning is opened without its base
        folders.append(source.base_folder)
    licence = next(filter(None, map(find_licence, folders)), None)
    return replace(info, base_name=imported_name(source.network_folder) or info.base_name, licence=licence, note=note_of(licence))


def _mounted(name: str, base: str, model: Model, adapter: str) -> MountedModel:
    template, length = model.template, model.network.shape.max_length
    info = ModelInfo(name, base, None if name == BASE else BASE, length, supports_tools=template.describes_tools)
    return MountedModel(info, model, adapter)


def _mount(source: ModelSource, name: str, model: Model, first: ModelSource, section: ServedModelsSection) -> Model:
    """The model of a run over the shared weights: its adapter is mounted, and it has the template and the source prefix of its run."""
    assert source.run is not None
    try:
        model.mount(name, source.path)
    except UserError as error:
        if source.path == first.path:  # its own base
            raise
        message = error.message
        raise UserError(
            Bilingual(
                f"{source.path}: all models of a service share one base, here that of {first.path}. {message.english}",
                f"{source.path}：一个服务的所有模型共用一个底座，这里是 {first.path} 的底座。{message.chinese}",
            )
        ) from error
    same = first.run is not None and _template_knobs(source, section) == _template_knobs(first, section)
    template = model.template if same else open_template(source, section.template)
    return model.with_template(template, source.run.data_section.source_prefix)


def _template_knobs(source: ModelSource, section: ServedModelsSection) -> tuple[str | None, str | None]:
    """What the template of a run depends on, beside its base."""
    assert source.run is not None
    return section.template or source.run.model.template, source.run.model.date


def _new_name(source: ModelSource, mounted: Sequence[MountedModel]) -> str:
    """The name of a run. Raises UserError where another model has it."""
    name = run_name(source)
    if name in {one.info.id for one in mounted}:
        raise UserError(
            Bilingual(
                f'{source.path}: another model of this service is called "{name}" already. Rename the folder of one of them.',
                f"{source.path}：本服务中已有名为 {name} 的模型：请给其中一个目录改名。",
            )
        )
    return name


def _refuse_different_precision(sources: Sequence[ModelSource], section: ServedModelsSection) -> None:
    """Raise UserError for runs that were tuned on weights of different formats, unless the format is given."""
    formats = {source.run.model.quantize: source for source in sources if source.run is not None}
    if section.quantize is None and len(formats) > 1:
        (one, first), (other, second) = list(formats.items())[:2]
        raise UserError(
            Bilingual(
                f"quantize: {first.path} was tuned with {one or 'no quantized weights'}, {second.path} with "
                f"{other or 'no quantized weights'}, and a service has one copy of the weights. Say which: quantize=8, 4, int4-g128 or "
                "fp8; or serve them apart.",
                f"quantize：{first.path} 训练时为 {one or '未量化'}，{second.path} 为 {other or '未量化'}，而一个服务只有一份权重："
                "请用 quantize=8、4、int4-g128 或 fp8 指定，或分开服务。",
            )
        )


def _several_bases(first: Path, second: Path) -> UserError:
    return UserError(
        Bilingual(
            f"{second}: a service has one base, and {first} is one already. Give one model folder or run of full tuning, and any number of "
            "runs that were tuned on it; serve the other one at another port.",
            f"{second}：一个服务只有一个底座，而 {first} 已是底座：请给出一个模型目录或全参数微调结果，以及任意多个在其上微调的结果；"
            "另一个请用别的端口服务。",
        )
    )


def _max_length(network: Network, section: ServedModelsSection, limits: Limits) -> int:
    """Most tokens of prompt and answer."""
    lengths = (section.max_length, network.max_row_tokens, limits.kv_tokens, network.shape.max_length)
    return min(length for length in lengths if length is not None)


def affordable_kv_tokens(network: Network) -> int:
    """Tokens of a key-value cache that fits into the memory that is free now."""
    shape = network.shape
    bytes_a_token = 2 * shape.num_layers * shape.num_kv_heads * shape.head_dim * network.dtype.itemsize
    device = network.device
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else memory_bytes()[1]
    return max(1, min(int(free * CACHE_SHARE) // bytes_a_token, MAX_KV_TOKENS))


def run_name(source: ModelSource) -> str:
    """The name by which a run is asked for: that of its folder or bundle, or of the parent where all such folders are named `run`."""
    if source.bundle is not None:
        return source.bundle.name
    path = source.path.absolute()
    return path.parent.name if path.name == STARTER_OUTPUT and path.parent.name else path.name
