"""Hostile files of rows and recipes are read or refused, in bounded time and memory."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.hostile_data import Outcome, damaged, endless, recipes, watched


def test_a_broken_promise_is_named() -> None:
    assert Outcome("a", 99, 0, 0, "").problem.startswith("status 99")
    assert Outcome("a", 2, 0, 0, "Traceback").problem.startswith("status 2")
    assert Outcome("a", 2, 21, 0, "").problem == "21 s"
    assert Outcome("a", 2, 0, 501, "").problem == "501 MB"
    assert Outcome("a.yaml", 2, 0, 0, "x" * 200_001).problem == "200001 characters"
    assert Outcome("a", 2, 0, 0, "error: no.").problem == ""


def late(path: Path, *, ever: bool, computing: bool = False) -> int:
    """A command that waits or computes for a second, each time or the first time."""
    first = not path.exists()
    path.write_text("was here")
    until = time.monotonic() + 1
    while computing and first and time.monotonic() < until:
        pass
    time.sleep(1 if not computing and (ever or first) else 0)
    return 0


def test_a_machine_that_stood_still_once_is_no_broken_promise_and_a_command_that_waits_is(tmp_path: Path) -> None:
    once = watched("once", tmp_path / "once", lambda path: late(path, ever=False), limit=0.5)
    ever = watched("ever", tmp_path / "ever", lambda path: late(path, ever=True), limit=0.5)
    computed = watched("computed", tmp_path / "computed", lambda path: late(path, ever=False, computing=True), limit=0.1)
    assert once.seconds < 1 <= min(ever.seconds, computed.seconds)


@pytest.mark.long
def test_there_are_hundreds_of_files_of_every_kind() -> None:
    names = [name for files in (damaged, endless, recipes) for name, _content in files()]

    assert len(set(names)) == len(names) > 200
    assert {Path(name).suffix for name in names} >= {".jsonl", ".json", ".csv", ".tsv", ".xlsx", ".parquet", ".arrow", ".yaml"}


@pytest.mark.long
def test_no_hostile_file_breaks_a_promise(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.hostile_data", str(tmp_path)]  # in a process of its own, which forks
    found = subprocess.run(command, check=False, capture_output=True, encoding="utf-8")

    assert " 0 broke a promise" in found.stdout, found.stdout[-5000:] + found.stderr[-2000:]
