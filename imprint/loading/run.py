"""The sections of a run's recipe that other commands read."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from pydantic import ConfigDict

from imprint.config import Field, Section
from imprint.data.section import DEFAULT_ANSWER_LIMIT, AnyData, DataSection
from imprint.forgetting.section import ForgettingSection
from imprint.loading.base import fetch
from imprint.loading.hub.name import hub_name
from imprint.loading.section import ModelSection
from imprint.task import TaskSection, TextTask

MAX_PROMPT: Final = 2048
"""Maximum tokens of a prompt where a run has no limit."""


class TrainLength(Section):
    """How long a run is; null where the recipe counts epochs."""

    model_config = ConfigDict(extra="ignore")
    steps: int | None = Field(None, description="Optimizer steps.")


class ContinuedAdapter(Section):
    """What a run continues."""

    model_config = ConfigDict(extra="ignore")
    adapter: Path | None = Field(None, description="The adapter that it began with: its folder, or that of a run.")


class RunConfig(Section):
    """The sections of a run's recipe that other commands need; others may be of another version and are not read."""

    model_config = ConfigDict(extra="ignore")
    model: ModelSection = Field(description="The base.")
    data: AnyData = Field(description="The training data.")
    tune: ContinuedAdapter = Field(default_factory=ContinuedAdapter, description="What it continues.")
    train: TrainLength = Field(default_factory=TrainLength, description="Its length.")
    task: TaskSection = Field(default_factory=TextTask, description="The kind of answers.")
    forgetting: ForgettingSection = Field(default_factory=ForgettingSection, description="How forgetting is measured.")

    @property
    def data_section(self) -> DataSection:
        """The knobs for reading rows: the run's own, or the defaults for a run on raw text."""
        return self.data if isinstance(self.data, DataSection) else DataSection(train=self.data.train)

    def with_base_path(self, base_path: str | Path | None) -> "RunConfig":
        """The same run with its base at another path than in its recipe, or from the hub; None changes nothing.

        A model of the hub is downloaded if it has to be. Raises UserError as `base_folder`.
        """
        if base_path is None:
            return self
        name = hub_name(base_path)
        commit = None if name is None else fetch(name).commit
        return self.model_copy(update={"model": self.model.model_copy(update={"path": str(base_path), "commit": commit})})

    @property
    def max_source_length(self) -> int:
        """Maximum tokens of a prompt; without a limit in the recipe, that of a conversation."""
        return self.data.max_source_length or MAX_PROMPT

    @property
    def max_target_length(self) -> int:
        """Maximum tokens of an answer."""
        return self.data.max_target_length or DEFAULT_ANSWER_LIMIT


def data_knobs(names: Iterable[str], run: RunConfig | None) -> dict[str, Any]:
    """The values of these knobs of `DataSection`: those of the run, or without a run the defaults."""
    return {name: getattr(run.data_section, name) if run else DataSection.model_fields[name].default for name in names}
