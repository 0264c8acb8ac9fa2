"""A disk, a clock and a database that fail under `imprint serve`: `python -m tests.serve.disk_drills FOLDER [NAME ...]`.

As root a small disk of its own (tmpfs) is filled and made read-only; otherwise a limit on the size of files stands for a full disk, and
the folder's permissions for one that is read-only.
"""

import os
import resource
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import httpx2

from imprint.terminal import say
from tests.serve.changed_programs import with_moved_clock
from tests.serve.kill_drill import killed
from tests.serve.processes import Service, command, environment, service
from tests.serve.tiny_runs import tiny_run

DISK: Final = 6 * 2**20
HOUR: Final = 3600.0
ASKED: Final[dict[str, Any]] = {"model": "mine", "prompt": "今天", "temperature": 0, "max_tokens": 5}


@contextmanager
def disk(folder: Path) -> Iterator[bool]:
    """A folder on a small disk of its own; whether there is one."""
    folder.mkdir(parents=True)
    own = (
        os.geteuid() == 0
        and subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK},mode=700", "tmpfs", folder], check=False).returncode == 0
    )
    try:
        yield own
    finally:
        if own:
            subprocess.run(["umount", "--lazy", folder], check=True)


class Asker:
    """An account that asks, over the API and over the page."""

    def __init__(self, served: Service) -> None:
        self.served = served
        self.client = httpx2.Client(base_url=served.url, timeout=30, verify=False, trust_env=False)
        self.key = served.key("ada")
        page = {"X-Requested-With": "imprint", "Origin": served.url, "Sec-Fetch-Site": "same-origin"}
        self.page = httpx2.Client(base_url=served.url, timeout=30, verify=False, trust_env=False, headers=page)
        self.be_guest()

    def be_guest(self) -> None:
        """Begin a session with a chat."""
        self.page.cookies.clear()
        assert self.page.post("/api/session/guest").status_code == 200
        self.chat = self.page.post("/api/chats", json={}).json()["id"]

    def answer(self) -> httpx2.Response:
        return self.client.post("/v1/completions", json=ASKED, headers={"Authorization": f"Bearer {self.key}"})

    def ask(self, text: str) -> httpx2.Response:
        return self.page.post(f"/api/chats/{self.chat}/messages", json={"models": ["mine"], "text": text})

    def refused(self) -> tuple[int, str, str]:
        """Status, code and message of a question that is refused; no other request is answered with anything else."""
        for tried in (self.answer(), self.ask("hi")):
            error = tried.json()["error"]
            assert (tried.status_code, error["code"]) == (503, "store_unavailable"), tried.text
            assert "Traceback" not in error["message"]
        assert self.client.get("/health/live").status_code == 200
        return tried.status_code, error["code"], error["message"]

    def is_served(self) -> bool:
        return self.answer().status_code == 200 and self.ask("again").status_code == 201

    def close(self) -> None:
        self.client.close()
        self.page.close()


@contextmanager
def asker(served: Service) -> Iterator[Asker]:
    made = Asker(served)
    try:
        yield made
    finally:
        made.close()


def whole(data: Path) -> bool:
    """Whether the database of a folder is."""
    with closing(sqlite3.connect(data / "service.db")) as connection:
        return bool(connection.execute("PRAGMA integrity_check").fetchone() == ("ok",))


