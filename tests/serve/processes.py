"""`imprint serve` in a process of its own, and keys of its accounts."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx2

from imprint.serve.store import COMMAND_LINE, Store

ROOT = Path(__file__).parents[2]
PROGRAM: Final = ("-m", "imprint")


@dataclass
class Service:
    """A service that runs."""

    process: "subprocess.Popen[str]"
    url: str
    data: Path
    log: Path
    """Its error stream."""

    def key(self, name: str, role: str = "user", concurrency: int = 2) -> str:
        """A key of a new account."""
        assert role in {"user", "admin"}
        with Store.open(self.data) as store:
            account = store.accounts.create(
                name, role="admin" if role == "admin" else "user", actor=COMMAND_LINE, tokens_a_day=10**9, concurrency=concurrency
            ).account
            return store.keys.create(account.id, actor=COMMAND_LINE).key

    def client(self, key: str) -> httpx2.AsyncClient:
        """A client with as many connections as it wants; a visitor's without a key."""
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        limits = httpx2.Limits(max_connections=None)
        return httpx2.AsyncClient(base_url=self.url, headers=headers, timeout=120, limits=limits, verify=False, trust_env=False)

    def figures(self) -> dict[str, float]:
        """What the engine says of itself."""
        lines = httpx2.get(f"{self.url}/metrics").text.splitlines()
        found = [line.removeprefix("imprint_engine_").split() for line in lines if line.startswith("imprint_engine_")]
        return {name: float(value) for name, value in found}

    def end(self, seconds: float = 20) -> tuple[int, float]:
        """The exit status after a SIGTERM, and the seconds until then."""
        begun = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds), time.monotonic() - begun


def command(*words: str) -> list[str]:
    """The words that start a command of ours."""
    return [sys.executable, *PROGRAM, *words]


def environment(**changes: str) -> Mapping[str, str]:
    """That of a command of ours."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "LC_ALL": "C.UTF-8", **changes}


@contextmanager
def service(source: Path | str, data: Path, *knobs: str, program: Sequence[str] = PROGRAM) -> Iterator[Service]:
    """A service of this run, model or bundle, or of the server at this address, once it is ready; killed at the end if it still runs.

    `program`: how Python is told to run ours, where it is changed before.
    """
    log = data.with_name(f"{data.name}.log")
    words = [str(source), "device=cpu"] if isinstance(source, Path) else [f"upstream=[{source}]"]
    data.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w", encoding="utf-8") as errors:
        started = subprocess.Popen(
            [sys.executable, *program, "serve", *words, "port=0", f"data={data}", *knobs],
            cwd=data.parent,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=errors,
            encoding="utf-8",
            errors="replace",
        )
    assert started.stdout is not None
    try:
        ready = next((line for line in started.stdout if line.startswith("ready: ")), "")
        assert ready, log.read_text(encoding="utf-8")
        yield Service(started, ready.split()[1].rstrip("/"), data, log)
    finally:
        started.kill()
        started.wait()
        started.stdout.close()
