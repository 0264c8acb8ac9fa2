import os
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FIXTURE_MARKS = {"shared": pytest.mark.shared, "chromium": pytest.mark.browser}
# Before torch and matplotlib are loaded: one thread a worker, no window, no network.
os.environ |= {"OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg", "HF_HUB_OFFLINE": "1"}


@pytest.fixture(scope="session")
def repo() -> Path:
    """The root of the project."""
    return ROOT


@pytest.fixture(scope="session")
def golden() -> Path:
    """Tiny random models and what the original computes from them."""
    return ROOT / "tests" / "golden"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real data and tokenizers, which may not be part of the project."""
    folder = Path(os.environ.get("IMPRINT_SHARED", ROOT.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there: it holds data and tokenizers that may not be part of the project")
    return folder


@pytest.fixture(scope="session")
def chromium() -> str:
    """The browser in which pages are opened."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("there is no Chromium: install it to test the pages")
    return found


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give a test that asks for a fixture from outside the project the marker of that name."""
    for item in items:
        for name, mark in FIXTURE_MARKS.items():
            if name in getattr(item, "fixturenames", ()):
                item.add_marker(mark)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs a GPU where there is none."""
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("there is no CUDA device")
