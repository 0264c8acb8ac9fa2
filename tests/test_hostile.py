import subprocess
import sys
from pathlib import Path

import pytest

from tests.hostile import SWEEPS


def told(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """What a sweep or a drill prints, in a process of its own, which forks."""
    return subprocess.run([sys.executable, "-m", module, *arguments], check=False, capture_output=True, encoding="utf-8")


@pytest.mark.long
@pytest.mark.parametrize("kind", SWEEPS)
def test_no_changed_file_of_a_stranger_ends_in_a_traceback_or_changes_anything_else(tmp_path: Path, kind: str) -> None:
    found = told("tests.hostile", kind, str(tmp_path), "--count", "60", "--seed", "1")
    assert found.returncode == 0, found.stdout + found.stderr
    assert '"broken": []' in found.stdout


@pytest.mark.long
def test_what_is_made_of_a_run_is_complete_and_alone_however_often_it_is_killed(tmp_path: Path) -> None:
    found = told("tests.drilled_results", str(tmp_path), "--kills", "60", "--seed", "1")
    assert found.returncode == 0, found.stdout + found.stderr
    assert '"broken": []' in found.stdout
