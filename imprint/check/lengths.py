"""Token lengths of prompts and answers, and what a length limit truncates."""

from collections import Counter
from dataclasses import dataclass, field

from imprint.data.limits import MIN_LIMIT, quantile
from imprint.messages import Bilingual
from imprint.terminal import Style, bar, pad_left

BIN_WIDTHS = (1, 2, 4, 5, 8, 10, 16, 20, 25, 32, 50, 64, 100, 128, 200, 256, 500, 512, 1000, 1024, 2000, 5000, 10_000, 100_000, 1_000_000)
MAX_BINS = 12
"""Most bins of a histogram, without the last one for outliers."""
BAR_COLUMNS = 40
"""Terminal columns of the longest bar."""
LIMIT = Bilingual("limit", "上限")
CUT_SHARE = 0.01
"""Acceptable share of truncated rows."""


@dataclass
class Lengths:
    """Lengths of prompts or of answers, and what a limit truncated."""

    limit: int
    """Maximum length in tokens, special tokens included."""
    counts: Counter[int] = field(default_factory=Counter)
    """Length in tokens before truncation -> count."""
    cut: int = 0
    """Number of truncated ones."""
    lost: int = 0
    """Number of tokens they lost together."""

    def add(self, length: int) -> None:
        """Count a length in tokens."""
        self.counts[length] += 1

    def lose(self, tokens: int) -> None:
        """Count what the limit cuts from one of the lengths, if anything."""
        self.cut += tokens > 0
        self.lost += tokens

    @property
    def total(self) -> int:
        """Number of lengths counted."""
        return self.counts.total()

    @property
    def longer(self) -> int:
        """Number of lengths beyond the limit."""
        return sum(count for length, count in self.counts.items() if length > self.limit)

    def quantile(self, share: float) -> int:
        """The smallest length that at least this share of the lengths does not exceed; 0 without lengths."""
        return quantile(self.counts, share)

    def limit_for(self, share: float) -> int:
        """The smallest limit that truncates at most this share; at least four tokens."""
        return max(self.quantile(1 - share), MIN_LIMIT)


def summary(lengths: Lengths, limit: str) -> str:
    """Quantiles of the lengths and the limit, which is called `limit`, as text."""
    quantiles = [("median 中位", 0.5), ("p90", 0.9), ("p99", 0.99), ("max 最长", 1.0)]
    return " · ".join([*(f"{name} {lengths.quantile(share):,}" for name, share in quantiles), f"{limit} {lengths.limit:,}"])


def histogram(lengths: Lengths, style: Style) -> list[str]:
    """A line for each bin; lengths beyond the limit are shaded, and the bin of the limit is marked."""
    longest = lengths.quantile(1)
    bounds = _bin_starts(lengths)
    ranges = [(low, high) for low, high in zip(bounds, [*[bound - 1 for bound in bounds[1:]], longest], strict=True)]
    kept = [_count_between(lengths, low, min(high, lengths.limit)) for low, high in ranges]
    over = [_count_between(lengths, max(low, lengths.limit + 1), high) for low, high in ranges]
    labels = [f"{low}" if low == high else f"{low}–{high}" for low, high in ranges]
    column, most = max(map(len, labels)), max(map(sum, zip(kept, over, strict=True)))
    lines = []
    for (low, high), label, inside, outside in zip(ranges, labels, kept, over, strict=True):
        size = len(bar((inside + outside) / most, BAR_COLUMNS))
        full = bar(inside / most, BAR_COLUMNS)[:size]
        padding = " " * (BAR_COLUMNS - max(size, len(full)))
        drawn = style(full, "cyan") + style("░" * (size - len(full)), "red") + padding
        mark = f"  ◂ {LIMIT.line} {lengths.limit}" if low <= lengths.limit <= high and longest > lengths.limit else ""
        lines.append(f"{pad_left(label, column)} │{drawn} {inside + outside:>{len(f'{most:,}')},}{mark}")
    return lines


def _count_between(lengths: Lengths, low: int, high: int) -> int:
    return sum(count for length, count in lengths.counts.items() if low <= length <= high)


def _bin_starts(lengths: Lengths) -> list[int]:
    """Lower bounds of the bins: equal widths up to where nearly all lengths are, and one last bin for the rest."""
    shortest, longest = lengths.quantile(0), lengths.quantile(1)
    most = min(lengths.quantile(0.995), 2 * lengths.quantile(0.9))  # of few rows, a single long one is the 99.5 % quantile
    far = max(length for length in lengths.counts if length <= most)
    step = next((step for step in BIN_WIDTHS if (far - shortest) // step < MAX_BINS - 1), BIN_WIDTHS[-1])
    bounds = list(range(shortest - shortest % step, far + 1, step))
    return [*bounds, bounds[-1] + step] if bounds[-1] + step <= longest else bounds


def cost(lengths: Lengths, noun: Bilingual) -> Bilingual:
    """What the limit truncates; `noun` names what is counted."""
    if not lengths.cut:
        return Bilingual(f"none of {lengths.total:,} {noun.english} is cut", f"{lengths.total:,} 条{noun.chinese}均未截断")
    share, each = f"{lengths.cut / lengths.total:.1%}".replace("%", " %"), f"{lengths.lost / lengths.cut:.1f}"
    return Bilingual(
        f"{lengths.cut:,} of {lengths.total:,} {noun.english} are cut ({share}): {lengths.lost:,} tokens lost, {each} each",
        f"{lengths.total:,} 条{noun.chinese}中有 {lengths.cut:,} 条被截断（{share}），共丢 {lengths.lost:,} 个词元，平均每条 {each} 个",
    )
