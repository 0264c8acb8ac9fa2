"""Verifies an export: the same prompts are answered greedily before and after, and every token must be equal."""

from collections.abc import Sequence
from dataclasses import dataclass

from imprint.data.dataset import load_held_out
from imprint.data.encode import encode_messages
from imprint.data.sample import Sample
from imprint.data.section import DataSection
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
ROUNDING_KNOBS = {"dtype": "writes", "proof_dtype": "compares"}
"""Knobs of an export whose 16-bit types round, and what each does."""


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
    return [encode_messages(template, sample.messages, max_source_length=max_length, source_prefix=source_prefix).ids for sample in samples]


def greedy_answers(model: Model, run: RunConfig, samples: Sequence[Sample]) -> list[GreedyAnswer]:
    """Greedy answers of a model."""
    answers = model.generate(encode_prompts(model.template, run, samples), MAX_ANSWER_TOKENS)
    return [GreedyAnswer(tuple(ids), model.tokenizer.decode(ids)) for ids in answers]


def refuse_changed_answers(
    samples: Sequence[Sample], before: Sequence[GreedyAnswer], after: Sequence[GreedyAnswer], *, rounding: Sequence[str]
) -> None:
    """Raise UserError, with the first difference, unless all answers are equal.

    `rounding`: knobs of the export that round now, and that may be set to float32.
    """
    changed = [row for row, (old, new) in enumerate(zip(before, after, strict=True)) if old.ids != new.ids]
    if not changed:
        return
    row = changed[0]
    old, new = before[row], after[row]
    equal = next((index for index, (a, b) in enumerate(zip(old.ids, new.ids, strict=False)) if a != b), min(len(old.ids), len(new.ids)))
    advice = _rounding_advice(rounding)
    raise UserError(
        Bilingual(
            f"the export answers {len(changed)} of {len(samples)} questions differently, so nothing was written. First: "
            f'"{samples[row].query}", after {equal} equal tokens: before "{old.text}", after "{new.text}". {advice.english}',
            f"导出后有 {len(changed)} 个问题的回答不同，因此没有写出任何文件；{advice.chinese}",
        )
    )


def _rounding_advice(rounding: Sequence[str]) -> Bilingual:
    if not rounding:
        return Bilingual(
            "Nothing that can be set rounds here: compare other questions (--prompts FILE), or see whether files of the run or of its base "
            "have changed since it was trained.",
            "这里没有可调的舍入：请换一组问题（--prompts 文件），或检查训练结果和底座的文件在训练后是否有改动。",
        )
    english = " and ".join(f"{knob}=float32 {ROUNDING_KNOBS[knob]} without rounding" for knob in rounding)
    return Bilingual(
        f"Rounding to 16 bit can do this between almost equally likely tokens: {english}.",
        f"可用 {' 和 '.join(f'{knob}=float32' for knob in rounding)} 排除舍入。",
    )


def _held_out_samples(run: RunConfig, *, tools: bool) -> list[Sample]:
    if not isinstance(run.data, DataSection):
        return []
    try:
        return load_held_out(run.data, tools=tools)
    except UserError:  # the data file may be gone
        return []
