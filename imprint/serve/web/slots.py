"""How many of something each owner, address or network has at a time."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from imprint.messages import Bilingual
from imprint.serve.web.errors import ApiError


@contextmanager
def counted(counts: Counter[str], key: str) -> Iterator[None]:
    """One more of a key, as long as the block runs."""
    counts[key] += 1
    try:
        yield
    finally:
        counts[key] -= 1
        if not counts[key]:
            del counts[key]


@contextmanager
def slot(counts: Counter[str], key: str, most: int, message: Bilingual) -> Iterator[None]:
    """The same, of at most so many. Raises ApiError with this message if a key has as many."""
    if counts[key] >= most:
        raise ApiError("rate_limited", message, retry_after=2)
    with counted(counts, key):
        yield
