import errno
import threading
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

from imprint.events import Notice
from imprint.messages import UserError
from imprint.training.tensorboard import TensorBoard
from tests.logged import sample, step


def numbers_of(folder: Path, name: str) -> list[tuple[int, float]]:
    return [(event.step, round(event.value, 4)) for event in EventAccumulator(str(folder)).Reload().Scalars(name)]


def test_tensorboard_reads_numbers_and_texts_while_they_are_written(tmp_path: Path) -> None:
    board = TensorBoard(tmp_path / "events", step=1)
    board.write(step(1, 2.5, learning_rate=0.25))
    board.write(step(2, 1.5))
    board.write(sample(2, "你好"))
    board.write(Notice(step=2, source="guard", english="a spike", chinese="突变"))
    assert numbers_of(tmp_path / "events", "train/loss") == [(1, 2.5), (2, 1.5)]
    assert numbers_of(tmp_path / "events", "train/learning_rate") == [(1, 0.25), (2, 0.01)]
    assert EventAccumulator(str(tmp_path / "events")).Reload().Tags()["tensors"] == ["sample/text_summary", "notice/text_summary"]
    board.close()


def test_a_file_that_goes_on_hides_the_later_steps_of_the_one_before(tmp_path: Path) -> None:
    for first, value in ((1, 10.0), (3, 30.0), (2, 20.0)):
        board = TensorBoard(tmp_path, step=first)
        for number in range(first, 5):
            board.write(step(number, value + number))
        board.close()
    assert numbers_of(tmp_path, "train/loss") == [(1, 11), (2, 22), (3, 23), (4, 24)]


def test_no_thread_writes_behind_our_back_and_a_full_disk_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = threading.active_count()
    board = TensorBoard(tmp_path / "events", step=1)
    assert threading.active_count() == before

    def full() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    class Full:
        def write(self, data: bytes) -> None:
            full()

    monkeypatch.setattr(board, "_records", Full())
    with pytest.raises(UserError, match="events: cannot be written: no space is left on the disk"):
        board.write(step(1, 1.0))
    board.close()


def test_a_folder_that_cannot_be_made_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "events").write_text("a file")
    with pytest.raises(UserError, match="a part of the path is a file"):
        TensorBoard(tmp_path / "events", step=1)
