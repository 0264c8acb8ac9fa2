"""The GPUs that a forecast knows: memory, bandwidth, and 16-bit matrix products, as their makers publish them.

`tflops` is the dense rate of tensor cores for 16-bit products that are summed in fp32, which is how networks are trained; on GeForce cards
it is half of the rate that is advertised, which sums in 16 bits. Memory is what PyTorch sees: a card with ECC keeps some for itself.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from imprint.messages import Bilingual, UserError


@dataclass(frozen=True)
class Card:
    """A GPU."""

    name: str
    memory_gib: float
    """Memory that programs can use."""
    gb_per_second: float
    """Bandwidth of its memory, in 10^9 bytes a second."""
    tflops: float
    """10^12 operations of 16-bit products a second, dense, summed in fp32."""
    large_workspace: bool
    """Whether cuBLAS gets 32 MiB for each of its two workspaces, as PyTorch gives it from Hopper on; else 8.1 MiB."""
    source: str
    """Where the figures are published."""

    @property
    def memory_bytes(self) -> int:
        """Memory that programs can use, in bytes."""
        return int(self.memory_gib * 2**30)


_TURING = "NVIDIA Turing GPU architecture whitepaper"
_GA102 = "NVIDIA Ampere GA102 GPU architecture whitepaper; TechPowerUp for cards that it leaves out"
_ADA = "NVIDIA Ada GPU architecture whitepaper; TechPowerUp for cards that it leaves out"
_BLACKWELL = "NVIDIA RTX Blackwell GPU architecture whitepaper"

CARDS: Final[Sequence[Card]] = (
    Card("RTX 3070", 8, 448, 81.3 / 2, False, _GA102),
    Card("RTX 4060", 8, 272, 60.4 / 2, False, _ADA),
    Card("RTX 3080", 10, 760, 119 / 2, False, _GA102),
    Card("RTX 2080 Ti", 11, 616, 53.8, False, _TURING),
    Card("RTX 3060", 12, 360, 51 / 2, False, _GA102),
    Card("RTX 4070", 12, 504, 116.6 / 2, False, _ADA),
    Card("T4", 14.6, 320, 65, False, "NVIDIA T4 data sheet"),
    Card("RTX 4060 Ti", 16, 288, 88.2 / 2, False, _ADA),
    Card("RTX 4080", 16, 717, 194.9 / 2, False, _ADA),
    Card("V100 16GB", 15.8, 900, 125, False, "NVIDIA V100 data sheet"),
    Card("A10", 22.1, 600, 125, False, "NVIDIA A10 data sheet"),
    Card("L4", 22.0, 300, 121, False, "NVIDIA L4 data sheet"),
    Card("RTX 3090", 23.7, 936, 142 / 2, False, _GA102),
    Card("RTX 4090", 23.6, 1008, 330.3 / 2, False, _ADA),
    Card("RTX 5090", 31.4, 1792, 419 / 2, True, _BLACKWELL),
    Card("V100 32GB", 31.7, 900, 125, False, "NVIDIA V100 data sheet"),
    Card("A100 40GB", 39.4, 1555, 312, False, "NVIDIA A100 data sheet"),
    Card("L40S", 44.4, 864, 362, False, "NVIDIA L40S data sheet"),
    Card("A100 80GB", 79.2, 2039, 312, False, "NVIDIA A100 data sheet"),
    Card("H100", 79.1, 3350, 989, True, "NVIDIA H100 data sheet, SXM"),
    Card("H20", 95.0, 4000, 148, True, "NVIDIA H20 data sheet"),
    Card("H200", 139.8, 4800, 989, True, "NVIDIA H200 data sheet"),
)
"""By memory."""
MEMORY: Final = re.compile(r" *(\d+(?:\.\d+)?) *(|[GM]i?B?) *", re.IGNORECASE | re.ASCII)
"""A size of memory; a number without a unit, if it is shorter than that of a card, is refused."""
SHORT_NUMBER: Final = 3
"""Digits of a number that names no card."""
MAX_MEMORY_GIB: Final = 1024
"""No card has more."""


def find_card(name: str) -> Card:
    """The card of this name, as people write it: case and spaces do not matter; or one of a size of memory, such as 8GB.

    Raises UserError for one that is not known.
    """
    if (memory := MEMORY.fullmatch(name)) and (memory[2] or len(memory[1]) <= SHORT_NUMBER):
        return _card_of_size(name.strip(), float(memory[1]), memory[2])
    wanted = _plain(name)
    found = [card for card in CARDS if _plain(card.name) in wanted or wanted in _plain(card.name)]
    exact = [card for card in found if _plain(card.name) == wanted]
    if exact or found:
        return (exact or sorted(found, key=lambda card: -len(card.name)))[0]
    known = ", ".join(f"{card.name} ({card.memory_gib:.0f} GiB)" for card in CARDS)
    raise UserError(
        Bilingual(
            f"--card {name}: is not a card that is known. Known: {known}. Of another one, give the size of its memory, such as --card 8GB.",
            f"--card：没有名为 {name} 的显卡；已知的有 {known}。其他显卡请给出显存大小，例如 --card 8GB。",
        )
    )


def _card_of_size(name: str, number: float, unit: str) -> Card:
    """A card with this memory, as slow as the slowest of those that are next to it in memory."""
    memory_gib = number / 1024 if unit.upper().startswith("M") else number
    if not unit or not 0 < memory_gib <= MAX_MEMORY_GIB:
        raise UserError(
            Bilingual(
                f"--card {name}: must be the name of a card, such as 4090, or a size of memory with its unit, such as 8GB, at most "
                f"{MAX_MEMORY_GIB} GB.",
                f"--card {name}：须为显卡名（例如 4090），或带单位的显存大小（例如 8GB，至多 {MAX_MEMORY_GIB} GB）。",
            )
        )
    nearest = min(abs(card.memory_gib - memory_gib) for card in CARDS)
    slowest = min((card for card in CARDS if abs(card.memory_gib - memory_gib) == nearest), key=lambda card: card.tflops)
    speed = Bilingual(f"as fast as {slowest.name}", f"速度按 {slowest.name}")
    return replace(slowest, name=f"{name} ({speed.line})", memory_gib=memory_gib)


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum()).replace("nvidia", "").replace("geforce", "")
