from dataclasses import replace

from tests.report.made import run_report


def test_new_texts_are_counted_over_the_examples() -> None:
    filled = run_report().filled
    assert filled is not None
    assert (filled.before, filled.after, filled.rows) == (0, 11, 12)
    assert replace(run_report(), fill_texts=()).filled is None
