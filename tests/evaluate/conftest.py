import shutil
from pathlib import Path
from typing import Any

import pytest

import imprint.evaluate.answering as answering
from imprint.cli import main
from imprint.runs import RunFolder
from tests.evaluate.answers import Ask
from tests.tinyrun import talking_run


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return talking_run(tmp_path_factory.mktemp("evaluate"))


@pytest.fixture(scope="session")
def rows(run: RunFolder) -> Path:
    return run.path.parent / "rows.jsonl"


@pytest.fixture
def ask(run: RunFolder, rows: Path, tmp_path: Path) -> Ask:
    """Evaluate with some knobs; returns the folder of the answers."""

    def ask(*knobs: str, folder: Path = run.path, name: str = "answers", limit: int | None = None) -> Path:
        command = ["evaluate", str(folder), "--data", str(rows), *(["--limit", str(limit)] if limit else [])]
        assert main([*command, f"output={tmp_path / name}", *knobs]) == 0
        return tmp_path / name

    return ask


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows were really answered, batch by batch."""
    seen: list[int] = []
    answer = answering._answer_batch

    def counted(batch: list[int], questions: Any, model: Any, section: Any, check: Any) -> list[dict[str, Any]]:
        seen.append(len(batch))
        return answer(batch, questions, model, section, check)

    monkeypatch.setattr(answering, "_answer_batch", counted)
    return seen


@pytest.fixture
def changed(run: RunFolder, tmp_path: Path) -> tuple[RunFolder, Path]:
    """A copy of a run with a training file of its own, and that file."""
    copy, rows = RunFolder(tmp_path / "copy"), tmp_path / "other.jsonl"
    shutil.copytree(run.path, copy.path)
    shutil.copy(run.path.parent / "other.jsonl", rows)
    config = copy.config.read_text(encoding="utf-8")
    copy.config.write_text(config.replace(str(run.path.parent / "other.jsonl"), str(rows)), encoding="utf-8")
    return copy, rows
