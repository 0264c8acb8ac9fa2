"""starts.jsonl of a run folder: when, where and by which command the run was started, and with which versions."""

import os
import platform
import shlex
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime

import torch

from imprint import __version__
from imprint.files.atomic import append_jsonl
from imprint.files.typed_json import read_typed_lines
from imprint.messages import Bilingual
from imprint.runs import RunFolder
from imprint.runtime import choose_device, cpu_name, memory_bytes, version_of

GIB = 2**30
MAX_BYTES = 2**24
"""Largest starts.jsonl that is read; a start takes half a kilobyte."""
MAX_COMMAND = 100_000
"""Most characters of a command that is shown."""
ADVICE = Bilingual("Delete it: the report is written without it.", "请删除它：报告中将不含这些信息。")


@dataclass(frozen=True)
class RunStart:
    """One start of a run: a line of starts.jsonl."""

    time: str
    """Local time, such as 2026-11-29 14:56:57+00:00."""
    command: str
    """The command line with its overrides; empty if the run was started from Python."""
    versions: str
    """Versions of Imprint, Python, PyTorch and transformers."""
    machine: str
    """Operating system, processor, cores and main memory."""
    device: str
    """The device that computes, with its memory if it is a GPU."""
    processes: int
    """How many processes train."""

    @property
    def safe_command(self) -> str:
        """The command, quoted anew: whoever types what stands in a stranger's run starts Imprint, and nothing else. Empty if it is none."""
        try:
            words = shlex.split(self.command) if len(self.command) <= MAX_COMMAND else []
        except ValueError:
            return ""
        return shlex.join(words) if words[:1] == ["imprint"] else ""


def this_start(command: Sequence[str], device_name: str | None, processes: int) -> RunStart:
    """The start of a run in this process, now; `command` are the words after `imprint`."""
    device = choose_device(device_name)
    name = "CPU"
    if device.type == "cuda":
        card = torch.cuda.get_device_properties(device)
        name = f"{card.name}, {card.total_memory / GIB:.1f} GiB"
    versions = {"Imprint": __version__, "Python": platform.python_version(), "PyTorch": torch.__version__}
    versions["transformers"] = version_of("transformers") or "-"
    return RunStart(
        time=local_time(time.time()),
        command=shlex.join(["imprint", *command]) if command else "",
        versions=", ".join(f"{package} {version}" for package, version in versions.items()),
        machine=f"{platform.system()} {platform.machine()}, {cpu_name()}, {os.cpu_count()} CPUs, {memory_bytes()[0] / GIB:.1f} GiB",
        device=name,
        processes=processes,
    )


def local_time(seconds: float) -> str:
    """A time as `time.time()` gives it, in the local zone, such as 2026-11-29 14:56:57+00:00."""
    return datetime.fromtimestamp(seconds).astimezone().isoformat(sep=" ", timespec="seconds")


def record_start(run: RunFolder, start: RunStart) -> None:
    """Append a start to starts.jsonl, unless it is there already: a rescue begins again within one start."""
    if start not in read_starts(run)[-1:]:
        append_jsonl(run.starts, asdict(start))


def read_starts(run: RunFolder) -> list[RunStart]:
    """All starts of a run, in order; none of a run of an earlier version. Raises UserError for a line that is no start."""
    return read_typed_lines(run.starts, RunStart, ADVICE, limit=MAX_BYTES)
