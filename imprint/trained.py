"""What can be talked to: a run folder with what was tuned, or a model folder as it is."""

from pathlib import Path

from pydantic import ConfigDict

from imprint.config import Field, Section, read_recipe
from imprint.data.dataset import DataSection
from imprint.errors import UserError
from imprint.files import find_folder
from imprint.model import EMBEDDED, Model, ModelSection, load
from imprint.runs import RunFolder


class Trained(Section):
    """What the other commands need of a run's recipe; its other sections may be of another version."""

    model_config = ConfigDict(extra="ignore")
    model: ModelSection = Field(description="The base.")
    data: DataSection = Field(description="What it learned from.")


def read_run(path: Path) -> Trained | None:
    """What a run folder's recipe says; None for a model folder."""
    run = RunFolder(path)
    if run.config.is_file():
        return read_recipe(run.config, [], Trained)
    if str(path) != EMBEDDED and not (path / "config.json").is_file():
        found = "there is no such folder" if not path.is_dir() else "has neither config.yaml nor config.json"
        raise UserError(
            f'{path}: {found}. Give a run folder (the `output` of a recipe), a model folder, or "{EMBEDDED}"; '
            "adapter=... puts an adapter on it."
        )
    return None


def open_model(
    path: Path,
    run: Trained | None,
    *,
    base: bool = False,
    adapter: Path | None = None,
    quantize: int | None = None,
    dtype: str | None = None,
    device: str | None = None,
) -> Model:
    """The model of a run, with what was tuned on top unless the `base` is asked for; or a model folder as it is.

    What is left open is taken from the run. Raises UserError where there is nothing to load.
    """
    if run is None:
        return load(path, adapter=adapter, quantize=quantize, dtype=dtype, device=device)
    if adapter is not None:
        raise UserError(f"adapter: {path} is a run, which has its own. Give a model folder to put {adapter} on it.")
    folder = RunFolder(path)
    quantize, dtype, device = quantize or run.model.quantize, dtype or run.model.dtype, device or run.model.device
    if base:
        return load(run.model.path, quantize=quantize, dtype=dtype, device=device)
    if (whole := find_folder(folder.model)) is not None:
        return load(whole, quantize=quantize, dtype=dtype, device=device)
    if find_folder(folder.adapter) is None:
        raise UserError(f"{path}: has no adapter yet. Let `imprint train` run to its first evaluation, or further.")
    return load(run.model.path, adapter=folder.adapter, quantize=quantize, dtype=dtype, device=device)
