"""The turns of a conversation in the forms in which they are published.

Sources: OpenAI (role/content), ShareGPT (from/value), yangjianxin1/Firefly (human/assistant), InternLM/xtuner's dataset_format.md
(system/input/output), ssbuild/chatglm_finetuning (q/a, an answer being a text or a list of lines),
GAIR/lima (texts of user and assistant in turn).
"""

import itertools
from collections.abc import Iterator, Mapping
from typing import Final, Literal

from imprint.data.readers.bad_rows import BadRowError, must_be, non_empty_text, part_of, quote
from imprint.messages import Bilingual

SPEAKER_KEYS: Final = ("role", "from")
"""Keys of who speaks in a turn."""
TEXT_KEYS: Final = ("content", "value")
"""Keys of what is said."""
ROLES: Final[Mapping[str, Literal["user", "assistant", "system"]]] = {
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "system": "system",
    "developer": "system",
}
LEARNED_KEYS: Final = frozenset({"loss", "loss_scale", "weight", "train", "training", "trainable", "output_with_loss"})
"""Keys that say whether an answer is learned: those of ChatGLM3, ms-swift, OpenAI, axolotl (three) and xtuner."""
JUDGED_COLUMNS: Final = ("label", "kto_tag")
"""Columns that say whether an answer is a good one, in data for KTO: those of TRL and ms-swift, and of LLaMA-Factory."""
PAIR_KEYS: Final = (
    ("human", "assistant"),
    ("input", "output"),
    ("q", "a"),
    ("question", "answer"),
    ("prompt", "response"),
    ("user", "assistant"),
)
"""The keys of a question and its answer in one object."""
PAIRS_OF_TURNS: Final = (("human", "assistant"), ("q", "a"))
"""Those of them that a bare list of turns may have; the others are columns of rows, too."""


def is_message(value: object) -> bool:
    """Whether a value is what one speaker says, which no row is."""
    return (
        isinstance(value, dict)
        and any(key in value for key in SPEAKER_KEYS)
        and any(key in value for key in TEXT_KEYS)
        and "summary" not in value
    )


def is_pair(value: object) -> bool:
    """Whether a value is a question with its answer, in one object of a conversation."""
    return isinstance(value, dict) and any(set(keys) <= value.keys() for keys in PAIR_KEYS)


def is_turn(value: object) -> bool:
    """Whether a value of a list in a row is a turn: what one speaker says, or a question with its answer."""
    pair = isinstance(value, dict) and any(set(keys) <= value.keys() for keys in PAIRS_OF_TURNS) and "summary" not in value
    return pair or is_message(value)


def is_conversation(value: object) -> bool:
    """Whether a value is a bare list of turns."""
    return isinstance(value, list) and bool(value) and all(is_turn(turn) for turn in value)


def speaker(turn: Mapping[str, object]) -> object:
    """Who speaks in a turn, as it is written; None if nobody is named."""
    return turn.get("role", turn.get("from"))


def turns_of_lists(value: object) -> object:
    """The turns of an object with a list for each of their keys, as Hugging Face's datasets stores a sequence; other values unchanged."""
    if not isinstance(value, dict) or not all(isinstance(cells, list) for cells in value.values()):
        return value
    lists: dict[str, list[object]] = value
    if len({len(cells) for cells in lists.values()}) != 1 or not is_message(lists):
        return value
    return [dict(zip(lists, cells, strict=True)) for cells in zip(*lists.values(), strict=True)]


def turns_from_texts(turns: list[object]) -> list[object]:
    """The turns of a list of texts, which user and assistant say in turn; any other list unchanged."""
    if len(turns) == 1 or not all(isinstance(text, str) for text in turns):
        return turns
    return [{"role": role, "content": text} for role, text in zip(itertools.cycle(("user", "assistant")), turns, strict=False)]


def is_learned(turn: Mapping[str, object], subject: Bilingual) -> bool:
    """Whether the answer of a turn is learned: unless one of LEARNED_KEYS says that it is not.

    Raises BadRowError for any other value than true, false, 1 and 0, such as a weight between them.
    """
    if LEARNED_KEYS.isdisjoint(turn):
        return True
    values = {key: value for key, value in turn.items() if key in LEARNED_KEYS and value is not None}
    for key, value in values.items():
        if not isinstance(value, int | float) or value not in (0, 1):
            raise must_be(part_of(subject, key), "true, false, 1 or 0", " true、false、1 或 0", value)
    return all(values.values())


def refuse_undesirable(row: Mapping[str, object]) -> None:
    """Raise BadRowError for a row whose answer is a bad one by a column of JUDGED_COLUMNS: it would be learned like a good one."""
    for column in JUDGED_COLUMNS:
        value = row.get(column)
        if value is False or (isinstance(value, str) and value.strip().lower() == "false"):
            raise BadRowError(
                Bilingual(
                    f'has an answer to avoid by "{column}": false, as in data for KTO, which would be learned like a good one. Leave such '
                    "rows out; or give the column another name if it means something else.",
                    f"按 {quote(column)}: false（KTO 数据的写法）是应避免的回答，会被当作好的回答学习："
                    "请去掉这样的行；如果该列另有含义，请改名。",
                )
            )


def numbered_turns(turns: list[object]) -> Iterator[tuple[int, object]]:
    """(number, turn) pairs; a question with its answer in one object is two turns, or three with its system prompt."""
    for number, turn in enumerate(turns, start=1):
        if not isinstance(turn, dict) or any(key in turn for key in SPEAKER_KEYS):
            yield number, turn
        else:
            yield from ((number, part) for part in _parts(turn, number))


def text_of(number: int, key: str) -> Bilingual:
    """What is said in a turn as the subject of a sentence, with its key."""
    return Bilingual(quote(f"{key} of turn {number}"), f"第 {number} 轮的 {quote(key)} ")


def _parts(turn: Mapping[str, object], number: int) -> Iterator[object]:
    """The turns of a question with its answer. Raises BadRowError for one that is none or blank, under its own key."""
    keys = next((keys for keys in PAIR_KEYS if set(keys) <= turn.keys()), None)
    if keys is None:
        yield turn
        return
    question, answer = (turn[key] for key in keys)
    if isinstance(answer, list) and keys == ("q", "a") and all(isinstance(line, str) for line in answer):
        answer = "\n".join(answer)
    for key, text in zip(keys, (question, answer), strict=True):
        if not isinstance(text, list):  # parts of a text are joined later
            non_empty_text(text, text_of(number, key))
    system = turn.get("system")
    if system is not None and system != "":
        yield {"role": "system", "content": system}
    rest = {key: value for key, value in turn.items() if key not in (*keys, "system", "metadata")}
    yield {"role": "user", "content": question}
    yield {**rest, "role": "assistant", "content": answer}
