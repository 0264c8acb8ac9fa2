"""General rows, mixed into the training so that the model keeps the abilities of its base."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from imprint.data.encode import EncodedRow
from imprint.data.limits import LengthLimits
from imprint.data.readers.questions import read_questions
from imprint.data.readers.samples import read_samples
from imprint.data.sample import Sample
from imprint.data.section import DEFAULT_ANSWER_LIMIT, FROM_BASE, GENERAL_FILE, DataSection, MixSection
from imprint.messages import Bilingual, UserError


@dataclass(frozen=True)
class GeneralRows:
    """The general rows of a run, as text."""

    samples: list[Sample]
    """All samples, in file order; without answers where the base gives them."""
    source: str
    """File or folder they were read from."""


def load_general_rows(section: MixSection, base: Path, *, tools: bool = False) -> GeneralRows:
    """Read the general rows, or only their questions where the base answers them; `tools`: see `samples_from_row`.

    Raises UserError if the base has none, and for a file that cannot be read.
    """
    from_base = section.rows == FROM_BASE
    source = str(base / GENERAL_FILE) if from_base else section.rows
    if from_base and not (base / GENERAL_FILE).is_file():
        raise UserError(
            Bilingual(
                f"data.mix_general.rows: the base {base} has no general rows ({GENERAL_FILE}). Give a file of question and answer rows, "
                "data.mix_general.rows=FILE, or mix none in: data.mix_general=null (more is forgotten).",
                f"底座 {base} 不带通用数据（{GENERAL_FILE}）：请用 data.mix_general.rows=文件 给出自己的通用问答；"
                "或不混入：data.mix_general=null（会忘得更多）。",
            )
        )
    if section.asks_base:
        return GeneralRows(read_questions(Path(source), prompt_column="content"), source)
    return GeneralRows(read_samples(source, prompt_column="content", response_column="summary", tools=tools), source)


def general_per_epoch(own: int, share: float) -> int:
    """Number of general rows per epoch, so that they are the share `share` of it beside `own` rows; at least one."""
    return max(1, round(own * share / (1 - share)))


def with_chat_prompts(section: DataSection) -> DataSection:
    """The section with which general rows are encoded: where the base answers them, their prompts are those of a chat."""
    asks_base = section.mix_general is not None and section.mix_general.asks_base
    return section.model_copy(update={"truncation": "oldest_first"}) if asks_base else section


def with_room_for_answers(mix: MixSection | None, rows: Sequence[EncodedRow]) -> list[EncodedRow]:
    """The general rows as limits are chosen from them: an answer that the base has still to give needs `DEFAULT_ANSWER_LIMIT` tokens."""
    return [replace(row, needed_answer=DEFAULT_ANSWER_LIMIT) for row in rows] if mix is not None and mix.asks_base else list(rows)


def complete_rows(mix: MixSection, rows: Sequence[EncodedRow], limits: LengthLimits) -> list[EncodedRow]:
    """The general rows that the limits leave whole; an answer that the base has still to give counts as short enough."""
    fitting = [row for row in rows if row.needed_prompt <= limits.prompt]
    return fitting if mix.asks_base else [row for row in fitting if row.needed_answer <= limits.answer]


def prompt_ids(row: EncodedRow) -> list[int]:
    """The prompt of a row: the ids before the first one that is learned."""
    return [token for token, scored in zip(row.ids, row.scored, strict=True) if not scored]


def answered_row(prompt: Sequence[int], answer: Sequence[int], end_id: int | None) -> EncodedRow:
    """A row with an answer of the base, of which every token is learned; `end_id` None where it did not end within the limit.

    Such an answer is learned as far as it goes, without an end that the base has not set there. An empty answer is learned too: its end
    id is what the base answers.
    """
    target = [*answer, *([] if end_id is None else [end_id])]
    return replace(EncodedRow.of(prompt, target), needed_prompt=len(prompt), needed_answer=len(target))
