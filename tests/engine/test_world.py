import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from imprint.engine.world import SINGLE, World, is_launched, is_orphaned, join_world, report_to_launcher
from imprint.messages import UserError


def refuse() -> int:
    raise UserError("the disk is full.")


def test_collective_calls_of_a_single_process() -> None:
    assert (SINGLE.rank, SINGLE.size, SINGLE.is_main) == (0, 1, True)
    assert SINGLE.all_sum(1.5) == 1.5
    assert SINGLE.any(flag=True)
    assert not SINGLE.any(flag=False)
    assert SINGLE.all_gather("a") == ["a"]
    assert SINGLE.on_all(lambda: 3) == [3]
    assert SINGLE.on_main(lambda: 4) == 4
    with pytest.raises(UserError, match="the disk is full"):
        SINGLE.on_main(refuse)
    with pytest.raises(UserError, match="the disk is full"):
        SINGLE.on_all(refuse)


def test_the_main_context_is_always_left() -> None:
    events: list[str] = []

    @contextmanager
    def context() -> Iterator[None]:
        events.append("in")
        try:
            yield
        finally:
            events.append("out")

    with SINGLE.main_context(context()):
        events.append("here")
    with pytest.raises(UserError), SINGLE.main_context(context()):
        refuse()
    assert events == ["in", "here", "out", "in", "out"]


def test_other_ranks_are_not_main() -> None:
    assert not World(rank=1, size=2, local_rank=1).is_main


def test_a_single_process_joins_no_group(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "IMPRINT_LAUNCHER"):
        monkeypatch.delenv(name, raising=False)
    assert not is_launched()
    assert not is_orphaned()
    with join_world("cpu") as world:
        assert world is SINGLE


def test_a_process_knows_when_its_launcher_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMPRINT_LAUNCHER", str(os.getppid()))
    assert not is_orphaned()
    monkeypatch.setenv("IMPRINT_LAUNCHER", "1073741824")
    assert is_orphaned()


def test_an_error_is_written_for_the_launcher_where_there_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not report_to_launcher(UserError("no."))
    monkeypatch.setenv("IMPRINT_ERRORS", str(tmp_path))
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert report_to_launcher(UserError("磁盘已满。"))
    assert (tmp_path / "error-00001.txt").read_text(encoding="utf-8") == "磁盘已满。"
