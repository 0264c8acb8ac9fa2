"""The forecast of a run as lines of text."""

from collections.abc import Iterator, Sequence
from typing import Final

from imprint.forecast.cards import CARDS, Card
from imprint.forecast.choices import best_fit, changed_knobs, fastest_fit
from imprint.forecast.estimate import Term
from imprint.forecast.run import RunForecast
from imprint.messages import Bilingual
from imprint.progress import clock
from imprint.terminal import pad_left, pad_right, table_lines

GIB: Final = 2**30
MIB: Final = 2**20


def forecast_lines(forecast: RunForecast, card: Card | None) -> Iterator[str]:
    """The forecast as text. `card`: the only one that is wanted; None for all."""
    own = forecast.own
    yield Bilingual(f"forecast of {forecast.name}", f"{forecast.name} 的预测").line
    yield Bilingual(
        f"base {forecast.base}: {forecast.parameters / 1e6:,.1f} M parameters, {own.trained / 1e6:,.2f} M are trained",
        f"底座参数 {forecast.parameters / 1e6:,.1f} M，训练其中 {own.trained / 1e6:,.2f} M",
    ).line
    yield forecast.data.line
    yield ""
    yield Bilingual("memory of a GPU at its peak, in the step of the longest rows", "单卡显存峰值（最长的行所在的一步）").line
    yield from _term_lines([*own.terms])
    yield _term_line(Bilingual("all tensors", "张量合计"), own.peak_bytes)
    yield _term_line(Bilingual("CUDA context and memory in pieces, beside them", "另加 CUDA 上下文与显存碎片"), own.beside_bytes)
    if forecast.cache.nbytes:
        yield _term_line(forecast.cache.name, forecast.cache.nbytes)
    yield ""
    yield Bilingual("disk", "磁盘").line
    yield from _term_lines(forecast.disk)
    yield ""
    yield from card_lines(forecast, CARDS if card is None else [card])


def card_lines(forecast: RunForecast, cards: Sequence[Card]) -> Iterator[str]:
    """For each card: whether the recipe fits, how long it takes, and what would make it fit or faster."""
    yield from table_lines([tuple(name.line for name in COLUMNS), *(_card_cells(forecast, card) for card in cards)])
    yield Bilingual(
        "memory is within a few percent; times are estimates from the cards' published rates",
        "显存误差在百分之几以内；时间按显卡公布的性能估算",
    ).line


def _card_cells(forecast: RunForecast, card: Card) -> tuple[str, ...]:
    own = forecast.own
    fits = own.fits(card)
    as_it_is = (milliseconds(own.step_seconds(card)), clock(forecast.seconds(own, card))) if fits else ("-", "-")
    other = fastest_fit(forecast.estimates, card) if fits else best_fit(forecast.estimates, card)
    if other is None:
        advice = NOTHING_FITS.line
    elif fits and other.step_seconds(card) > FASTER * own.step_seconds(card):
        advice = ""
    else:
        knobs = " ".join(changed_knobs(own.choice, other.choice))
        advice = f"{knobs}: {size(other.needed_bytes(card))}, {clock(forecast.seconds(other, card))}"
    return (f"{card.name}, {card.memory_gib:.4g} GiB", YES.line if fits else NO.line, *as_it_is, advice)


COLUMNS: Final = (
    Bilingual("card", "显卡"),
    Bilingual("fits", "放得下"),
    Bilingual("a step", "每步"),
    Bilingual("the run", "全程"),
    Bilingual("fits, or is faster, with", "这样放得下或更快"),
)
YES, NO = Bilingual("yes", "是"), Bilingual("no", "否")
FASTER: Final = 0.95
"""A setting is worth telling if a step takes at most this share of the recipe's."""
AS_IT_IS: Final = Bilingual("the recipe as it is", "配方原样")
NOTHING_FITS: Final = Bilingual("does not fit: take a smaller base, or shorter rows", "放不下：请换更小的底座或缩短数据")


def size(nbytes: int) -> str:
    """Bytes as GiB, or as MiB where they are few."""
    return f"{nbytes / GIB:.2f} GiB" if nbytes >= GIB / 10 else f"{nbytes / MIB:.1f} MiB"


def milliseconds(seconds: float) -> str:
    """Seconds of a step, in the unit that fits."""
    return f"{seconds:.1f} s" if seconds >= 1 else f"{1e3 * seconds:.0f} ms"


def _term_lines(terms: Sequence[Term]) -> Iterator[str]:
    for term in terms:
        yield _term_line(term.name, term.nbytes)


def _term_line(name: Bilingual, nbytes: int) -> str:
    return f"  {pad_right(name.line, 78)}{pad_left(size(nbytes), 12)}"
