import pytest

from imprint.forecast.cards import find_card
from imprint.forecast.choices import other_choices
from imprint.forecast.estimate import Choice, Term, estimate
from imprint.forecast.run import RunForecast, card_lines, forecast_lines, milliseconds, size
from imprint.messages import Bilingual
from imprint.tune.section import PrefixSection
from tests.forecast.full_shape import plan


@pytest.fixture(scope="module")
def forecast() -> RunForecast:
    """A prefix on ChatGLM-6B in 16 bits: the recipe, and with checkpointing."""
    own = Choice(PrefixSection(length=128, start="random"), None, checkpointing=False, micro_batch=16)
    checkpointed = next(choice for choice in other_choices(own, 16, quantizable=True) if choice.checkpointing)
    estimates = [estimate(plan(), choice) for choice in (own, checkpointed)]
    disk = [Term(Bilingual("states", "状态"), 3 * 2**30)]
    return RunForecast("r.yaml", "base", 6 * 10**9, Bilingual("rows", "行"), estimates, 16, 100, 40, disk, Term(Bilingual("c", "c"), 0))


def test_the_lines_add_up_to_the_peak(forecast: RunForecast) -> None:
    lines = list(forecast_lines(forecast, None))
    assert any("all tensors" in line and size(sum(term.nbytes for term in forecast.own.terms)) in line for line in lines)
    assert any("states / 状态" in line and "3.00 GiB" in line for line in lines)


def test_a_card_is_told_whether_it_fits_and_what_makes_it_fit(forecast: RunForecast) -> None:
    cards = [find_card(name) for name in ("H200", "RTX 4080", "RTX 4060")]
    _, large, medium, small, _ = card_lines(forecast, cards)
    assert "yes / 是" in large
    assert "no / 否" in medium
    assert "train.checkpointing=true" in medium
    assert "does not fit: take a smaller base" in small


def test_evaluations_take_a_part_of_the_time(forecast: RunForecast) -> None:
    card = find_card("H200")
    assert forecast.seconds(forecast.own, card) > 100 * forecast.own.step_seconds(card)
    assert forecast.samples_per_second(forecast.own, card) == pytest.approx(16 / forecast.own.step_seconds(card))


def test_sizes_and_times_have_the_unit_that_fits() -> None:
    assert size(3 * 2**30) == "3.00 GiB"
    assert size(5 * 2**20) == "5.0 MiB"
    assert milliseconds(0.1284) == "128 ms"
    assert milliseconds(4.21) == "4.2 s"
