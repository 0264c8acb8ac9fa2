import json
import random
import time
from collections.abc import Callable
from typing import Any

import pytest

from imprint.serve.json_bounds import MAX_DEPTH, MAX_VALUES, broken_bound


def marks_of(value: Any) -> int:
    """The lists, the objects and the commas between what is in them."""
    if not isinstance(value, dict | list):
        return 0
    return max(1, len(value)) + sum(map(marks_of, value.values() if isinstance(value, dict) else value))


def random_value(rng: random.Random, depth: int) -> Any:
    if depth and rng.random() < 0.6:
        inner = [random_value(rng, depth - 1) for _ in range(rng.randint(0, 5))]
        return inner if rng.random() < 0.5 else {f'"[,{number}': one for number, one in enumerate(inner)}
    return rng.choice(['[{,\\"', 1, None, True, "", ",,,,"])


def test_it_is_the_number_of_values_whatever_stands_in_texts() -> None:
    rng = random.Random(0)
    for _ in range(300):
        value = [random_value(rng, 5) for _ in range(rng.randint(20, 40))]
        assert broken_bound(json.dumps(value), marks_of(value)) is None
        assert broken_bound(json.dumps(value), marks_of(value) - 1) == "values" or marks_of(value) <= MAX_DEPTH


def test_depth_is_bounded() -> None:
    assert broken_bound("[" * MAX_DEPTH + "]" * MAX_DEPTH) is None
    assert broken_bound("[" * (MAX_DEPTH + 1)) == broken_bound("[" * 100_000) == "depth"
    assert broken_bound("[[]," * MAX_DEPTH + "1" + "]" * MAX_DEPTH) == "depth"


@pytest.mark.parametrize("most", [64, MAX_VALUES])
@pytest.mark.parametrize("begin", ["", '[",,,,,"', '[{"a":'])
@pytest.mark.parametrize("rest", ["]", "}", '""', '"a" ', ",", "[]", "[],", '{"a":1},', "[", '{"":'])
def test_what_is_no_json_or_too_much_is_left_soon(begin: str, rest: str, most: int) -> None:
    text = begin + '"' + ",[{" * 40_000 + '"' + rest * (600_000 // len(rest))
    began = time.process_time()
    broken = broken_bound(text, most)
    assert time.process_time() - began < 0.005 + 6e-6 * most
    if broken is None:
        with pytest.raises(json.JSONDecodeError):
            json.loads(text)


def seconds_of(function: Callable[[str], object], text: str) -> float:
    """The processor's, the least of several times."""

    def once() -> float:
        began = time.process_time()
        function(text)
        return time.process_time() - began

    return min(once() for _ in range(7))


def test_to_look_for_a_broken_bound_takes_hardly_longer_than_to_parse() -> None:
    text = json.dumps([{"role": "user", "content": [{"type": "text", "text": "a"}]}] * 4000)
    assert broken_bound(text) is None
    assert seconds_of(broken_bound, text) < 4 * seconds_of(json.loads, text)  # it took seven times as long
