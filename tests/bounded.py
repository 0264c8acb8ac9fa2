"""A bound on the work of a test that holds on any processor, loaded or not."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def cpu_time(*, at_most: float) -> Iterator[None]:
    """Fail if this block takes more CPU seconds, which are many times what it needs: a quadratic method takes minutes."""
    start = time.process_time()
    yield
    assert time.process_time() - start < at_most
