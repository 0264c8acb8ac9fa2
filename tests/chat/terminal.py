"""A program in a terminal of its own, typed into and read from as by a person; not on Windows."""

import codecs
import os
import pty
import re
import select
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[=>]|\r")
SENT = "\x1b[?2004l"
"""And off when it has read."""
READY = "\x1b[?2004h"
"""An editor turns bracketed paste on when it begins to read."""
OWN_TERMINAL = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execvp(sys.argv[1], sys.argv[1:])"
"""Makes the terminal the controlling one, so that Ctrl-C reaches the program as a signal."""
PATIENCE_SECONDS = 60.0


class Terminal:
    """Starts `command` in a pseudo-terminal of 100 columns."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self._master, slave = pty.openpty()
        size = {"COLUMNS": "100", "LINES": "40", "TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-c", OWN_TERMINAL, *command],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={**os.environ, **size, **environment},
            start_new_session=True,
        )
        os.close(slave)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._seen = 0
        self.raw = ""

    def __enter__(self) -> Self:
        """The running program."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """End it, if it has not ended by itself."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        os.close(self._master)

    def type(self, text: str) -> None:
        """Press these keys."""
        os.write(self._master, text.encode())

    def until(self, text: str) -> str:
        """What is shown from where the last call ended, up to and with `text`, without what steers the terminal."""
        end = time.monotonic() + PATIENCE_SECONDS
        while (place := self.raw.find(text, self._seen)) < 0:
            assert time.monotonic() < end, f"{text!r} did not come; what came is {self.raw[self._seen :]!r}"
            self._read()
        before, self._seen = self._seen, place + len(text)
        return CONTROL.sub("", self.raw[before : self._seen])

    def prompt(self) -> str:
        """Wait until a line can be typed; what was shown before."""
        return self.until(READY)

    def more(self, characters: int) -> None:
        """Wait until so many characters have come since the last call ended."""
        end = time.monotonic() + PATIENCE_SECONDS
        while len(self.raw) - self._seen < characters:
            assert time.monotonic() < end, f"no more than {self.raw[self._seen :]!r} came"
            self._read()

    def ended(self) -> int:
        """Wait for the end; the exit status."""
        end = time.monotonic() + PATIENCE_SECONDS
        while self._process.poll() is None:
            assert time.monotonic() < end, "the program does not end"
            self._read()
        return self._process.returncode

    def _read(self) -> None:
        ready, _, _ = select.select([self._master], [], [], 0.1)
        if ready:
            try:
                self.raw += self._decoder.decode(os.read(self._master, 65536))
            except OSError:  # Linux says so when the program has ended
                time.sleep(0.01)
