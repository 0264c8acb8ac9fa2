"""Opens what `imprint serve` names: one base with its runs, which share one copy of its weights."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from imprint.loading.bundle import read_licence
from imprint.loading.load import load_model, open_template
from imprint.loading.source import ModelSource, resolve_source
from imprint.messages import Bilingual, UserError
from imprint.model import Model
from imprint.serve.generation.answer import Served
from imprint.serve.generation.job import ServedModel
from imprint.serve.section import ServeSection

BASE: Final = "base"
DEFAULT_LENGTH: Final = 8192
RESEARCH: Final = Bilingual(
    "Read the licence of the base before you use answers for more than research.", "在研究以外使用回答之前，请先阅读底座的许可。"
)


def open_served(paths: Sequence[str], section: ServeSection) -> list[Served]:
    """The models of these runs, bundles and model folders: `base` first, and each run by its name.

    Raises UserError for what cannot be opened, and for runs that do not share one base.
    """
    sources = [resolve_source(path, section.base_path) for path in paths]
    runs = [source for source in sources if source.run is not None]
    full = [source for source in runs if source.require_result() == "full"]
    if full:
        return [_open_full(full[0], sources, section)]
    names = _names_of(runs)
    _check_one_base(sources)
    _check_one_precision(runs, section)
    model = _load(sources, section)
    licence = read_licence(sources[0].base_folder) or None
    base = _served(BASE, model, model, None, licence, section)
    served = [base]
    for source, name in zip(runs, names, strict=True):
        model.mount(name, source.path)
        served.append(_served(name, _view_of(model, source, section), model, BASE, licence, section))
    return served


def _load(sources: Sequence[ModelSource], section: ServeSection) -> Model:
    """The base, in the precision of the first run that says one."""
    first = next((source for source in sources if source.run is not None), sources[0])
    model = load_model(
        first,
        base=True,
        quantize=section.quantize,
        dtype=section.dtype,
        device=section.device,
        kernels=section.kernels,
        template=section.template,
    )
    model.source_prefix = ""  # it belongs to what the run was taught
    return model


def _open_full(source: ModelSource, sources: Sequence[ModelSource], section: ServeSection) -> Served:
    """A run that changed all weights: they are its own, so that it is served alone."""
    if len(sources) > 1:
        raise UserError(
            Bilingual(
                f"{source.path}: all its weights were tuned, so that it shares none with the others. Serve it alone, on a port of its own.",
                f"{source.path}：该结果微调了全部参数，不能与其他模型共用权重：请单独启动，另用一个端口。",
            )
        )
    model = load_model(
        source, quantize=section.quantize, dtype=section.dtype, device=section.device, kernels=section.kernels, template=section.template
    )
    return _served(_names_of(sources)[0], model, model, None, read_licence(source.network_folder) or None, section)


def _view_of(model: Model, source: ModelSource, section: ServeSection) -> Model:
    """The same network and adapters, with the template and the source prefix of a run."""
    assert source.run is not None
    view = Model(model.network, open_template(source, section.template), model.name)
    view.adapters = model.adapters
    view.source_prefix = source.run.data_section.source_prefix
    return view


def _served(name: str, view: Model, model: Model, parent: str | None, licence: str | None, section: ServeSection) -> Served:
    longest = model.network.shape.max_length
    length = min(longest, section.max_length or DEFAULT_LENGTH)
    info = ServedModel(
        name,
        Path(model.name).name,
        parent,
        length,
        supports_tools=view.template.supports_tools,
        licence=licence,
        note=RESEARCH,
    )
    return Served(info, view, name if parent is not None else BASE)


def _names_of(runs: Sequence[ModelSource]) -> list[str]:
    """The name of each run: that of its folder, or of its bundle. Raises UserError where two have the same, or the base's."""
    names = [source.path.stem if source.kind == "bundle" else source.path.resolve().name for source in runs]
    for source, name in zip(runs, names, strict=True):
        if name == BASE or names.count(name) > 1:
            raise UserError(
                Bilingual(
                    f'{source.path}: the name "{name}" is taken by another model of this service. Rename the folder.',
                    f"{source.path}：名称 {name} 已被此服务的另一模型使用：请给目录改名。",
                )
            )
    return names


def _check_one_base(sources: Sequence[ModelSource]) -> None:
    bases = [source.base_folder.resolve() for source in sources]
    for source, base in zip(sources, bases, strict=True):
        if base != bases[0]:
            raise UserError(
                Bilingual(
                    f"{source.path}: its base is {base}, and that of {sources[0].path} is {bases[0]}. One service has one base: start "
                    "another one for it, on a port of its own.",
                    f"{source.path}：其底座是 {base}，而 {sources[0].path} 的底座是 {bases[0]}。一个服务只有一个底座："
                    "请为它另启动一个，另用端口。",
                )
            )


def _check_one_precision(runs: Sequence[ModelSource], section: ServeSection) -> None:
    """Runs were tuned on weights of one precision; on others they answer otherwise."""
    quantized = {source.path: source.run.model.quantize for source in runs if source.run is not None}
    if section.quantize is None and len(set(quantized.values())) > 1:
        found = ", ".join(f"{path}: {value}" for path, value in quantized.items())
        raise UserError(
            Bilingual(
                f"quantize: the runs were tuned on weights of several precisions ({found}). Say which all shall have, such as quantize=8.",
                f"quantize：各结果训练时的量化不同（{found}）。请指定统一的量化，如 quantize=8。",
            )
        )
