from dataclasses import replace

import pytest

from imprint.forecast.cards import find_card
from imprint.forecast.choices import best_fit, by_distance, changed_knobs, fastest_fit, may_be_recommended, other_choices
from imprint.forecast.estimate import Choice, Estimate, estimate
from imprint.quant.names import FormatName
from imprint.tune.section import FullSection, PrefixSection
from tests.forecast.full_shape import plan

OWN = Choice(PrefixSection(length=128, start="random"), None, checkpointing=False, micro_batch=16)


@pytest.fixture(scope="module")
def estimates() -> list[Estimate]:
    """Some of a prefix on ChatGLM-6B, 16 rows at once."""
    others = [replace(OWN, checkpointing=True), *(replace(OWN, checkpointing=True, quantize=name) for name in (8, "int4-g128"))]
    return [estimate(plan(), choice) for choice in (OWN, *others)]


def test_the_recipe_comes_first_and_nothing_twice() -> None:
    choices = other_choices(OWN, 16, quantizable=True)
    assert choices[0] == OWN
    assert all(choice not in choices[:index] for index, choice in enumerate(choices))
    assert {choice.micro_batch for choice in choices} == {1, 2, 4, 8, 16}
    assert {choice.quantize for choice in choices} == {None, 8, "int4-g128"}


def test_a_quantized_base_is_quantized_no_further_and_full_tuning_not_at_all() -> None:
    assert {choice.quantize for choice in other_choices(replace(OWN, quantize=None), 16, quantizable=False)} == {None}
    full = other_choices(replace(OWN, tune=FullSection(method="full")), 16, quantizable=True)
    assert all(choice.quantize is None for choice in full if choice.tune.method == "full")
    assert any(choice.tune.method == "lora" for choice in full)


def test_the_exact_knobs_are_told(estimates: list[Estimate]) -> None:
    for card, knobs in (
        ("A100 40GB", []),
        ("RTX 4080", ["train.checkpointing=true"]),
        ("RTX 4060", ["model.quantize=int4-g128", "train.checkpointing=true"]),
    ):
        found = best_fit(estimates, find_card(card))
        assert found is not None
        assert changed_knobs(OWN, found.choice) == knobs
    shorter = replace(OWN, tune=PrefixSection(length=32, start="random"), micro_batch=1)
    assert changed_knobs(OWN, shorter) == ["tune.length=32", "train.micro_batch_size=1"]
    assert changed_knobs(replace(OWN, tune=FullSection(method="full"), quantize=4), OWN) == ["tune.method=prefix", "model.quantize=null"]


@pytest.mark.parametrize("quantize", [None, pytest.param(8, marks=pytest.mark.long)])
def test_choices_that_are_left_out_would_not_be_told(quantize: FormatName | None) -> None:
    choices = other_choices(replace(OWN, quantize=quantize, micro_batch=1), 1, quantizable=True)
    every = [estimate(plan(), choice) for choice in choices]
    assert by_distance(choices)[0][0] == choices[0]
    numbers = []
    for names in (["H200"], ["RTX 4080", "A100 40GB"], ["RTX 4060"], ["1 GB"]):
        needed, cards = list[Estimate](), [find_card(name) for name in names]
        for group in by_distance(choices):
            if not needed or may_be_recommended(group, needed, cards):
                needed += [every[choices.index(choice)] for choice in group]
        numbers.append(len(needed))
        for card in cards:
            assert best_fit(needed, card) == best_fit(every, card)
            assert fastest_fit(needed, card) == fastest_fit(every, card)
    assert numbers == sorted(numbers)
    assert numbers[0] < numbers[-1] == len(every)


def test_nothing_fits_on_a_card_that_is_too_small(estimates: list[Estimate]) -> None:
    tiny = replace(find_card("RTX 4060"), memory_gib=2)
    assert best_fit(estimates, tiny) is None
    assert fastest_fit(estimates, tiny) is None


def test_the_fastest_that_fits_keeps_method_and_weights(estimates: list[Estimate]) -> None:
    found = fastest_fit(estimates, find_card("H200"))
    assert found is not None
    assert found.choice == OWN
