"""What other commands read of a run's recipe."""

from pathlib import Path

from pydantic import ConfigDict

from imprint.config import Field, Section
from imprint.data.section import AnyData, DataSection
from imprint.forgetting.section import ForgettingSection
from imprint.loading.section import ModelSection
from imprint.task import TaskSection, TextTask


class TrainLength(Section):
    """How long a run is; null where the recipe counts epochs."""

    model_config = ConfigDict(extra="ignore")
    steps: int | None = Field(None, description="Optimizer steps.")


class RunConfig(Section):
    """The sections of a run's recipe that other commands need; the rest may be of another version."""

    model_config = ConfigDict(extra="ignore")
    model: ModelSection = Field(description="The base.")
    data: AnyData = Field(description="What it learned from.")
    train: TrainLength = Field(default_factory=TrainLength, description="How long it is.")
    task: TaskSection = Field(default_factory=TextTask, description="What kind of answers it gives.")
    forgetting: ForgettingSection = Field(default_factory=ForgettingSection, description="How what was lost is measured.")

    @property
    def rows(self) -> DataSection:
        """How it reads questions: as it was trained, or by default where it learned from raw text."""
        return self.data if isinstance(self.data, DataSection) else DataSection(train=self.data.train)

    def with_base_path(self, base_path: Path | None) -> "RunConfig":
        """The same run with its base elsewhere than its recipe says; None changes nothing."""
        if base_path is None:
            return self
        return self.model_copy(update={"model": self.model.model_copy(update={"path": str(base_path)})})
