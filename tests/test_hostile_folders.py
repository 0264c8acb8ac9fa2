"""Hostile chat templates and vocabularies are read or refused, in bounded time and memory."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.hostile_folders import chat_templates, vocabularies


def test_there_are_hundreds_of_templates_and_vocabularies() -> None:
    assert len(set(chat_templates())) > 200
    assert len(set(vocabularies())) > 90


@pytest.mark.long
def test_no_hostile_template_or_vocabulary_breaks_a_promise(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.hostile_folders", str(tmp_path)]  # in a process of its own, which forks
    found = subprocess.run(command, check=False, capture_output=True, encoding="utf-8")

    assert " 0 broke a promise" in found.stdout, found.stdout[-5000:] + found.stderr[-2000:]
