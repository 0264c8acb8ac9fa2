"""How long prompts and answers are in tokens, and what a limit costs."""

from collections import Counter
from dataclasses import dataclass, field

from imprint.check.terminal import Style, bar, pad_left
from imprint.messages import Bilingual

BIN_WIDTHS = (1, 2, 4, 5, 8, 10, 16, 20, 25, 32, 50, 64, 100, 128, 200, 256, 500, 512, 1000, 1024, 2000, 5000, 10_000, 100_000, 1_000_000)
MAX_BINS = 12
"""Most lines of a histogram, without the last one for what is far out."""
BAR_COLUMNS = 40
"""Columns of the longest bar."""
LIMIT = Bilingual("limit", "上限")
CUT_SHARE = 0.01
"""The share of rows that a limit may well cut."""


@dataclass
class Lengths:
    """Lengths of one side, and what a limit took from it."""

    limit: int
    """Most tokens there may be, those that steer the model included."""
    counts: Counter[int] = field(default_factory=Counter)
    """Length in tokens, before anything is cut -> how many."""
    cut: int = 0
    """How many lost something."""
    lost: int = 0
    """How many tokens they lost together."""

    def add(self, length: int, kept: int) -> None:
        """Count a length and what is left of it under the limit."""
        self.counts[length] += 1
        if kept < length:
            self.cut += 1
            self.lost += length - kept

    @property
    def total(self) -> int:
        """How many lengths were counted."""
        return self.counts.total()

    @property
    def longer(self) -> int:
        """How many are longer than the limit."""
        return sum(count for length, count in self.counts.items() if length > self.limit)

    def quantile(self, share: float) -> int:
        """The shortest length that so many are not longer than; 0 where nothing was counted."""
        wanted, seen = share * self.total, 0
        for length in sorted(self.counts):
            seen += self.counts[length]
            if seen >= wanted:
                return length
        return 0

    def limit_for(self, share: float) -> int:
        """The smallest limit that cuts at most this share; limits start at four tokens."""
        return max(self.quantile(1 - share), 4)


def summary(lengths: Lengths) -> str:
    """Where the lengths lie, in one phrase."""
    quantiles = [("median", 0.5), ("p90", 0.9), ("p99", 0.99), ("max", 1.0)]
    return " · ".join(f"{name} {lengths.quantile(share):,}" for name, share in quantiles)


def histogram(lengths: Lengths, style: Style) -> list[str]:
    """A line for each range of lengths; what is longer than the limit is drawn in another stroke, and the limit is named where it falls."""
    longest = lengths.quantile(1)
    bounds = _bin_starts(lengths)
    ranges = [(low, high) for low, high in zip(bounds, [*[bound - 1 for bound in bounds[1:]], longest], strict=True)]
    kept = [_count_between(lengths, low, min(high, lengths.limit)) for low, high in ranges]
    over = [_count_between(lengths, max(low, lengths.limit + 1), high) for low, high in ranges]
    labels = [f"{low}" if low == high else f"{low}–{high}" for low, high in ranges]
    column, most = max(map(len, labels)), max(map(sum, zip(kept, over, strict=True)))
    lines = []
    for (low, high), label, inside, outside in zip(ranges, labels, kept, over, strict=True):
        whole = len(bar((inside + outside) / most, BAR_COLUMNS))
        full = bar(inside / most, BAR_COLUMNS)[:whole]
        rest = " " * (BAR_COLUMNS - max(whole, len(full)))
        drawn = style(full, "cyan") + style("░" * (whole - len(full)), "red") + rest
        mark = f"  ◂ {LIMIT.line} {lengths.limit}" if low <= lengths.limit <= high and longest > lengths.limit else ""
        lines.append(f"{pad_left(label, column)} │{drawn} {inside + outside:>{len(f'{most:,}')},}{mark}")
    return lines


def _count_between(lengths: Lengths, low: int, high: int) -> int:
    return sum(count for length, count in lengths.counts.items() if low <= length <= high)


def _bin_starts(lengths: Lengths) -> list[int]:
    """Where the ranges of a histogram start: even steps up to where nearly all rows are, one last range for the rest."""
    shortest, longest = lengths.quantile(0), lengths.quantile(1)
    most = min(lengths.quantile(0.995), 2 * lengths.quantile(0.9))  # of few rows, one long one is the 99.5 % quantile
    far = max(length for length in lengths.counts if length <= most)
    step = next((step for step in BIN_WIDTHS if (far - shortest) // step < MAX_BINS - 1), BIN_WIDTHS[-1])
    bounds = list(range(shortest - shortest % step, far + 1, step))
    return [*bounds, bounds[-1] + step] if bounds[-1] + step <= longest else bounds


def cost(lengths: Lengths, what: str) -> str:
    """What the limit costs, in one phrase."""
    if not lengths.cut:
        return f"none of {lengths.total:,} {what} is cut"
    share = f"{lengths.cut / lengths.total:.1%}".replace("%", " %")
    cut, each = f"{lengths.cut:,} of {lengths.total:,} {what} are cut ({share})", f"{lengths.lost / lengths.cut:.1f} each"
    return f"{cut}: {lengths.lost:,} tokens lost, {each}"
