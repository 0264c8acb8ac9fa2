import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from imprint.engine.crew import ALONE, Crew, join, launched, leave_word, orphaned
from imprint.errors import UserError


def refuse() -> int:
    raise UserError("the disk is full.")


def test_one_process_agrees_with_itself() -> None:
    assert (ALONE.rank, ALONE.count, ALONE.leads) == (0, 1, True)
    assert ALONE.total(1.5) == 1.5
    assert ALONE.anybody(says=True)
    assert not ALONE.anybody(says=False)
    assert ALONE.gather("a") == ["a"]
    assert ALONE.together(lambda: 3) == [3]
    assert ALONE.of_leader(lambda: 4) == 4
    with pytest.raises(UserError, match="the disk is full"):
        ALONE.of_leader(refuse)
    with pytest.raises(UserError, match="the disk is full"):
        ALONE.together(refuse)


def test_a_shared_place_is_left_in_every_case() -> None:
    told: list[str] = []

    @contextmanager
    def place() -> Iterator[None]:
        told.append("in")
        try:
            yield
        finally:
            told.append("out")

    with ALONE.shared(place()):
        told.append("here")
    with pytest.raises(UserError), ALONE.shared(place()):
        refuse()
    assert told == ["in", "here", "out", "in", "out"]


def test_the_others_do_not_lead() -> None:
    assert not Crew(rank=1, count=2, local_rank=1).leads


def test_a_process_by_itself_joins_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "IMPRINT_LAUNCHER"):
        monkeypatch.delenv(name, raising=False)
    assert not launched()
    assert not orphaned()
    with join("cpu") as crew:
        assert crew is ALONE


def test_a_process_knows_when_its_launcher_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMPRINT_LAUNCHER", str(os.getppid()))
    assert not orphaned()
    monkeypatch.setenv("IMPRINT_LAUNCHER", "1073741824")
    assert orphaned()


def test_a_sentence_is_left_for_the_launcher_where_there_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not leave_word(UserError("no."))
    monkeypatch.setenv("IMPRINT_ERRORS", str(tmp_path))
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert leave_word(UserError("磁盘已满。"))
    assert (tmp_path / "error-00001.txt").read_text(encoding="utf-8") == "磁盘已满。"
