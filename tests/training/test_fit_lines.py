from imprint.forecast.cards import find_card
from imprint.forecast.run import RunForecast
from imprint.training.fit_lines import card_lines, forecast_lines, milliseconds, size
from tests.forecast.test_run import forecast as forecast

__all__ = ["forecast"]


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


def test_sizes_and_times_have_the_unit_that_fits() -> None:
    assert size(3 * 2**30) == "3.00 GiB"
    assert size(5 * 2**20) == "5.0 MiB"
    assert milliseconds(0.1284) == "128 ms"
    assert milliseconds(4.21) == "4.2 s"
