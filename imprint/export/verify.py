"""Verifies an export: the same prompts are answered greedily before and after, and every token must be equal."""

from collections.abc import Sequence
from dataclasses import dataclass

from imprint.data.dataset import load_held_out
from imprint.data.encode import encode_prompt
from imprint.data.sample import Sample
from imprint.data.section import DataSection
from imprint.inference.generate import generate
from imprint.inference.sampling import Sampling
from imprint.loading.run import RunConfig
from imprint.messages import Bilingual, UserError
from imprint.model import Model
from imprint.templates import Template

FALLBACK_PROMPTS = (
    "你好",
    "你是谁？",
    "介绍一下你自己。",
    "今天天气怎么样？",
    "一加一等于几？",
    "类型#裙*颜色#红色*风格#简约",
    "Hello, who are you?",
    "What can you do?",
)
"""Prompts used if the rows of the run cannot be read any more."""
MAX_ANSWER_TOKENS = 48


@dataclass(frozen=True)
class GreedyAnswer:
    """The greedy answer to one prompt."""

    ids: tuple[int, ...]
    """Token ids without the end token."""
    text: str
    """The decoded text."""


def verification_samples(run: RunConfig, count: int, *, tools: bool = False) -> list[Sample]:
    """Prompts to verify with: the first held-out rows of the run, else `FALLBACK_PROMPTS`. `tools`: whether the template supports tools."""
    return _held_out_samples(run, tools=tools)[:count] or [Sample(text, "", None, location="") for text in FALLBACK_PROMPTS[:count]]


def encode_prompts(template: Template, run: RunConfig, samples: Sequence[Sample]) -> list[list[int]]:
    """Prompt ids, truncated as in the run."""
    max_length, source_prefix = run.max_source_length, run.data_section.source_prefix
    return [
        encode_prompt(
            template, sample.query, sample.history, max_source_length=max_length, system=sample.system, source_prefix=source_prefix
        )
        for sample in samples
    ]


def greedy_answers(model: Model, run: RunConfig, samples: Sequence[Sample]) -> list[GreedyAnswer]:
    """Greedy answers of a model."""
    answers = generate(model.network, encode_prompts(model.template, run, samples), Sampling(MAX_ANSWER_TOKENS), prefix=model.prefix())
    return [GreedyAnswer(tuple(ids), model.tokenizer.decode(ids)) for ids in answers]


def refuse_changed_answers(samples: Sequence[Sample], before: Sequence[GreedyAnswer], after: Sequence[GreedyAnswer]) -> None:
    """Raise UserError, with the first difference, unless all answers are equal."""
    changed = [row for row, (old, new) in enumerate(zip(before, after, strict=True)) if old.ids != new.ids]
    if not changed:
        return
    row = changed[0]
    old, new = before[row], after[row]
    equal = next((index for index, (a, b) in enumerate(zip(old.ids, new.ids, strict=False)) if a != b), min(len(old.ids), len(new.ids)))
    raise UserError(
        Bilingual(
            f"the export answers {len(changed)} of {len(samples)} questions differently, so nothing was written. First: "
            f'"{samples[row].query}", after {equal} equal tokens: before "{old.text}", after "{new.text}". '
            "Rounding to 16 bit can do this between almost equally likely tokens: dtype=float32 writes without rounding, and "
            "proof_dtype=float32 compares without rounding.",
            f"导出后有 {len(changed)} 个问题的回答不同，因此没有写出任何文件；可用 dtype=float32 和 proof_dtype=float32 排除舍入。",
        )
    )


def _held_out_samples(run: RunConfig, *, tools: bool) -> list[Sample]:
    if not isinstance(run.data, DataSection):
        return []
    try:
        return load_held_out(run.data, tools=tools)
    except UserError:  # the data file may be gone
        return []
