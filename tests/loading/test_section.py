import pytest

from imprint.chat.section import ChatSection
from imprint.check.section import CheckSection
from imprint.config import Section, read_overrides
from imprint.evaluate.section import EvaluateSection, ForgettingCommandSection, PerplexitySection
from imprint.export.section import ExportSection
from imprint.loading.section import ModelSection, OpenSection
from imprint.messages import UserError

EVERYTHING = set(OpenSection.model_fields)
OPENING: dict[type[Section], set[str]] = {
    EvaluateSection: EVERYTHING,
    ChatSection: EVERYTHING,
    PerplexitySection: EVERYTHING,
    ForgettingCommandSection: EVERYTHING - {"base", "adapter"},  # it compares a run with its base
    ExportSection: {"base_path", "template", "dtype", "device"},  # its dtype is that of the files
    CheckSection: {"base_path", "template"},  # no weights are read
}
"""Command section -> those of the knobs that open a model that it has."""


def test_ten_knobs_open_a_model() -> None:
    vocabulary = {"quantize_head", "embedding_on_host"}
    assert vocabulary | {"base", "adapter", "base_path", "template", "quantize", "dtype", "device", "kernels"} == EVERYTHING
    assert read_overrides(["base_path=elsewhere", "quantize=8"], OpenSection) == OpenSection(base_path="elsewhere", quantize=8)


@pytest.mark.parametrize("section", OPENING, ids=lambda section: section.__name__)
def test_every_command_describes_them_alike(section: type[Section]) -> None:
    common = set(section.model_fields) & EVERYTHING
    assert common == OPENING[section]
    different = {name for name in common if section.model_fields[name].description != OpenSection.model_fields[name].description}
    assert different == ({"dtype"} if section is ExportSection else set())


@pytest.mark.parametrize("section", OPENING, ids=lambda section: section.__name__)
def test_a_knob_that_a_command_cannot_honour_is_refused_by_name(section: type[Section]) -> None:
    for name in EVERYTHING - OPENING[section]:
        with pytest.raises(UserError, match=f"override {name}=8: is unknown"):
            read_overrides([f"{name}=8"], section)


def test_a_base_needs_a_path() -> None:
    assert ModelSection(path="embedded").template == "auto"
    with pytest.raises(UserError, match="override path="):
        read_overrides(["path="], ModelSection)
