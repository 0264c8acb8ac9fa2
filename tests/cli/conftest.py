"""A function in the place of one that a command imports."""

import sys
from collections.abc import Callable
from types import ModuleType

import pytest

Stand = Callable[[str, str, Callable[..., None]], None]


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Stand:
    """Put a function in the place of one that a command imports."""

    def put(module: str, name: str, function: Callable[..., None]) -> None:
        stand = ModuleType(module)
        setattr(stand, name, function)
        monkeypatch.setitem(sys.modules, module, stand)

    return put
