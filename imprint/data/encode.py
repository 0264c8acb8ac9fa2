"""Rows of token ids from samples, whatever template they are written with, and cut as we cut them.

A training row is what the template reads, then the answer and its end, without padding. Labels are aligned with the ids, -100 = not scored.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from imprint.data.sample import Sample
from imprint.errors import UserError
from imprint.messages import Bilingual
from imprint.pack import IGNORE_INDEX
from imprint.templates import Message, Segment, Template, Turns, make_messages, split_rounds


@dataclass(frozen=True)
class EncodedRow:
    """One training row, and what had to be cut for it."""

    ids: tuple[int, ...]
    """The prompt as the template writes it, the answer, its end."""
    labels: tuple[int, ...]
    """Aligned with `ids`: the same id where it is scored, -100 where it is not."""
    dropped_turns: int = 0
    """How many turns of the history were left out, the oldest first."""
    cut_prompt_tokens: int = 0
    """How many tokens of the question (in the original's truncation: of the whole prompt) were cut."""
    cut_answer_tokens: int = 0
    """How many tokens of the answer were cut."""
    sequence_starts: tuple[int, ...] = ()
    """Where in the row further texts begin, which see nothing of those before them and count their positions anew."""

    @property
    def sequences(self) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
        """The (ids, labels) of each text in the row."""
        ends = (*self.sequence_starts, len(self.ids))
        return [(self.ids[start:end], self.labels[start:end]) for start, end in zip((0, *self.sequence_starts), ends, strict=True)]

    @property
    def cut(self) -> bool:
        """Whether anything is missing from the row."""
        return bool(self.dropped_turns or self.cut_prompt_tokens or self.cut_answer_tokens)


@dataclass(frozen=True)
class EncodedPrompt:
    """A prompt that is short enough, and what it lost."""

    ids: list[int]
    """What the model shall go on from."""
    dropped_turns: int = 0
    """How many turns were left out, the oldest first."""
    cut_tokens: int = 0
    """How many tokens were cut from the middle of what was left."""

    @property
    def cut(self) -> bool:
        """Whether anything is missing."""
        return bool(self.dropped_turns or self.cut_tokens)


def encode_sample(
    template: Template, sample: Sample, *, max_source_length: int, max_target_length: int, source_prefix: str = ""
) -> EncodedRow:
    """Encode a training row; what is too long loses its least important part.

    The prompt has at most `max_source_length` ids: see `encode_messages`. The answer with its end id has at most `max_target_length` ids:
    its last tokens are cut, never the end id. The answer and its end id are scored, the prompt is not.
    """
    prompt = encode_messages(template, sample.messages, max_source_length=max_source_length, source_prefix=source_prefix)
    answer = template.answer(sample.messages, sample.answer, sample.tool)
    target = [*answer[: max_target_length - 1], template.end_id]
    return EncodedRow(
        ids=(*prompt.ids, *target),
        labels=(*[IGNORE_INDEX] * len(prompt.ids), *target),
        dropped_turns=prompt.dropped_turns,
        cut_prompt_tokens=prompt.cut_tokens,
        cut_answer_tokens=len(answer) + 1 - len(target),
    )


def encode_messages(template: Template, messages: Sequence[Message], *, max_source_length: int, source_prefix: str = "") -> EncodedPrompt:
    """Encode what the model shall answer, exactly the part of a training row that is not scored, in at most `max_source_length` ids.

    The oldest turns go first, as many as it takes; only a question that is too long by itself, with what the system says, loses its middle.
    Control ids always stay, and so does what else frames a turn in a template of roles. `source_prefix` is put before the prompt.

    Raises UserError where the frame alone is too long, and for what the template cannot write.
    """
    system, rounds = split_rounds(messages)

    def prompt(dropped: int) -> tuple[Segment, ...]:
        return template.prompt([*system, *(message for said in rounds[dropped:] for message in said)], source_prefix)

    segments = prompt(0)
    if _total_tokens(segments) <= max_source_length:
        return EncodedPrompt(_flatten(segments))
    dropped = bisect_left(range(max(len(rounds) - 1, 0)), True, key=lambda turns: _total_tokens(prompt(turns)) <= max_source_length)
    segments = prompt(dropped) if dropped else segments
    cut = max(_total_tokens(segments) - max_source_length, 0)
    return EncodedPrompt(_flatten(_truncate_middle(segments, cut, max_source_length) if cut else segments), dropped, cut)


def encode_prompt(
    template: Template,
    query: str,
    history: Turns | None = None,
    *,
    max_source_length: int,
    system: str | None = None,
    source_prefix: str = "",
) -> list[int]:
    """Encode a question with what was said before it, as `encode_messages`."""
    said = make_messages(query, history, system)
    return encode_messages(template, said, max_source_length=max_source_length, source_prefix=source_prefix).ids


def _truncate_middle(segments: Sequence[Segment], cut: int, limit: int) -> list[Segment]:
    """The segments with so many ids fewer: they go from the middle of all that is not fixed."""
    loose = sum(len(segment.ids) for segment in segments if not segment.fixed)
    if cut > loose:
        raise UserError(
            Bilingual(
                f"max_source_length: {limit} is too short for this model, whose prompts have {_total_tokens(segments) - loose} tokens "
                "around the text. "
                f"Set it to at least {_total_tokens(segments) - loose + 1}.",
                "max_source_length 太短。",
            )
        )
    first = (loose - cut) // 2
    kept, position = [], 0
    for segment in segments:
        ids = segment.ids
        if not segment.fixed:
            ids = tuple(token for number, token in enumerate(ids, start=position) if not first <= number < first + cut)
            position += len(segment.ids)
        kept.append(Segment(ids, segment.fixed))
    return kept


def _total_tokens(segments: Sequence[Segment]) -> int:
    return sum(len(segment.ids) for segment in segments)


def _flatten(segments: Sequence[Segment]) -> list[int]:
    return [token for segment in segments for token in segment.ids]
