"""A sink for TensorBoard that writes its event files in the calling thread, so that a disk error becomes a UserError.

TensorBoard's own writer uses another thread, which prints a traceback when the disk is full.
"""

import os
import socket
import time
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event as Record  # type: ignore[import-untyped]
from tensorboard.compat.proto.event_pb2 import SessionLog
from tensorboard.summary.writer.record_writer import RecordWriter  # type: ignore[import-untyped]
from torch.utils.tensorboard.summary import scalar, text

from imprint.events import Evaluation, Event, Notice, Step, WatchedAnswer, event_numbers
from imprint.files.disk_errors import translate_disk_errors


class TensorBoard:
    """Writes one event file; TensorBoard then hides the values of older files in the folder from `step` on."""

    def __init__(self, folder: Path, *, step: int) -> None:
        self.folder = folder
        with translate_disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            older = sum(1 for _file in folder.iterdir())  # TensorBoard reads the files in the order of their names
            name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}.{older:04d}"
            self._file = (folder / name).open("wb")
            self._records = RecordWriter(self._file)
            self._record(Record(wall_time=time.time(), file_version="brain.Event:2"))
            self._record(Record(wall_time=time.time(), step=step, session_log=SessionLog(status=SessionLog.START)))

    def write(self, event: Event) -> None:
        """Write the values of a step or an evaluation, or the text of a watched answer or a notice."""
        with translate_disk_errors(self.folder):
            match event:
                case Step() | Evaluation():
                    for name, value in event_numbers(event).items():
                        self._record(Record(wall_time=time.time(), step=event.step, summary=scalar(name, value)))
                case WatchedAnswer():
                    self._text(event.step, "sample", f"{event.prompt}\n\n{event.answer}")
                case Notice():
                    self._text(event.step, "notice", f"{event.english}\n\n{event.chinese}")
                case _:
                    return
            self._file.flush()

    def close(self) -> None:
        """Close the file."""
        with translate_disk_errors(self.folder):
            self._file.close()

    def _text(self, step: int, name: str, content: str) -> None:
        self._record(Record(wall_time=time.time(), step=step, summary=text(name, content)))

    def _record(self, record: object) -> None:
        self._records.write(record.SerializeToString())  # type: ignore[attr-defined]
