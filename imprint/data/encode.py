"""Token ids and labels of samples, with any template and `truncation: oldest_first`.

A training row is the prompt, the answer and its end id, without padding. Labels are aligned with the ids; -100 is not scored.
"""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from imprint.data.sample import Sample
from imprint.messages import Bilingual, UserError
from imprint.pack import IGNORE_INDEX
from imprint.templates import Message, Segment, Template, split_rounds

LONG_MESSAGES: Final = 32
LONG_CHARACTERS: Final = 2**16
"""A prompt with more messages and more characters is long: see `has_long_prompt`."""
ESTIMATE_CHARACTERS: Final = 2**13
"""Characters of the last rounds, from which the tokens of a long prompt are estimated."""


@dataclass(frozen=True)
class EncodedRow:
    """One training row, and what was truncated."""

    ids: tuple[int, ...]
    """Prompt, answer and end id."""
    labels: tuple[int, ...]
    """Aligned with `ids`: the id where it is scored, else -100."""
    dropped_turns: int = 0
    """Number of oldest history turns left out."""
    cut_prompt_tokens: int = 0
    """Number of tokens cut from the question (with truncation=original: from the prompt)."""
    cut_answer_tokens: int = 0
    """Number of tokens cut from the answer."""
    needed_prompt: int = field(default=0, compare=False)
    """The smallest `max_source_length` that cuts nothing from the prompt, about that of a long one that is cut; 0 in raw text."""
    needed_answer: int = field(default=0, compare=False)
    """The smallest `max_target_length` that cuts nothing from the answer; 0 in raw text."""
    sequence_starts: tuple[int, ...] = ()
    """Start indices of further sequences in the row; each attends only to itself and has its own positions."""

    @classmethod
    def of(cls, context: Sequence[int], scored: Sequence[int]) -> "EncodedRow":
        """The row of ids that are read, and ids after them that are scored."""
        return cls((*context, *scored), (*[IGNORE_INDEX] * len(context), *scored))

    @property
    def scored(self) -> list[bool]:
        """Whether each id is scored."""
        return [label != IGNORE_INDEX for label in self.labels]

    @property
    def sequences(self) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
        """The (ids, labels) of each sequence in the row."""
        ends = (*self.sequence_starts, len(self.ids))
        return [(self.ids[start:end], self.labels[start:end]) for start, end in zip((0, *self.sequence_starts), ends, strict=True)]

    @property
    def cut(self) -> bool:
        """Whether anything was truncated."""
        return bool(self.dropped_turns or self.cut_prompt_tokens or self.cut_answer_tokens)


@dataclass(frozen=True)
class EncodedPrompt:
    """A prompt within the length limit, and what was truncated."""

    ids: list[int]
    """Prompt ids."""
    dropped_turns: int = 0
    """Number of oldest turns left out."""
    cut_tokens: int = 0
    """Number of tokens cut from the middle of the rest."""
    whole_tokens: int = 0
    """Tokens of the prompt before anything was truncated; about as many if it is long: see `has_long_prompt`."""

    @property
    def cut(self) -> bool:
        """Whether anything was truncated."""
        return bool(self.dropped_turns or self.cut_tokens)


def encode_sample(
    template: Template, sample: Sample, *, max_source_length: int, max_target_length: int, source_prefix: str = ""
) -> EncodedRow:
    """Encode a training row; answer and end id are scored, the prompt is not.

    The prompt has at most `max_source_length` ids: see `encode_messages`. The answer with its end id has at most `max_target_length` ids:
    its last tokens are cut, never the end id.
    """
    messages = sample.messages
    last = _last_rounds(messages)
    answer = template.answer(
        last, sample.answer, sample.tool, sample.further_messages
    )  # first, since a template may encode the prompt with it
    prompt = encode_messages(template, messages, max_source_length=max_source_length, source_prefix=source_prefix)
    target = [*answer[: max_target_length - 1], template.end_id]
    return EncodedRow(
        ids=(*prompt.ids, *target),
        labels=(*[IGNORE_INDEX] * len(prompt.ids), *target),
        dropped_turns=prompt.dropped_turns,
        cut_prompt_tokens=prompt.cut_tokens,
        cut_answer_tokens=len(answer) + 1 - len(target),
        needed_prompt=prompt.whole_tokens,
        needed_answer=len(answer) + 1,
    )