def full(folder: Path) -> str:
    """The disk is full while an answer is being written, and has room again."""
    data = folder / "full"
    with disk(data) as own, service(folder / "mine", data, "grace=2") as served, asker(served) as asked:
        generation = asked.ask("讲一个故事").json()["answers"][0]["generation"]
        if own:
            with (data / "filler").open("wb", buffering=0) as filler, suppress(OSError):
                while filler.write(b"x" * 4096):
                    pass
        else:
            resource.prlimit(served.process.pid, resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
        events = asked.page.get(f"/api/generations/{generation}/events").text
        until = time.monotonic() + 20
        refusals = 0
        while refusals < 3:  # what the log of the database has room for is kept
            assert time.monotonic() < until
            refusals = refusals + 1 if asked.answer().status_code == 503 else 0
        status, _, message = asked.refused()
        if own:
            (data / "filler").unlink()
        else:
            resource.prlimit(served.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        begun = time.monotonic()
        while not asked.is_served():
            assert time.monotonic() - begun < 10
            time.sleep(0.1)
        seconds = time.monotonic() - begun
        assert "event: end" in events
        assert served.end()[0] == 0
        assert whole(data)
    kind = "a full disk (tmpfs)" if own else "a limit on the size of files"
    return f"{kind}: {status}, {message!r}; served again {seconds:.1f} s after there is room; integrity_check ok"


def read_only(folder: Path) -> str:
    """The folder is on a disk that has become read-only."""
    data = folder / "read-only"
    with disk(data) as own:
        if not own:
            return "not tried: only root can make a disk read-only"
        with service(folder / "mine", data) as served:
            assert served.end()[0] == 0
        subprocess.run(["mount", "-o", "remount,ro", data], check=True)
        said = refusal("serve", str(folder / "mine"), "port=0", f"data={data}")
        assert said == refusal("user", "add", "ada", f"data={data}")
        subprocess.run(["mount", "-o", "remount,rw", data], check=True)
        with service(folder / "mine", data) as served:
            assert served.end()[0] == 0
    return f"{said!r}; it starts once the disk is writable"


def refusal(*words: str) -> str:
    """The sentence with which a command ends that cannot work, in English."""
    tried = subprocess.run(command(*words), env=environment(), capture_output=True, encoding="utf-8", check=False)
    assert tried.returncode in {1, 2}
    assert "Traceback" not in tried.stderr
    return next(line for line in tried.stderr.splitlines() if "service.db" in line or "written" in line)


def locked(folder: Path, seconds: float = 10) -> str:
    """Another program holds the database; an answer that is being written goes on."""
    data = folder / "locked"
    with service(folder / "mine", data, "grace=2") as served, asker(served) as asked:
        generation = asked.ask("讲一个故事").json()["answers"][0]["generation"]
        with closing(sqlite3.connect(data / "service.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            held = time.monotonic()
            events = asked.page.get(f"/api/generations/{generation}/events").text
            begun = time.monotonic()
            refused = asked.answer()
            waited = time.monotonic() - begun
            assert (refused.status_code, refused.json()["error"]["code"], refused.headers["retry-after"]) == (503, "store_unavailable", "2")
            assert asked.client.get("/health/live").status_code == 200
            models = asked.client.get("/v1/models", headers={"Authorization": f"Bearer {asked.key}"}).status_code
            time.sleep(max(0, seconds - (time.monotonic() - held)))
            other.execute("COMMIT")
        begun = time.monotonic()
        assert asked.is_served()
        assert "event: end" in events
        assert models == 200
        seconds = time.monotonic() - begun
    return f"refused after {waited:.1f} s with Retry-After; reading and running answers go on; served again {seconds:.1f} s after it"


def deleted(folder: Path) -> str:
    """The database is deleted in use; a backup is restored, and the service started again."""
    data, copy = folder / "deleted", folder / "deleted-backup.db"
    with service(folder / "mine", data, "grace=2") as served, asker(served) as asked:
        assert subprocess.run(command("user", "backup", str(copy), f"data={data}"), env=environment(), check=False).returncode == 0
        (data / "service.db").unlink()
        status, code, _ = asked.refused()
        time.sleep(1)
        ready = asked.client.get("/health/ready").status_code
        assert served.end()[0] == 0
        assert ready == 503
        words = command("user", "restore", str(copy), f"data={data}")
        assert subprocess.run(words, env=environment(), check=False).returncode == 0
        with service(folder / "mine", data) as again:
            answer = httpx2.post(f"{again.url}/v1/completions", json=ASKED, headers={"Authorization": f"Bearer {asked.key}"}, timeout=30)
            assert answer.status_code == 200
    return f"{status} {code}, /health/ready {ready}; after `imprint user restore` and a start its keys work"


def newer(folder: Path) -> str:
    """An older program meets a newer database."""
    data = folder / "newer"
    with service(folder / "mine", data) as served:
        assert served.end()[0] == 0
    shutil.copy(data / "service.db", data / "before-9999.db")
    with closing(sqlite3.connect(data / "service.db", isolation_level=None)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    before = (data / "service.db").read_bytes()
    said = refusal("serve", str(folder / "mine"), "port=0", f"data={data}")
    assert said == refusal("user", "list", f"data={data}")
    assert (data / "service.db").read_bytes() == before
    words = command("user", "restore", str(data / "before-9999.db"), f"data={data}")
    assert subprocess.run(words, env=environment(), check=False).returncode == 0
    with service(folder / "mine", data) as served:
        assert served.end()[0] == 0
    return f"{said!r}; the file is unchanged; after `imprint user restore before-9999.db` it starts"


def backups(folder: Path, count: int = 5) -> str:
    """Backups while answers are written, each restored."""
    data = folder / "backups"
    with service(folder / "mine", data, "grace=1") as served, asker(served) as asked:
        over, asks = threading.Event(), list[int]()

        def ask_on() -> None:
            with httpx2.Client(base_url=served.url, timeout=60, verify=False, trust_env=False, headers=asked.page.headers) as page:
                page.cookies.update(asked.page.cookies)
                while not over.is_set():
                    asked_now = page.post(f"/api/chats/{asked.chat}/messages", json={"models": ["mine"], "text": "你好"})
                    asks.append(asked_now.status_code)
                    if asked_now.status_code == 201:
                        page.get(f"/api/generations/{asked_now.json()['answers'][0]['generation']}/events")

        threads = [threading.Thread(target=ask_on) for _ in range(3)]
        for thread in threads:
            thread.start()
        for number in range(count):
            made = subprocess.run(
                command("user", "backup", str(folder / f"backup-{number}.db"), f"data={data}"), env=environment(), check=False
            )
            assert made.returncode == 0
        over.set()
        for thread in threads:
            thread.join()
        assert served.end()[0] == 0
    messages = []
    for number in range(count):
        target = folder / f"restored-{number}"
        words = command("user", "restore", str(folder / f"backup-{number}.db"), f"data={target}")
        assert subprocess.run(words, env=environment(), check=False).returncode == 0
        assert whole(target)
        with closing(sqlite3.connect(folder / f"backup-{number}.db")) as connection:
            messages.append(connection.execute("SELECT count(*) FROM messages").fetchone()[0])
    with service(folder / "mine", folder / f"restored-{count - 1}") as again:
        answer = httpx2.post(f"{again.url}/v1/completions", json=ASKED, headers={"Authorization": f"Bearer {asked.key}"}, timeout=30)
        assert answer.status_code == 200
    assert messages == sorted(messages)
    said = f"{count} while {asks.count(201)} questions were answered"
    return f"{said}: each restored, integrity_check ok, {messages[0]} to {messages[-1]} messages"


JUMPS: Final = (("+2 h", 2 * HOUR, True), ("-30 days", -720 * HOUR, True), ("+13 h", 13 * HOUR, False), ("-1 day", -24 * HOUR, True))
"""How the clock of the system jumps, in seconds, and whether a session goes on that was used just before."""


def clock(folder: Path) -> str:
    """The clock of the system jumps, each time while an answer is written: sessions end early, never late, and all else goes on."""
    data, moved, now = folder / "clock", folder / "moved", 0.0
    moved.write_text("0", encoding="ascii")
    said, ended = [], []
    with service(folder / "mine", data, "grace=1", program=with_moved_clock(moved)) as served, asker(served) as asked:
        for name, seconds, goes_on in (*JUMPS, ("+1 year", 8766 * HOUR, False)):
            assert asked.is_served()
            generation = asked.ask("讲一个故事").json()["answers"][0]["generation"]
            now += seconds
            moved.with_suffix(".part").write_text(str(now), encoding="ascii")
            moved.with_suffix(".part").rename(moved)
            statuses = {asked.page.get("/api/me").status_code for _ in range(3)}
            assert statuses == {200 if goes_on else 401}, (name, statuses)
            if goes_on:
                assert "event: end" in asked.page.get(f"/api/generations/{generation}/events").text
            else:
                ended.append(dict(asked.page.cookies))
                asked.be_guest()
            assert asked.is_served()
            said.append(f"{name}: the session {'goes on' if goes_on else 'has ended'}")
        for cookies in ended:
            cookie = "; ".join(f"{name}={value}" for name, value in cookies.items())
            assert httpx2.get(f"{served.url}/api/me", headers={"Cookie": cookie}).status_code == 401
        assert served.figures()["failed_total"] == 0
        assert served.end()[0] == 0
        assert whole(data)
    return f"{', '.join(said)}; at the end all of before have; a key, a new session and an answer work after each"


DRILLS: Final[Mapping[str, Callable[[Path], str]]] = {
    "full": full,
    "read-only": read_only,
    "locked": locked,
    "deleted": deleted,
    "newer": newer,
    "backups": backups,
    "clock": clock,
    "kills": killed,
}


def main(folder: Path, names: list[str]) -> int:
    """Run the drills of these names, or all, in a new folder; tell what each showed."""
    shutil.rmtree(folder, ignore_errors=True)
    tiny_run(folder / "mine")
    for name in names or DRILLS:
        say(f"{name}: {DRILLS[name](folder)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).absolute(), sys.argv[2:]))
