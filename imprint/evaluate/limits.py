"""The length limits of an evaluation that neither the command nor a run gives."""

from collections.abc import Sequence
from typing import Final

from imprint.data.encode import encode_sample
from imprint.data.limits import SHARE, UNLIMITED, LengthLimits, needed_limits
from imprint.data.original import encode_sample_original
from imprint.data.sample import Sample
from imprint.data.section import DEFAULT_ANSWER_LIMIT
from imprint.evaluate.section import EvaluateSection
from imprint.model import Model

KNOBS: Final = ("max_source_length", "max_target_length")


def with_limits(section: EvaluateSection, samples: Sequence[Sample], model: Model) -> EvaluateSection:
    """The section with its null limits filled in: prompts stay whole, and answers are as long as 99 of 100 references.

    Both within the base's context. Raises UserError for a row that the template refuses.
    """
    given = {name: getattr(section, name) for name in KNOBS if getattr(section, name) is not None}
    if len(given) < len(KNOBS):
        needed = _needed(section, samples, model)
        wanted = LengthLimits(given.get("max_source_length", needed.prompt), given.get("max_target_length", needed.answer))
        section = section.model_copy(update=wanted.within(model.network.shape.max_length).knobs | given)
    if section.max_new_tokens is None and section.truncation != "original":
        section = section.model_copy(update={"max_new_tokens": section.max_target_length})
    return section


def _needed(section: EvaluateSection, samples: Sequence[Sample], model: Model) -> LengthLimits:
    encode = encode_sample_original if section.truncation == "original" else encode_sample
    prefix = section.source_prefix or ""
    rows = [
        encode(model.template, sample, max_source_length=UNLIMITED, max_target_length=UNLIMITED, source_prefix=prefix) for sample in samples
    ]
    answered = [row for row, sample in zip(rows, samples, strict=True) if sample.answer.strip()]
    return LengthLimits(needed_limits(rows).prompt, needed_limits(answered, SHARE).answer if answered else DEFAULT_ANSWER_LIMIT)
