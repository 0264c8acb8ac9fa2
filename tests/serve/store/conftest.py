from collections.abc import Iterator
from pathlib import Path

import pytest

from imprint.serve.store import Store
from tests.serve.stores import Clock, open_store


@pytest.fixture
def clock() -> Clock:
    """The time of the store."""
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Iterator[Store]:
    """A store at its first start."""
    with open_store(tmp_path, now=clock) as made:
        yield made
