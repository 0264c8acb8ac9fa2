"""Rows of token ids from samples: as the original cuts them, id by id, and as we cut them.

A training row is `prompt [gMASK] <sop> answer <eop>`, without padding. Labels are aligned with the ids, -100 = not scored.
"""

from bisect import bisect_left
from dataclasses import dataclass

from imprint.data.batch import NOT_SCORED
from imprint.data.sample import Sample
from imprint.data.templates import Turns, chatglm_prompt, led, rounds
from imprint.tokenizers import ChatGLMTokenizer


@dataclass(frozen=True)
class Encoded:
    """One training row, and what had to be cut for it."""

    ids: tuple[int, ...]
    """Prompt, [gMASK], <sop>, answer, <eop>."""
    labels: tuple[int, ...]
    """Aligned with `ids`: the same id where it is scored, -100 where it is not."""
    dropped_turns: int = 0
    """How many turns of the history were left out, the oldest first."""
    cut_prompt_tokens: int = 0
    """How many tokens of the question (in the original's truncation: of the whole prompt) were cut."""
    cut_answer_tokens: int = 0
    """How many tokens of the answer were cut."""
    starts: tuple[int, ...] = ()
    """Where in the row further texts begin, which see nothing of those before them and count their positions anew."""

    @property
    def parts(self) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
        """The (ids, labels) of each text in the row."""
        ends = (*self.starts, len(self.ids))
        return [(self.ids[start:end], self.labels[start:end]) for start, end in zip((0, *self.starts), ends, strict=True)]

    @property
    def cut(self) -> bool:
        """Whether anything is missing from the row."""
        return bool(self.dropped_turns or self.cut_prompt_tokens or self.cut_answer_tokens)


def encode_sample(
    tokenizer: ChatGLMTokenizer, sample: Sample, *, max_source_length: int, max_target_length: int, source_prefix: str = ""
) -> Encoded:
    """Encode a training row; what is too long loses its least important part.

    The prompt with `[gMASK] <sop>` has at most `max_source_length` ids: the oldest turns go first, as many as it takes, and only a question
    that is too long by itself loses its middle. The answer with `<eop>` has at most `max_target_length` ids: its end is cut, `<eop>` never.
    An empty history is the bare query, as in a chat. Scored are the answer and `<eop>`, but not `<sop>`: it is the same in every row.
    `source_prefix` is put before the whole prompt.
    """
    turns = sample.history or ()
    source, dropped, cut_query = _fit_prompt(tokenizer, sample.query, turns, sample.system, max_source_length, source_prefix)
    answer = tokenizer.encode(sample.answer)
    target = [*answer[: max_target_length - 1], tokenizer.control.eop]
    return Encoded(
        ids=(*source, *target),
        labels=(*[NOT_SCORED] * len(source), *target),
        dropped_turns=dropped,
        cut_prompt_tokens=cut_query,
        cut_answer_tokens=len(answer) + 1 - len(target),
    )


def encode_prompt(
    tokenizer: ChatGLMTokenizer,
    query: str,
    history: Turns | None,
    *,
    max_source_length: int,
    system: str | None = None,
    source_prefix: str = "",
) -> list[int]:
    """Encode what the model shall answer, up to and with `[gMASK] <sop>`: exactly the part of a training row that is not scored."""
    return _fit_prompt(tokenizer, query, history or (), system, max_source_length, source_prefix)[0]


def encode_sample_original(
    tokenizer: ChatGLMTokenizer, sample: Sample, *, max_source_length: int, max_target_length: int, source_prefix: str = ""
) -> Encoded:
    """Encode a training row exactly as the original does, its padding left out.

    A prompt of more than `max_source_length - 1` ids loses its end, and with it perhaps the question; the answer keeps
    `max_target_length - 2` ids. The `<sop>` is scored too. A history that is there but empty is trained as `[Round 0]`.

    Source: preprocess_function_train in ptuning/main.py, THUDM/ChatGLM-6B.
    """
    control = tokenizer.control
    text = sample.query if sample.history is None else rounds(sample.query, sample.history)
    whole_prompt = tokenizer.encode(source_prefix + led(text, sample.system))
    whole_answer = tokenizer.encode(sample.answer)
    prompt, answer = whole_prompt[: max_source_length - 1], whole_answer[: max_target_length - 2]
    scored = [control.sop, *answer, control.eop]
    return Encoded(
        ids=(*prompt, control.gmask, *scored),
        labels=(*[NOT_SCORED] * (len(prompt) + 1), *scored),
        cut_prompt_tokens=len(whole_prompt) - len(prompt),
        cut_answer_tokens=len(whole_answer) - len(answer),
    )


def encode_original(
    tokenizer: ChatGLMTokenizer, query: str, answer: str, history: Turns | None, max_source_length: int, max_target_length: int
) -> tuple[list[int], list[int]]:
    """The (ids, labels) of a training row as the original makes them: see `encode_sample_original`.

    `history` None is the bare query, a list (also an empty one) is rounds.
    """
    sample = Sample(query, answer, None if history is None else tuple(history), place="")
    row = encode_sample_original(tokenizer, sample, max_source_length=max_source_length, max_target_length=max_target_length)
    return list(row.ids), list(row.labels)


def encode_original_evaluation(
    tokenizer: ChatGLMTokenizer,
    query: str,
    answer: str,
    history: Turns | None,
    max_source_length: int,
    max_target_length: int,
    system: str | None = None,
    source_prefix: str = "",
) -> tuple[list[int], str]:
    """The prompt's ids and the reference text as the original evaluates them.

    The prompt with `[gMASK] <sop>` has at most `max_source_length` ids, its end is cut. The reference is the answer's first
    `max_target_length - 2` ids turned back into text. An empty history is the bare query here, unlike in the original's training.

    Source: preprocess_function_eval in ptuning/main.py, THUDM/ChatGLM-6B.
    """
    control = tokenizer.control
    prompt = tokenizer.encode(source_prefix + chatglm_prompt(query, history, system))[: max_source_length - 2]
    reference = tokenizer.decode(tokenizer.encode(answer)[: max_target_length - 2])
    return [*prompt, control.gmask, control.sop], reference


def _fit_prompt(
    tokenizer: ChatGLMTokenizer, query: str, history: Turns, system: str | None, max_source_length: int, source_prefix: str
) -> tuple[list[int], int, int]:
    """A prompt with `[gMASK] <sop>` of at most `max_source_length` ids, how many turns it lost, how many ids the question lost."""
    room = max_source_length - 2
    ends = [tokenizer.control.gmask, tokenizer.control.sop]

    def prompt(dropped: int) -> list[int]:
        return tokenizer.encode(source_prefix + chatglm_prompt(query, history[dropped:], system))

    whole = prompt(0)
    if len(whole) <= room:
        return [*whole, *ends], 0, 0
    dropped = bisect_left(range(len(history)), True, key=lambda turns: len(prompt(turns)) <= room)
    ids = prompt(dropped)
    head, tail = room // 2, room - room // 2
    if len(ids) <= room:
        return [*ids, *ends], dropped, 0
    return [*ids[:head], *ids[len(ids) - tail :], *ends], dropped, len(ids) - room
