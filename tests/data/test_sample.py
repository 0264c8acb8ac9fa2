from dataclasses import FrozenInstanceError

import pytest

from imprint.data.sample import Sample


def test_a_sample_does_not_change() -> None:
    sample = Sample("类型#上衣", "这件上衣很好看。", None, "train.jsonl:1")

    with pytest.raises(FrozenInstanceError):
        sample.query = "类型#裙"  # type: ignore[misc]


def test_samples_of_the_same_text_are_equal() -> None:
    assert Sample("问", "答", (("a", "b"),), "x:1") == Sample("问", "答", (("a", "b"),), "x:1")
