"""The names of weight formats and kernels, as a recipe has them; without torch, so that recipes are read without it."""

from typing import Final, Literal, get_args

from imprint.messages import Bilingual

FormatName = Literal[4, 8, "int4-g128", "fp8"]
"""The original's formats are named by their bits."""
KernelChoice = Literal["auto", "plain"]
"""Kernels in Triton where they run and are faster, or PyTorch alone."""
FORMAT_NAMES: Final[tuple[FormatName, ...]] = get_args(FormatName)


def format_title(name: FormatName) -> str:
    """The name in one word, as in `--to int8`."""
    return f"int{name}" if isinstance(name, int) else name


def format_label(name: FormatName) -> Bilingual:
    """The name in a sentence: quantized to ..."""
    return Bilingual(f"{name} bits", f" {name} 位") if isinstance(name, int) else Bilingual(name, f" {name} ")
