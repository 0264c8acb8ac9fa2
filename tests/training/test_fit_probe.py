from pathlib import Path

import pytest

from imprint.config import read_recipe
from imprint.messages import UserError
from imprint.training.fit import plan_run
from imprint.training.fit_probe import measured_bytes
from imprint.training.recipe import Recipe
from tests.tinyrun import tiny_recipe


def test_the_longest_rows_are_computed_and_no_run_is_written(tmp_path: Path) -> None:
    run, told = plan_run(read_recipe(tiny_recipe(tmp_path), ["train.micro_batch_size=2"], Recipe)), list[str]()
    assert measured_bytes(run, lambda notice: told.append(notice.english)) > 2**20
    longest = sum(len(row.ids) for row in run.split.longest_rows(2))
    assert [line.partition(" need ")[0] for line in told] == [f"the longest 2 rows ({longest} tokens)"]
    assert not (tmp_path / "run").exists()


def test_several_processes_are_refused(tmp_path: Path) -> None:
    run = plan_run(read_recipe(tiny_recipe(tmp_path), ["engine.processes=2"], Recipe))
    with pytest.raises(UserError, match="--probe: computes in one process"):
        measured_bytes(run, lambda _told: None)
