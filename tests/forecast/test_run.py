import pytest

from imprint.forecast.cards import find_card
from imprint.forecast.choices import other_choices
from imprint.forecast.estimate import Choice, Term, estimate
from imprint.forecast.run import RunForecast
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


def test_evaluations_take_a_part_of_the_time(forecast: RunForecast) -> None:
    card = find_card("H200")
    assert forecast.seconds(forecast.own, card) > 100 * forecast.own.step_seconds(card)
    assert forecast.samples_per_second(forecast.own, card) == pytest.approx(16 / forecast.own.step_seconds(card))
