import asyncio
import gc
import json
import os
import subprocess
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

ROOT = Path(__file__).parents[1]
# Before torch and matplotlib are loaded: one thread a worker, no window, no network.
os.environ |= {"OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg", "HF_HUB_OFFLINE": "1"}
if not Path("/dev/nvidiactl").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # kernels run on the CPU, as they are written; Triton reads it when it is loaded


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
def drilled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What came of the short drills, by name; made once for all tests, also where several workers share them."""
    home = tmp_path_factory.getbasetemp()
    home = home.parent if "PYTEST_XDIST_WORKER" in os.environ else home
    result_file = home / "drilled.json"
    with FileLock(home / "drilled.lock"):
        if not result_file.is_file():
            command = [sys.executable, "-m", "tests.drills", "short", str(home / "drills")]
            done = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8", check=False)
            assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
            result_file.write_text(done.stdout.splitlines()[-1], encoding="utf-8")
    return dict(json.loads(result_file.read_text(encoding="utf-8")))


@pytest.fixture(scope="session", autouse=True)
def _no_pictures() -> Iterator[Any]:
    """No run in this process draws the picture of its loss, which takes longer than all its steps; `drawing` draws it again."""
    with pytest.MonkeyPatch.context() as patched:
        if "imprint.training.sinks" not in sys.modules:
            yield None
            return
        from imprint.training.sinks import Curve

        draw = vars(Curve)["_draw"]
        patched.setattr(Curve, "_draw", lambda _: None)
        yield draw


@pytest.fixture(scope="session", autouse=True)
def _no_waiting_for_the_disk() -> Iterator[None]:
    """Nothing in this process waits until its bytes are on the disk: no test cuts the power."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("os.fsync", lambda _: None)
        yield


@pytest.fixture
def drawing(_no_pictures: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs draw the picture of their loss, as they do outside of tests."""
    monkeypatch.setattr("imprint.training.sinks.Curve._draw", _no_pictures)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test that asks for the folder outside the project."""
    for item in items:
        if "shared" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.shared)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collect no garbage while tests are collected: what is imported then stays, and a third of the time went into looking through it."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


def pytest_collection_finish() -> None:
    """Keep what is loaded by now out of garbage collections, each of which would go through a million objects."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Only the tests of pages see the loop that the shared browser leaves running in the thread of all: `asyncio.run` refuses beside it."""
    loop = asyncio._get_running_loop()
    if item.path.parent.name != "browser":
        asyncio._set_running_loop(None)
    try:
        return (yield)
    finally:
        asyncio._set_running_loop(asyncio._get_running_loop() or loop)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs a GPU where there is none, and begin with exact products where there is one."""
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("there is no CUDA device")
        torch.set_float32_matmul_precision("highest")  # a test that trains leaves TF32 behind
