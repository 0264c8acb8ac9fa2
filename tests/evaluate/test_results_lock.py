from pathlib import Path

import pytest

from imprint import UserError
from imprint.evaluate.results_lock import results_lock


def test_a_folder_is_held_by_one_process_and_gone_if_nothing_was_written(tmp_path: Path) -> None:
    with results_lock(tmp_path / "out"):
        with pytest.raises(UserError, match="out: another process writes results into this folder"), results_lock(tmp_path / "out"):
            pass
        with results_lock(tmp_path / "other"):
            pass
    assert not (tmp_path / "out").exists()
