"""A bound on the tokens of a prompt: a text that must have more is refused before it is encoded, which takes ten times as long."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

from imprint.messages import Bilingual, UserError

MARGIN: Final = 1024
"""Characters by which the beginning of a text may be longer than as a part of the text: normalization joins letters with what follows
them, and drops spaces."""
_MOST: Final[ContextVar[int | None]] = ContextVar("most", default=None)


class TooManyTokensError(UserError):
    """A prompt has more tokens than the block allows in which it is encoded."""

    def __init__(self, least: int, about: int) -> None:
        super().__init__(Bilingual(f"the prompt has more than {least - 1} tokens.", f"提示超过 {least - 1} 个词元。"))
        self.least = least
        """Tokens that it has at least."""
        self.about = about
        """About as many as it has at least, extrapolated from its beginning."""


@contextmanager
def at_most_tokens(most: int) -> Iterator[None]:
    """Inside this block a prompt that is known to have more tokens raises TooManyTokensError; not each that has more is known to."""
    token = _MOST.set(most)
    try:
        yield
    finally:
        _MOST.reset(token)


def refuse_more_tokens(count: int) -> None:
    """Raise TooManyTokensError if a prompt with this many tokens so far has more than it may have."""
    most = _MOST.get()
    if most is not None and count > most:
        raise TooManyTokensError(count, count)


def refuse_long_text(text: str, longest: int | None, count: Callable[[str], int]) -> None:
    """Raise TooManyTokensError for a text that must have more tokens than a prompt may have, whatever these are.

    `longest`: units of the longest token; None if that is unknown, as where a token may stand for any word. `count`: the units of a text,
    normalized, each of which is in a token. A long text is refused by its beginning, if that is too long already.
    """
    most = _MOST.get()
    if most is None or longest is None or not isinstance(text, str):
        return
    begin = text[: most * longest + 2 * MARGIN]
    for part, margin in ((begin, MARGIN), (text, 0)) if len(begin) < len(text) else ((text, 0),):
        units = count(part) - margin
        if units > most * longest:
            raise TooManyTokensError(-(-units // longest), round(units / longest * len(text) / len(part)))
