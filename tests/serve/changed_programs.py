"""`imprint serve` changed before it begins: its clock moves, or the steps of its model fail, when a file says so."""

from pathlib import Path
from typing import Final

_MOVED: Final = """\
import time
from pathlib import Path

real, moved = time.time, Path({file!r})
time.time = lambda: real() + float(moved.read_text())

from imprint.cli import main

raise SystemExit(main())
"""
_FAILING: Final = """\
from pathlib import Path

import torch

from imprint.inference.decoder import Decoder

fault, step = Path({file!r}), Decoder.step
errors = {{"memory": torch.OutOfMemoryError("CUDA out of memory"), "device": RuntimeError("CUDA error: device-side assert triggered")}}


def failing(decoder):
    if fault.exists():
        kind, times = fault.read_text().split()
        if times == "once":
            fault.unlink()
        raise errors[kind]
    return step(decoder)


Decoder.step = failing

from imprint.cli import main

raise SystemExit(main())
"""


def with_moved_clock(file: Path) -> tuple[str, str]:
    """The clock of the system is ahead by the seconds that a file has."""
    return "-c", _MOVED.format(file=str(file))


def with_failing_steps(file: Path) -> tuple[str, str]:
    """While a file is there, each step of the decoder fails: "memory" or "device", and "once" or "always"."""
    return "-c", _FAILING.format(file=str(file))
