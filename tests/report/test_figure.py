import pytest
from matplotlib import font_manager

from imprint.report.figure import CHINESE_FONTS, chinese_fonts, fonts_for, has_glyphs


def test_latin_text_needs_no_further_font() -> None:
    assert fonts_for("loss") == ["DejaVu Sans"]
    assert has_glyphs("é, ≥ 1")


def test_a_font_that_was_installed_after_matplotlib_listed_all_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    manager = font_manager.fontManager
    files = {font.fname for font in manager.ttflist if font.name in CHINESE_FONTS}
    monkeypatch.setattr(manager, "ttflist", [font for font in manager.ttflist if font.fname not in files])
    chinese_fonts.cache_clear()
    found = chinese_fonts()
    chinese_fonts.cache_clear()
    if not any("CJK" in path for path in font_manager.findSystemFonts()):
        pytest.skip("no Chinese font is installed")
    assert found
