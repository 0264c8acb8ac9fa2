"""Matplotlib figures: colours, fonts that have Chinese characters, and writing a picture."""

import warnings
from contextlib import suppress
from functools import cache
from pathlib import Path

from matplotlib import font_manager
from matplotlib.figure import Figure

from imprint.files.disk_errors import translate_disk_errors

# The palette of Okabe and Ito, distinguishable under every kind of colour blindness.
BLUE, VERMILION, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#AA4499"
INK, FAINT = "#2B2B2B", "#D9D9D9"
DOTS_PER_INCH = 120
FIRST_CHINESE = 0x2E80
"""Matplotlib's own font has almost no glyphs from this code point on."""
CHINESE_FONTS = (
    "Noto Sans CJK SC",
    "Source Han Sans SC",
    "PingFang SC",
    "Microsoft YaHei",
    "WenQuanYi Micro Hei",
    "SimHei",
    "Noto Sans CJK JP",
)
"""The last is how older matplotlib versions name the first font of a Noto collection file."""


def fonts_for(text: str) -> list[str]:
    """Fonts for a text: matplotlib's own, and the installed Chinese fonts if the text is not ASCII."""
    return ["DejaVu Sans", *(() if text.isascii() else chinese_fonts())]


@cache
def chinese_fonts() -> tuple[str, ...]:
    """The installed fonts of `CHINESE_FONTS`, including those installed after matplotlib cached its font list."""
    manager = font_manager.fontManager
    if not (names := _known_fonts()):
        for path in set(font_manager.findSystemFonts()) - {font.fname for font in manager.ttflist}:
            with suppress(OSError, RuntimeError):  # not a font that matplotlib can read
                manager.addfont(path)
        names = _known_fonts()
    return names


def _known_fonts() -> tuple[str, ...]:
    known = {font.name for font in font_manager.fontManager.ttflist}
    return tuple(name for name in CHINESE_FONTS if name in known)


def has_glyphs(text: str) -> bool:
    """Whether the fonts for a text have its characters: always for Latin, for Chinese if such a font is installed."""
    return all(ord(letter) < FIRST_CHINESE for letter in text) or len(fonts_for(text)) > 1


def save_figure(figure: Figure, out: Path) -> None:
    """Write the figure atomically, without fsync: the next refresh replaces it."""
    temporary = out.with_name(f".{out.name}.part")
    with translate_disk_errors(out), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # the title's script is in no installed font
        out.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(temporary, format="png", metadata={"Software": "Imprint"})
        temporary.replace(out)
