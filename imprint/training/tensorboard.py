"""TensorBoard's event files, written by the thread that logs: what the disk refuses is raised here, where it becomes a sentence.

TensorBoard's own writer works in a thread of its own, which prints a traceback when the disk is full.
"""

import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # type: ignore[import-untyped]
from tensorboard.summary.writer.record_writer import RecordWriter  # type: ignore[import-untyped]
from torch.utils.tensorboard.summary import scalar, text

from imprint.files import translate_disk_errors


class Events:
    """One open event file; TensorBoard hides what older files of the folder say of `step` and of later steps."""

    def __init__(self, folder: Path, *, step: int) -> None:
        self.folder = folder
        with translate_disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            older = sum(1 for _file in folder.iterdir())  # two of one second are read in their order
            name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}.{older:04d}"
            self._file = (folder / name).open("wb")
            self._records = RecordWriter(self._file)
            self._write(Event(wall_time=time.time(), file_version="brain.Event:2"))
            self._write(Event(wall_time=time.time(), step=step, session_log=SessionLog(status=SessionLog.START)))

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        """Log numbers, each under its name."""
        with translate_disk_errors(self.folder):
            for name, value in values.items():
                self._write(Event(wall_time=time.time(), step=step, summary=scalar(name, value)))
            self._file.flush()

    def text(self, step: int, name: str, words: str) -> None:
        """Log a text."""
        with translate_disk_errors(self.folder):
            self._write(Event(wall_time=time.time(), step=step, summary=text(name, words)))
            self._file.flush()

    def close(self) -> None:
        """Bring everything to the file."""
        with translate_disk_errors(self.folder):
            self._file.close()

    def _write(self, event: object) -> None:
        self._records.write(event.SerializeToString())  # type: ignore[attr-defined]
