"""What can be talked to: a run folder with what was tuned, or a model folder as it is."""

from pathlib import Path

from pydantic import ConfigDict

from imprint.config import Field, Section, read_recipe
from imprint.data.section import AnyData, DataSection
from imprint.errors import UserError
from imprint.files import find_folder
from imprint.forgetting.section import ForgettingSection
from imprint.loading.base import EMBEDDED, base_folder
from imprint.loading.section import ModelSection
from imprint.messages import Bilingual
from imprint.runs import RunFolder
from imprint.task import TaskSection, TextTask


class RunConfig(Section):
    """What the other commands need of a run's recipe; its other sections may be of another version."""

    model_config = ConfigDict(extra="ignore")
    model: ModelSection = Field(description="The base.")
    data: AnyData = Field(description="What it learned from.")
    task: TaskSection = Field(default_factory=TextTask, description="What kind of answers it gives.")
    forgetting: ForgettingSection = Field(default_factory=ForgettingSection, description="How what was lost is measured.")

    @property
    def rows(self) -> DataSection:
        """How it reads questions: as it was trained, or by default where it learned from raw text."""
        return self.data if isinstance(self.data, DataSection) else DataSection(train=self.data.train)


def read_run(path: Path) -> RunConfig | None:
    """What a run folder's recipe says; None for a model folder."""
    run = RunFolder(path)
    if run.config.is_file():
        return read_recipe(run.config, [], RunConfig)
    if str(path) != EMBEDDED and not (path / "config.json").is_file():
        found = "has neither config.yaml nor config.json" if path.is_dir() else "is a file" if path.exists() else "there is no such folder"
        raise UserError(
            f'{path}: {found}. Give a run folder (the `output` of a recipe), a model folder, or "{EMBEDDED}"; '
            "adapter=... puts an adapter on it."
        )
    return None


def with_base_path(run: RunConfig | None, base_path: Path | None) -> RunConfig | None:
    """The run with its base elsewhere than its recipe says; None and a model folder stay what they are."""
    if run is None or base_path is None:
        return run
    return run.model_copy(update={"model": run.model.model_copy(update={"path": str(base_path)})})


def existing_base(path: Path, run: RunConfig) -> Path:
    """The folder of a run's base. Raises UserError, with what to do, where it is not there any more."""
    folder = base_folder(run.model.path)
    if not folder.is_dir():
        raise UserError(
            Bilingual(
                f"{path}: its base, {run.model.path}, is not there. Put it back, or say where it is now: base_path=FOLDER.",
                "底座不在原处：请放回，或用 base_path=目录 指明。",
            )
        )
    return folder


def network_folder(path: Path, run: RunConfig) -> Path:
    """The folder that a run's network is read from: what was tuned as a whole, or the base, as `existing_base`."""
    return find_folder(RunFolder(path).model) or existing_base(path, run)


def no_result_error(path: Path) -> UserError:
    """What is said of a run before its first result."""
    return UserError(f"{path}: has no adapter yet. Let `imprint train` run to its first evaluation, or further.")


def tuned_parts(home: RunFolder, run: RunConfig) -> tuple[str | Path, Path | None]:
    """The folder of a run's network, and its adapter if that is what was tuned."""
    if (whole := find_folder(home.model)) is not None:
        return whole, None
    if find_folder(home.adapter) is None:
        raise no_result_error(home.path)
    return run.model.path, home.adapter
