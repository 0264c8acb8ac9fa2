"""Resolves the path of a model folder, a run, or a bundle; used by every command that opens a model."""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

from imprint.config import read_recipe
from imprint.files.atomic import find_folder
from imprint.loading.base import EMBEDDED, base_folder, fetch
from imprint.loading.bundle import BundleManifest, read_manifest, unpack_cached
from imprint.loading.hub.name import hub_name
from imprint.loading.run import RunConfig
from imprint.messages import Bilingual, UserError, closest, did_you_mean
from imprint.runs import RunFolder
from imprint.templates import TemplateName
from imprint.tune.adapter_folder import read_adapter_metadata
from imprint.tune.method import Method

Kind = Literal["model", "run", "bundle"]
MAX_BELOW: Final = 3
"""Number of runs and models below a folder that an error names."""


@dataclass(frozen=True)
class ModelSource:
    """A model folder, run or bundle, described without reading weights."""

    path: Path
    """The path as the user gave it."""
    folder: Path
    """The folder of its files; for a bundle, the folder into which it was unpacked."""
    run: RunConfig | None
    """The recipe of a run or of a bundle; None for a model folder."""
    bundle: BundleManifest | None = None
    """The manifest of a bundle; None for anything else."""

    @property
    def kind(self) -> Kind:
        """A model folder (or `embedded`), a run folder, or a bundle."""
        return "model" if self.run is None else "run" if self.bundle is None else "bundle"

    @property
    def run_folder(self) -> RunFolder:
        """The paths of the files of a run or an unpacked bundle."""
        return RunFolder(self.folder)

    @property
    def output_folder(self) -> Path:
        """The folder for results: a run's own, else one in the current folder, since models and bundles are not written to."""
        if self.kind == "run":
            return self.folder
        return Path("evaluations") / (self.path.stem if self.kind == "bundle" else self.path.name)

    @property
    def method(self) -> Method | None:
        """The tuning method of a run, by its files; None before its first result, and for a model folder."""
        if self.run is None:
            return None
        if find_folder(self.run_folder.model) is not None:
            return "full"
        adapter = find_folder(self.run_folder.adapter)
        return None if adapter is None else read_adapter_metadata(adapter).method

    @property
    def base_folder(self) -> Path:
        """The folder of the base. Raises UserError where it does not exist any more."""
        if self.run is None:
            return self.folder
        folder = base_folder(self.run.model.location)
        if not folder.is_dir():
            raise UserError(
                Bilingual(
                    f"{self.path}: its base, {self.run.model.path}, does not exist. Put it back, or give its new path: base_path=FOLDER.",
                    f"{self.path}：底座已不在原处：请放回，或用 base_path=目录 给出新路径。",
                )
            )
        return folder

    @property
    def network_folder(self) -> Path:
        """The folder with the network's weights: the model of full tuning, else the base."""
        tuned_model = None if self.run is None else find_folder(self.run_folder.model)
        return tuned_model or self.base_folder

    def with_template(self, template: TemplateName | None) -> "ModelSource":
        """The same source with another prompt template than its recipe's; None changes nothing."""
        if self.run is None or template is None:
            return self
        return replace(self, run=self.run.model_copy(update={"model": self.run.model.model_copy(update={"template": template})}))

    def require_run(self, reason: Bilingual) -> RunConfig:
        """The run's recipe. Raises UserError with `reason` for a model folder."""
        if self.run is None:
            raise UserError(
                Bilingual(f"{self.path}: is a model folder, and {reason.english}", f"{self.path}：这是模型目录：{reason.chinese}")
            )
        return self.run

    def require_result(self) -> Method:
        """The tuning method. Raises UserError before the first result."""
        method = self.method
        if method is None:
            raise UserError(
                Bilingual(
                    f"{self.path}: has no adapter yet. Let `imprint train` run to its first evaluation, or further.",
                    f"{self.path}：该结果目录尚无适配器：请先训练到第一次评估。",
                )
            )
        return method

    def refuse_bundle(self) -> None:
        """Raise UserError for a bundle; for commands that write into a run folder."""
        if self.kind == "bundle":
            raise UserError(
                Bilingual(
                    f"{self.path}: is a bundle, and this command writes into a run folder. Unpack it (tar -xf {self.path} -C FOLDER) and "
                    "give that folder.",
                    f"{self.path}：打包文件只读，而该命令要写入结果目录：请先用 tar 解包，再给出解包后的目录。",
                )
            )


def resolve_source(path: str | Path, base_path: str | Path | None = None) -> ModelSource:
    """Resolve a path to a model folder, run or bundle; a bundle is unpacked into the user's cache, a model of the hub is downloaded.

    A `Path` is never taken for the name of a model of the hub. `base_path`: the base of a run, if it is not where its recipe says. Raises
    UserError for anything else.
    """
    if (name := hub_name(path)) is not None:
        return ModelSource(Path(path), fetch(name).folder, None)
    path = Path(path)
    if str(path) == EMBEDDED:
        return ModelSource(path, base_folder(EMBEDDED), None)
    folder = unpack_cached(path)
    if (config := RunFolder(folder).config).is_file():
        RunFolder(folder).refuse_special_entries()
        run = read_recipe(config, [], RunConfig).with_base_path(base_path)
        return ModelSource(path, folder, run, read_manifest(folder) if folder != path else None)
    if not (folder / "config.json").is_file():
        problem = (
            "has neither config.yaml nor config.json" if path.is_dir() else "is a file" if path.exists() else "there is no such folder"
        )
        meant = _meant(path)
        raise UserError(
            Bilingual(
                f"{path}: {problem}. {meant.english}Give a run folder (the `output` of a recipe), a bundle of one, a model folder, the "
                f'name of a model of the hub (owner/name), or "{EMBEDDED}"; adapter=... adds an adapter.',
                f"{path}：{meant.chinese}请给出训练结果目录、打包文件、模型目录、模型站上的名字（owner/name）或“{EMBEDDED}”；"
                "可用 adapter=... 加上适配器。",
            )
        )
    return ModelSource(path, folder, None)


def _meant(path: Path) -> Bilingual:
    """Whether a run or a model was meant that is in a folder that is none itself, or beside a name that is not there; empty if none is."""
    if path.is_dir():
        found = _openable(path)
    else:
        beside = [] if path.exists() else [Path(other).name for other in _openable(path.parent)]
        found = [str(path.parent / name) for name in closest(path.name, beside)]
    if not found:
        return Bilingual("", "")
    return did_you_mean([", ".join([*found[:MAX_BELOW], *(["..."] if len(found) > MAX_BELOW else [])])])


def _openable(folder: Path) -> list[str]:
    """The runs and models in a folder, such as one that `imprint init` has written."""
    children = sorted(folder.iterdir()) if folder.is_dir() and os.access(folder, os.R_OK | os.X_OK) else []
    return [str(child) for child in children if any((child / name).is_file() for name in ("config.yaml", "config.json"))]


def adapter_path(path: str | Path) -> Path:
    """The path of an adapter: for a run or bundle its adapter, any other path unchanged.

    Raises UserError for a run without one.
    """
    folder = unpack_cached(Path(path))
    if not RunFolder(folder).config.is_file():
        return Path(path)
    source = resolve_source(path)
    if source.require_result() == "full":
        raise UserError(
            Bilingual(
                f"adapter: {path} is a run that tuned all parameters and has no adapter. Give it instead of the model folder.",
                "adapter：该结果是全参数微调，没有适配器：请把它当作模型目录给出。",
            )
        )
    return source.run_folder.adapter
