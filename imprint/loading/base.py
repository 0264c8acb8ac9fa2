"""Finds the folder of a base: a model folder, the embedded one, or the result of a run or bundle."""

from pathlib import Path
from typing import TYPE_CHECKING, Final

from pydantic import ConfigDict

from imprint.config import Field, Section, read_recipe
from imprint.files.atomic import find_folder
from imprint.loading.bundle import unpack_cached
from imprint.loading.hub.name import HubName, hub_name
from imprint.loading.section import ModelSection
from imprint.messages import Bilingual, UserError
from imprint.runs import RunFolder

if TYPE_CHECKING:
    from imprint.loading.hub.download import HubModel

EMBEDDED = "embedded"
"""The name of the toy base that is part of Imprint."""
MAX_BASES: Final = 100
"""Most runs of which each is the base of the one before."""


class BaseReference(Section):
    """The section of a run's recipe that names its base; other sections may be of another version and are not read."""

    model_config = ConfigDict(extra="ignore")
    model: ModelSection = Field(description="The base it was tuned from.")


def base_folder(path: str | Path) -> Path:
    """The folder of a base: a model folder, the embedded one, that of a run's result, or for a text that names a model of the hub its copy.

    For a run with full tuning this is the model in it, for a run with an adapter its base; `load_base` merges a LoRA into that. A model of
    the hub is downloaded if it has to be. Raises UserError for a run without a result, and where the hub has or gives no model.
    """
    first = path
    for _ in range(MAX_BASES):
        if str(path) == EMBEDDED:
            return Path(__file__).parents[1] / "embedded"
        if (name := hub_name(path)) is not None:
            return fetch(name).folder
        run = run_of_base(path)
        if run is None:
            return unpack_cached(Path(path))
        if (tuned_model := find_folder(run.model)) is not None:
            return tuned_model
        if find_folder(run.adapter) is None:
            raise UserError(
                Bilingual(
                    f"model.path: {path} is a run that has no result yet. Let `imprint train` run to its first evaluation, or further.",
                    "model.path：该结果目录尚无可用的模型：请先训练到第一次评估。",
                )
            )
        path = base_of_run(run)
    raise UserError(
        Bilingual(
            f"{first}: the bases of its bases lead back to it, or are more than {MAX_BASES}. Give the model folder that it was tuned from: "
            "base_path=FOLDER.",
            f"{first}：底座的底座又指回它自己，或超过 {MAX_BASES} 层：请用 base_path=目录 给出它微调自的模型目录。",
        )
    )


def fetch(name: HubName) -> "HubModel":
    """A model of the hub, downloaded if it has to be. Raises UserError."""
    from imprint.loading.hub.download import fetch_model  # reads no huggingface_hub before a name is given

    return fetch_model(name)


def run_of_base(path: str | Path) -> RunFolder | None:
    """The run folder that serves as a base; None for a model folder."""
    run = RunFolder(unpack_cached(Path(path)))
    return run if str(path) != EMBEDDED and run.config.is_file() else None


def base_of_run(run: RunFolder) -> str | Path:
    """The base in a run's recipe: its path, or its name at the hub with the commit."""
    return read_recipe(run.config, [], BaseReference).model.location