def encode_messages(template: Template, messages: Sequence[Message], *, max_source_length: int, source_prefix: str = "") -> EncodedPrompt:
    """Encode a prompt, the unscored part of a training row, in at most `max_source_length` ids.

    The oldest turns are dropped first; only if system prompt and last question are still too long, tokens are cut from their middle. Fixed
    segments, such as special tokens and role lines, always stay. `source_prefix` is put before the prompt.

    Raises UserError if the fixed segments alone are too long, and for messages that the template does not support.
    """
    system, rounds = split_rounds(messages)

    def prompt(dropped: int) -> tuple[Segment, ...]:
        return template.prompt([*system, *(message for round_messages in rounds[dropped:] for message in round_messages)], source_prefix)

    is_estimated = has_long_prompt(messages) and max_source_length < _characters(messages)
    if is_estimated and (whole := _estimated_tokens(rounds, prompt)) > 2 * max_source_length:
        segments: Sequence[Segment] = ()
    elif (whole := _total_tokens(segments := prompt(0))) <= max_source_length:
        return EncodedPrompt(_flatten(segments), whole_tokens=whole)
    dropped = _dropped_rounds(len(rounds), lambda turns: _total_tokens(prompt(turns)) <= max_source_length)
    segments = prompt(dropped) if dropped else segments
    cut = max(_total_tokens(segments) - max_source_length, 0)
    return EncodedPrompt(_flatten(_truncate_middle(segments, cut, max_source_length) if cut else segments), dropped, cut, whole)


def has_long_prompt(messages: Sequence[Message]) -> bool:
    """Whether these messages are so many and so long that their tokens are estimated from those of the last rounds.

    Each answer of a conversation is a sample with all messages before it: encoding them all again for each takes time quadratic in the
    length of the conversation.
    """
    return len(messages) > LONG_MESSAGES and _characters(messages) > LONG_CHARACTERS


def _last_rounds(messages: Sequence[Message]) -> list[Message]:
    """The messages, of a long prompt only the last ones, with which a template may encode an answer."""
    if not has_long_prompt(messages):
        return list(messages)
    system, rounds = split_rounds(messages)
    return [*system, *(message for round_messages in rounds[-2:] for message in round_messages)]


def _estimated_tokens(rounds: Sequence[Sequence[Message]], prompt: Callable[[int], Sequence[Segment]]) -> int:
    """About how many tokens the prompt of all rounds has, estimated from the last ones; `prompt` encodes all rounds but the first ones."""
    sizes = [_characters(messages) for messages in rounds]
    kept, characters = 0, 0
    while kept < len(rounds) and characters < ESTIMATE_CHARACTERS:
        kept += 1
        characters += sizes[-kept]
    return round(_total_tokens(prompt(len(rounds) - kept)) * sum(sizes) / max(characters, 1))


def _dropped_rounds(count: int, fits: Callable[[int], bool]) -> int:
    """The fewest of `count` rounds to drop so that the rest `fits`, at least one being kept; looked for from the end."""
    kept = 1
    while kept < count and fits(count - kept):
        kept *= 2
    first, last = max(count - kept, 0), max(count - max(kept // 2, 1), 0)
    return first + bisect_left(range(first, last), True, key=fits)


def _characters(messages: Sequence[Message]) -> int:
    return sum(len(message.text) for message in messages)


def _truncate_middle(segments: Sequence[Segment], cut: int, limit: int) -> list[Segment]:
    """The segments without `cut` ids from the middle of all that is not fixed. Raises UserError if too much is fixed."""
    removable = sum(len(segment.ids) for segment in segments if not segment.fixed)
    if cut > removable:
        raise UserError(
            Bilingual(
                f"max_source_length: {limit} is too short for this model, whose prompts have {_total_tokens(segments) - removable} tokens "
                f"around the text. Set it to at least {_total_tokens(segments) - removable + 1}.",
                f"max_source_length 太短：请至少设为 {_total_tokens(segments) - removable + 1}。",
            )
        )
    first = (removable - cut) // 2
    kept, position = [], 0
    for segment in segments:
        ids = segment.ids
        if not segment.fixed:
            ids = tuple(token for index, token in enumerate(ids, start=position) if not first <= index < first + cut)
            position += len(segment.ids)
        kept.append(Segment(ids, segment.fixed))
    return kept


def _total_tokens(segments: Sequence[Segment]) -> int:
    return sum(len(segment.ids) for segment in segments)


def _flatten(segments: Sequence[Segment]) -> list[int]:
    return [token for segment in segments for token in segment.ids]
