"""Where a base is: a model folder, the embedded one, or what a run has made."""

from pathlib import Path

from pydantic import ConfigDict

from imprint.config import Field, Section, read_recipe
from imprint.errors import UserError
from imprint.files import find_folder
from imprint.loading.section import ModelSection
from imprint.messages import Bilingual
from imprint.runs import RunFolder

EMBEDDED = "embedded"
"""Names the toy base that comes with Imprint."""


class _OfRun(Section):
    """What a run that serves as a base must say of its own; the rest of its recipe may be of another version."""

    model_config = ConfigDict(extra="ignore")
    model: ModelSection = Field(description="The base it was tuned from.")


def base_folder(path: str | Path) -> Path:
    """The folder of a base: also of the one that comes with Imprint, and of what a run has made of its own base.

    A run that was tuned as a whole is the model in it; one with a LoRA beside its base is that base, and `load` merges the LoRA into it.
    Raises UserError for a run that has nothing yet.
    """
    if str(path) == EMBEDDED:
        return Path(__file__).parents[1] / "embedded"
    run = RunFolder(Path(path))
    if not run.config.is_file():
        return run.path
    if (whole := find_folder(run.model)) is not None:
        return whole
    if find_folder(run.adapter) is None:
        raise UserError(
            Bilingual(
                f"model.path: {path} is a run that has no result yet. Let `imprint train` run to its first evaluation, or further.",
                "该结果目录尚无可用的模型：请先训练到第一次评估。",
            )
        )
    return base_folder(read_recipe(run.config, [], _OfRun).model.path)
