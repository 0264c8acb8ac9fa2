import tracemalloc

import pytest

from imprint.check.duplicates import Digests, Locations, contradicting, duplicated, leaked, leaked_questions


def digests(*rows: tuple[str, str], file: str = "a.jsonl") -> Digests:
    result = Digests()
    for line, (asked, answer) in enumerate(rows, start=1):
        result.append(f"{file}:{line}", [asked], answer)
    return result


def test_a_row_that_is_there_twice_is_found_with_the_row_it_repeats() -> None:
    assert list(duplicated(digests(("问", "答"), ("问", "另"), ("问", "答"), ("x", "y"), ("问", "答")))) == [(2, 0), (4, 0)]


def test_a_question_with_another_answer_is_no_duplicate_but_is_reported() -> None:
    rows = digests(("问", "答"), ("问", "另"), ("问", "答"), ("问", "另"), ("x", "答"))
    assert list(contradicting(rows)) == [(1, 0)]


def test_what_is_asked_and_what_is_answered_are_not_run_together() -> None:
    assert len(duplicated(digests(("ab", "c"), ("a", "bc")))) == 0
    one, other = Digests(), Digests()
    one.append("a:1", ["你", "好"], "答")
    other.append("b:1", ["你好"], "答")
    assert len(leaked(one, other)) == 0


def test_rows_of_both_files_are_found_by_row_and_by_question() -> None:
    train, dev = digests(("问", "答"), ("问", "另"), ("x", "y"), ("z", "z")), digests(("q", "r"), ("问", "答"), ("z", "z"), file="dev")
    assert list(leaked(train, dev)) == [(0, 1), (3, 2)]
    assert list(leaked_questions(train, dev)) == [(1, 1)]
    assert dev.locations[1] == "dev:2"


def test_rows_on_one_line_keep_their_numbers() -> None:
    locations = Locations()
    for location in ("a.json:1", "a.json:1, row 2", "b.json:1, row 3"):
        locations.append(location)
    assert [locations[row] for row in range(3)] == ["a.json:1", "a.json:1, row 2", "b.json:1, row 3"]


def test_no_rows_repeat_nothing() -> None:
    assert len(duplicated(Digests())) == len(leaked(digests(("a", "b")), Digests())) == len(leaked(Digests(), digests(("a", "b")))) == 0


@pytest.mark.parametrize("location", ["a.jsonl:1", "b.xlsx!Sheet:2:12", "c:7"])
def test_a_location_is_restored(location: str) -> None:
    locations = Locations()
    locations.append("a.jsonl:3")
    locations.append(location)
    assert locations[1] == location


def test_a_row_takes_a_few_bytes() -> None:
    tracemalloc.start()
    try:
        result = digests(*((f"question {number % 7_500}", "answer") for number in range(10_000)))
        size, _peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert size < 48 * 10_000
    assert len(duplicated(result)) == 2_500
