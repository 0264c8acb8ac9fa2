from pathlib import Path

from imprint.forecast.cards import find_card
from imprint.training.fit_page import write_forecast
from tests.forecast.test_run import forecast as forecast

__all__ = ["forecast"]


def test_the_page_draws_all_settings_and_escapes_names(forecast, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    write_forecast(forecast, find_card("RTX 4080"), tmp_path / "fit.html")
    page = (tmp_path / "fit.html").read_text(encoding="utf-8")
    assert page.count('class="dot ') == 2
    assert "train.checkpointing=true" in page
    assert "samples a second on RTX 4080" in page
    assert "16 GiB" in page
