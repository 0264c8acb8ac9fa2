from dataclasses import replace
from pathlib import Path

import pytest

from imprint import __version__
from imprint.messages import UserError
from imprint.report.starts import read_starts, record_start, this_start
from imprint.runs import RunFolder


def test_a_start_says_command_versions_and_machine() -> None:
    start = this_start(["train", "a b.yaml", "tune.rank=8"], "cpu", 2)
    assert start.command == "imprint train 'a b.yaml' tune.rank=8"
    assert start.versions.startswith(f"Imprint {__version__}, Python 3.")
    assert "transformers" in start.versions
    assert "GiB" in start.machine
    assert (start.device, start.processes) == ("CPU", 2)
    assert this_start([], "cpu", 1).command == ""


def test_starts_are_kept_in_order_and_a_rescue_adds_none(tmp_path: Path) -> None:
    run, first = RunFolder(tmp_path), this_start(["train", "x.yaml"], "cpu", 1)
    assert read_starts(run) == []
    second = replace(first, time="later")
    for start in (first, first, second):
        record_start(run, start)
    assert read_starts(run) == [first, second]


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.starts.write_text('{"time": 3}\n', encoding="utf-8")
    with pytest.raises(UserError, match=r"starts\.jsonl:1: is not what Imprint wrote"):
        read_starts(run)
