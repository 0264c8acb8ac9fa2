"""The proof of an export: the same questions, answered greedily before and after, token for token."""

from collections.abc import Sequence
from dataclasses import dataclass

from imprint.data.dataset import load_held_out
from imprint.data.encode import encode_prompt
from imprint.data.sample import Sample
from imprint.data.section import DataSection
from imprint.errors import UserError
from imprint.inference.generate import generate
from imprint.inference.sampling import Sampling
from imprint.loading.run import RunConfig
from imprint.messages import Bilingual
from imprint.model import Model
from imprint.templates import Template

QUESTIONS = (
    "你好",
    "你是谁？",
    "介绍一下你自己。",
    "今天天气怎么样？",
    "一加一等于几？",
    "类型#裙*颜色#红色*风格#简约",
    "Hello, who are you?",
    "What can you do?",
)
"""What is asked where the rows of the run cannot be read any more."""
LONGEST_ANSWER = 48


@dataclass(frozen=True)
class Answer:
    """What was said to one question."""

    ids: tuple[int, ...]
    """Its tokens, the end left out."""
    text: str
    """For a person."""


def questions(run: RunConfig, count: int, *, tools: bool = False) -> list[Sample]:
    """What is asked: the first rows that the run held out, or questions of our own. `tools` says whether the template writes tools."""
    return _held_out(run, tools=tools)[:count] or [Sample(text, "", None, location="") for text in QUESTIONS[:count]]


def prompts(template: Template, run: RunConfig, asked: Sequence[Sample]) -> list[list[int]]:
    """The prompts' ids, cut as the run cuts them."""
    longest, before = run.rows.max_source_length, run.rows.source_prefix
    return [
        encode_prompt(template, one.query, one.history, max_source_length=longest, system=one.system, source_prefix=before) for one in asked
    ]


def answers(model: Model, run: RunConfig, asked: Sequence[Sample]) -> list[Answer]:
    """The greedy answers of a model."""
    found = generate(model.network, prompts(model.template, run, asked), Sampling(LONGEST_ANSWER), prefix=model.prefix())
    return [Answer(tuple(ids), model.tokenizer.decode(ids)) for ids in found]


def refuse_other_answers(asked: Sequence[Sample], before: Sequence[Answer], after: Sequence[Answer]) -> None:
    """Raise UserError, with the first difference, unless every answer is the same."""
    different = [row for row, (old, new) in enumerate(zip(before, after, strict=True)) if old.ids != new.ids]
    if not different:
        return
    row = different[0]
    old, new = before[row], after[row]
    same = next((place for place, (a, b) in enumerate(zip(old.ids, new.ids, strict=False)) if a != b), min(len(old.ids), len(new.ids)))
    raise UserError(
        Bilingual(
            f"the export answers {len(different)} of {len(asked)} questions differently, so nothing was written. First: "
            f'"{asked[row].query}", after {same} equal tokens: before "{old.text}", after "{new.text}". '
            "Rounding to 16 bit can do this between tokens that are all but equally likely: dtype=float32 writes all digits, and "
            "proof_dtype=float32 compares without rounding.",
            f"导出后有 {len(different)} 个问题的回答不同，因此没有写出任何文件；可用 dtype=float32 和 proof_dtype=float32 排除舍入。",
        )
    )


def _held_out(run: RunConfig, *, tools: bool) -> list[Sample]:
    if not isinstance(run.data, DataSection):
        return []
    try:
        return load_held_out(run.data, tools=tools)
    except UserError:  # the rows may be gone
        return []
