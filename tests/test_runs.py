import os
from pathlib import Path

import pytest

from imprint.files.atomic import remove_leftovers
from imprint.messages import UserError
from imprint.runs import RunFolder, mark_damaged, step_of


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    run = RunFolder(tmp_path / "run")
    for step in (500, 1000, 20, 1_000_500):
        run.state(step).mkdir(parents=True)
        (run.state(step) / "weights").write_text("")
    (run.path / ".state-002000.part").mkdir()
    (run.path / "state-best").mkdir()
    (run.path / "state-000030").write_text("a file")
    return run


def test_states_are_listed_newest_first_and_only_complete_ones(run: RunFolder) -> None:
    assert [state.name for state in run.states()] == ["state-1000500", "state-001000", "state-000500", "state-000020"]
    assert [step_of(state) for state in run.states()] == [1_000_500, 1000, 500, 20]


def test_a_run_of_a_starter_has_the_name_of_its_folder_in_its_title() -> None:
    assert RunFolder(Path("runs/demo")).title == "demo"
    assert RunFolder(Path("runs/identity/run")).title == "identity/run"
    assert RunFolder(Path("run")).title == f"{Path.cwd().name}/run"


def test_a_run_that_has_not_begun_has_no_states(tmp_path: Path) -> None:
    assert RunFolder(tmp_path / "absent").states() == []


def test_a_run_with_a_link_out_of_it_is_neither_locked_nor_opened(run: RunFolder, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    for name in ("lock", "config.yaml", "report.html", "evaluations", ".report.html.part", "state-000500/extra"):
        (run.path / name).symlink_to(tmp_path / "mine")
        with pytest.raises(UserError, match=r": is a link to .*mine, outside of its folder"), run.lock():
            pass
        (run.path / name).unlink()
    (run.path / "notes").symlink_to(tmp_path / "mine")  # not ours
    with run.lock():
        assert (tmp_path / "mine").read_text() == "mine"


def test_old_states_go_and_the_newest_stay(run: RunFolder) -> None:
    run.keep_newest(2)
    assert [step_of(state) for state in run.states()] == [1_000_500, 1000]
    run.keep_newest(5)
    assert len(run.states()) == 2


def test_the_newest_good_state_stays_while_the_newest_are_in_doubt(run: RunFolder) -> None:
    run.keep_newest(1, good=700)
    assert [step_of(state) for state in run.states()] == [1_000_500, 500]
    run.keep_newest(1, good=1_000_500)
    assert [step_of(state) for state in run.states()] == [1_000_500]


def test_a_damaged_state_is_set_aside_as_often_as_it_takes(run: RunFolder) -> None:
    for _time in range(2):
        run.state(500).mkdir(exist_ok=True)
        assert mark_damaged(run.state(500)).name == "state-000500.damaged"
    assert run.state(500) not in run.states()


def test_a_folder_is_held_by_one_and_free_again_afterwards(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    with run.lock():
        run.config.write_text("kept")
        with pytest.raises(UserError, match=f"process {os.getpid()} trains in this folder"), run.lock():
            pass
    with run.lock():
        assert run.config.read_text() == "kept"


def test_a_state_that_is_being_deleted_is_no_state(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(path: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("shutil.rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        run.keep_newest(3)
    monkeypatch.undo()
    assert [step_of(state) for state in run.states()] == [1_000_500, 1000, 500]
    remove_leftovers(run.path)
    assert not any(entry.name.startswith(".") for entry in run.path.iterdir())


def test_every_name_is_inside_the_folder() -> None:
    run = RunFolder(Path("runs/first"))
    named = [run.config, run.log, run.tensorboard, run.curve, run.adapter, run.evaluations, run.comparison, run.state(5)]
    assert [str(path.relative_to(run.path)) for path in named] == [
        "config.yaml", "log.jsonl", "events", "loss.png", "adapter", "evaluations", "compare", "state-000005",
    ]  # fmt: skip
