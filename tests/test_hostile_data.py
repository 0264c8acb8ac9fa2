"""Hostile files of rows and recipes are read or refused, in bounded time and memory."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.hostile_data import Outcome, damaged, endless, recipes


def test_a_broken_promise_is_named() -> None:
    assert Outcome("a", 99, 0, 0, "").problem.startswith("status 99")
    assert Outcome("a", 2, 0, 0, "Traceback").problem.startswith("status 2")
    assert Outcome("a", 2, 21, 0, "").problem == "21 s"
    assert Outcome("a", 2, 0, 501, "").problem == "501 MB"
    assert Outcome("a.yaml", 2, 0, 0, "x" * 200_001).problem == "200001 characters"
    assert Outcome("a", 2, 0, 0, "error: no.").problem == ""


def test_there_are_hundreds_of_files_of_every_kind() -> None:
    names = [name for files in (damaged, endless, recipes) for name, _content in files()]

    assert len(set(names)) == len(names) > 200
    assert {Path(name).suffix for name in names} >= {".jsonl", ".json", ".csv", ".tsv", ".xlsx", ".parquet", ".arrow", ".yaml"}


@pytest.mark.long
def test_no_hostile_file_breaks_a_promise(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.hostile_data", str(tmp_path)]  # in a process of its own, which forks
    found = subprocess.run(command, check=False, capture_output=True, encoding="utf-8")

    assert " 0 broke a promise" in found.stdout, found.stdout[-5000:] + found.stderr[-2000:]
