"""The turns of a conversation in the forms in which they are published.

Sources: OpenAI (role/content), ShareGPT (from/value), yangjianxin1/Firefly (human/assistant), InternLM/xtuner's dataset_format.md
(system/input/output), ssbuild/chatglm_finetuning (q/a, an answer being a text or a list of lines).
"""

from collections.abc import Iterator, Mapping
from typing import Final

TURN_KEYS: Final = (("role", "content"), ("from", "value"))
"""The keys of a turn: who speaks, and what."""
PAIR_KEYS: Final = (("human", "assistant"), ("input", "output"), ("q", "a"))
"""The keys of a question and its answer in one object."""
OWN_KEYS: Final = (*TURN_KEYS, ("human", "assistant"), ("q", "a"))
"""Keys that only turns have; those of xtuner are columns of rows, too."""


def is_turn(value: object) -> bool:
    """Whether a value of a list is a turn, and not a row."""
    return isinstance(value, dict) and any(set(keys) <= value.keys() for keys in OWN_KEYS) and "summary" not in value


def is_conversation(value: object) -> bool:
    """Whether a value is a bare list of turns."""
    return isinstance(value, list) and bool(value) and all(is_turn(turn) for turn in value)


def numbered_turns(turns: list[object]) -> Iterator[tuple[int, object]]:
    """(number, turn) pairs; a question with its answer in one object is two turns, or three with its system text."""
    for number, turn in enumerate(turns, start=1):
        if not isinstance(turn, dict) or "role" in turn or "from" in turn:
            yield number, turn
        else:
            yield from ((number, part) for part in _parts(turn))


def _parts(turn: Mapping[str, object]) -> Iterator[object]:
    keys = next((keys for keys in PAIR_KEYS if set(keys) <= turn.keys()), None)
    if keys is None:
        yield turn
        return
    question, answer = (turn[key] for key in keys)
    if isinstance(answer, list) and keys == ("q", "a") and all(isinstance(line, str) for line in answer):
        answer = "\n".join(answer)
    system = turn.get("system")
    if system is not None and system != "":
        yield {"role": "system", "content": system}
    learned = {"loss": False} if turn.get("output_with_loss", turn.get("loss")) is False or turn.get("weight") == 0 else {}
    yield {"role": "user", "content": question}
    yield {"role": "assistant", "content": answer, **learned}
