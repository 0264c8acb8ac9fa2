"""Folders and archives of a stranger: files that are changed at random, one by one, and every command that reads them.

    python -m tests.hostile run FOLDER --count 200 --seed 0       run folders
    python -m tests.hostile lora FOLDER --count 200 --seed 0      run folders of a LoRA
    python -m tests.hostile model FOLDER --count 200 --seed 0     model folders
    python -m tests.hostile bundle FOLDER --count 200 --seed 0    bundles: the archive's bytes, entries and description

Each prints one line of JSON. A command may work or refuse: with a sentence, in time, without a traceback, without a control character on
the screen, and without a change to anything outside.
"""

import argparse
import io
import json
import os
import random
import shutil
import signal
import sys
import tarfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from imprint.loading.bundle import MANIFEST
from imprint.runs import RunFolder
from imprint.terminal import CONTROLS
from tests.drills import IMPORTED_ONCE, LORA, prepare_folder
from tests.killing import end, ready_to_fork, start

HOSTILE: Final = "\x1b]0;title\x07\u202e</title><script>broken = true</script><img src=x onerror='broken = true'>\x9b31m"
VALUES: Final[tuple[object, ...]] = (
    *(None, True, -1, 0, 1.5, 1e308, -1e308, 10**18, 10**400, float("nan"), float("inf")),
    *("", "x", HOSTILE, "x" * 200_000, "../../mine/secret", "/dev/zero", "\ud800", "9" * 400, "chatglm", "{{ 1/0 }}"),
    *([], {}, [None], [[]], {"a": {}}, [1, "x"], {HOSTILE: HOSTILE}, [HOSTILE] * 3),
)
CONTENTS: Final = (
    *(b"", b"{", b"[]", b"null", b"5", b"\xff\xfe\x00", b"\x00" * 4096, b"[" * 100_000, b"9" * 5000, b"{" * 50_000),
    *(b'{"a": 1}\n' * 3, HOSTILE.encode(), b"a: &a [*a]\n", b"\xef\xbb\xbf{}", b"version https://git-lfs.github.com/spec/v1\n"),
)
SECONDS: Final = 30.0
SCREEN_CHARACTERS: Final = 20_000
RUN_COMMANDS: Final = (
    *(["report"], ["runs"], ["runs", "--json"], ["chat"], ["forgetting", "limit=1", "text_tokens=8"]),
    *(["evaluate", "--limit", "1", "max_new_tokens=1"], ["compare", "--limit", "1", "max_new_tokens=1"]),
    *(["export", "--to", "official", "questions=1"], ["train"]),
)


@dataclass
class Sweep:
    """What came of a sweep."""

    cases: int = 0
    """Files that were changed."""
    commands: int = 0
    """Commands that read them."""
    refused: int = 0
    """How many of them refused."""
    longest: float = 0.0
    """Seconds of the slowest one."""
    broken: list[str] = field(default_factory=list)
    """What was wrong, in words; empty if all is well."""


class Stranger:
    """Changes one thing in a folder, as a stranger might."""

    def __init__(self, seed: int, mine: Path) -> None:
        self.rng = random.Random(seed)
        self.mine = mine

    def change(self, folder: Path) -> str:
        """Change a file of a folder or what stands for it; returns what was done."""
        files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "lock")
        small = [path for path in files if path.suffix in (".json", ".jsonl", ".yaml")]
        file = self.rng.choice(small if self.rng.random() < 0.8 else files)
        way = self.rng.choice(("value", "value", "value", "value", "content", "bytes", "entry"))
        if way == "entry" or file not in small:
            return f"{file.name}: {self.replace_entry(file) if way == 'entry' else self.change_bytes(file)}"
        if way == "value":
            return f"{file.name}: {self.change_value(file)}"
        if way == "bytes":
            return f"{file.name}: {self.change_bytes(file)}"
        content = self.rng.choice(CONTENTS)
        file.write_bytes(content)
        return f"{file.name}: is {content[:20]!r}"

    def change_value(self, file: Path) -> str:
        """Change a value in JSON, in a line of JSON, or in YAML that is JSON."""
        if file.suffix == ".json":
            value: Any = json.loads(file.read_text(encoding="utf-8"))
            what = self.change_inside(holder := [value])
            file.write_text(json.dumps(holder[0]), encoding="utf-8")
            return what
        lines = file.read_text(encoding="utf-8").splitlines()
        number = self.rng.randrange(len(lines))
        if file.suffix == ".jsonl":
            what = self.change_inside(holder := [json.loads(lines[number])])
            lines[number] = json.dumps(holder[0])
        else:
            value = self.rng.choice(VALUES)
            lines[number] = f"{lines[number].partition(':')[0]}: {json.dumps(value)}"
            what = lines[number][:60]
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return f"line {number + 1}: {what}"

    def change_inside(self, holder: Any) -> str:
        """Go down at random and change what is there: another value, one more, one less, or deep nesting."""
        where = holder
        key: Any = 0
        while isinstance(where[key], dict | list) and where[key] and self.rng.random() < 0.8:
            where = where[key]
            key = self.rng.choice(list(where)) if isinstance(where, dict) else self.rng.randrange(len(where))
        way = self.rng.random()
        if way < 0.1 and isinstance(where, dict):
            del where[key]
            return f"{key!r} is deleted"
        if way < 0.2 and isinstance(where, dict):
            where[HOSTILE] = where[key]
            return f"{key!r} is doubled"
        if way < 0.25:
            deep: Any = []
            for _level in range(400):
                deep = [deep]
            where[key] = deep
            return f"{key!r} is deep"
        value = self.rng.choice(VALUES)
        where[key] = value
        return f"{str(key)[:40]!r} is {repr(value)[:40]}"

    def change_bytes(self, file: Path) -> str:
        """Cut a file, or overwrite a few of its bytes."""
        content = bytearray(file.read_bytes())
        if self.rng.random() < 0.5:
            kept = self.rng.randrange(len(content) + 1)
            file.write_bytes(content[:kept])
            return f"is cut to {kept} bytes"
        for _byte in range(self.rng.randint(1, 30)):
            if content:
                content[self.rng.randrange(min(len(content), 2000))] = self.rng.randrange(256)
        file.write_bytes(content)
        return "has other bytes"

    def replace_entry(self, file: Path) -> str:
        """Put something else where a file was."""
        way = self.rng.choice(("gone", "folder", "pipe", "link", "link to a folder", "loop", "dangling", "device"))
        file.unlink()
        if way == "folder":
            file.mkdir()
        elif way == "pipe":
            os.mkfifo(file)
        elif way != "gone":
            targets = {"link": self.mine / "secret", "link to a folder": self.mine, "loop": file, "device": Path("/dev/zero")}
            file.symlink_to(targets.get(way, self.mine / "nothing"))
        if self.rng.random() < 0.5:  # and under the name that is written before it is renamed
            file.with_name(f".{file.name}.part").symlink_to(self.mine / "secret")
        return f"is a {way}"


def change_archive(stranger: Stranger, archive: Path, out: Path) -> str:
    """A bundle with one thing changed."""
    rng, way = stranger.rng, stranger.rng.choice(("bytes", "manifest", "entry", "entry", "file"))
    if way == "bytes":
        shutil.copyfile(archive, out)
        return stranger.change_bytes(out)
    what, done = "", False
    with tarfile.open(archive) as source, tarfile.open(out, "w") as target:
        entries = source.getmembers()
        chosen = rng.choice(entries[1:]).name if way != "manifest" else MANIFEST
        for entry in entries:
            file = source.extractfile(entry)
            assert file is not None, "a bundle holds files"
            content = file.read()
            if entry.name == chosen and not done:
                done = True
                if way == "manifest":
                    what = stranger.change_inside(holder := [json.loads(content)])
                    content = json.dumps(holder[0]).encode()
                elif way == "file":
                    content, what = content[: rng.randrange(len(content) + 1)], "is cut"
                else:
                    what = change_entry(rng, entry)
            entry.size = len(content) if entry.isreg() else 0
            target.addfile(entry, io.BytesIO(content))
    return f"{chosen}: {what}"


def change_entry(rng: random.Random, entry: tarfile.TarInfo) -> str:
    """Change what an archive says about a file."""
    kinds = {"link": tarfile.SYMTYPE, "hard link": tarfile.LNKTYPE, "pipe": tarfile.FIFOTYPE, "device": tarfile.CHRTYPE}
    way = rng.choice((*kinds, "folder", "name", "mode", "size"))
    if way in kinds:
        entry.type, entry.linkname = kinds[way], rng.choice(("/etc/passwd", "../../mine/secret", MANIFEST))
    elif way == "folder":
        entry.type = tarfile.DIRTYPE
    elif way == "mode":
        entry.mode, entry.mtime, entry.uid = 0o7777, rng.choice((-1, 2**40)), 2**30
    elif way == "size":
        entry.pax_headers = {"size": rng.choice(("-1", "9" * 30, "x", "0"))}
    else:
        entry.name = rng.choice(("../mine/secret", "/etc/x", HOSTILE, "x" * 5000, "", ".", "a/../../b", "adapter"))
    return f"is a {way}"


def secrets(folder: Path) -> Path:
    """What nothing may change or show."""
    mine = folder / "mine"
    mine.mkdir(exist_ok=True)
    (mine / "secret").write_text("mine and only mine")
    return mine


def try_command(command: list[str], screen: Path, sweep: Sweep, case: str) -> None:
    """Run a command in a fork, and note what must not be."""
    screen.write_bytes(b"")

    def prepare() -> None:
        sys.stdin = None
        signal.alarm(int(SECONDS))

    began = time.monotonic()
    status = end(start(command, screen, prepare))
    sweep.commands += 1
    sweep.refused += status == 2
    sweep.longest = max(sweep.longest, round(time.monotonic() - began, 1))
    said = screen.read_bytes().decode(errors="replace")
    wrong = [
        f"exit status {status}" if status not in (0, 1, 2) else "",
        "traceback" if "Traceback (most recent call last)" in said else "",
        "control characters" if CONTROLS.search(said.replace("\r", "")) else "",
        f"{len(said)} characters" if len(said) > SCREEN_CHARACTERS else "",
        "the secret" if "mine and only mine" in said else "",
    ]
    if any(wrong):
        sweep.broken.append(f"{' '.join(command[:2])}: {', '.join(filter(None, wrong))}; {case}; {said[-600:]}")


def run_sweep(folder: Path, count: int, seed: int, *tune: str) -> Sweep:
    """Run folders with one thing changed, each through some of the commands; `tune` are knobs of the method."""
    recipe = prepare_folder(folder)
    rows, mine, sweep = str(folder / "rows.jsonl"), secrets(folder), Sweep()
    measured = ["forgetting={measure: true, limit: 2, text_tokens: 8, max_new_tokens: 2}", "train.steps=3", "train.report=true", *tune]
    whole = folder / "whole"
    assert end(start(["train", str(recipe), f"output={whole}", *measured], folder / "whole.txt")) == 0, (folder / "whole.txt").read_text()
    assert end(start(["evaluate", str(whole), "--data", rows, "--limit", "1", "max_new_tokens=1"], folder / "whole.txt")) == 0
    stranger = Stranger(seed, mine)
    while sweep.cases < count:
        run = folder / f"run-{sweep.cases}" / "run"
        shutil.copytree(whole, run)
        case = f"{sweep.cases}: {stranger.change(run)}"
        sweep.cases += 1
        for name, *knobs in stranger.rng.sample(RUN_COMMANDS, 4):
            path = {"train": str(recipe), "runs": str(run.parent)}.get(name, str(run))
            data = ["--data", rows] if name in ("evaluate", "compare") else []
            knobs = [{"official": "peft"}.get(knob, knob) if tune else knob for knob in knobs]
            more = [str(run.parent / "out")] if name == "export" else [f"output={run}", *measured] if name == "train" else []
            try_command([name, path, *more, *data, *knobs], folder / "screen.txt", sweep, case)
            check_outside(mine, run.parent, RunFolder(run).report, sweep, case)
        shutil.rmtree(run.parent)
    return sweep


def check_outside(mine: Path, home: Path, report: Path, sweep: Sweep, case: str) -> None:
    """Note a change to what is not the run's, and markup that came into its report."""
    if [file.name for file in mine.iterdir()] != ["secret"] or (mine / "secret").read_text() != "mine and only mine":
        sweep.broken.append(f"the secret was changed; {case}")
        shutil.rmtree(mine)
        secrets(mine.parent)
    if {entry.name for entry in home.iterdir()} > {"run", "out"}:
        sweep.broken.append(f"something beside the run; {case}")
    if report.is_file() and not report.is_symlink():
        page = report.read_text(encoding="utf-8", errors="replace")
        if page.count("<script>") > 1 or "<img src=x" in page:
            sweep.broken.append(f"markup in the report; {case}")


def model_sweep(folder: Path, count: int, seed: int) -> Sweep:
    """Model folders with one thing changed, each through chat, and through quantize."""
    prepare_folder(folder)
    mine, sweep = secrets(folder), Sweep()
    stranger = Stranger(seed, mine)
    while sweep.cases < count:
        base = folder / f"model-{sweep.cases}"
        shutil.copytree(folder / "base", base)
        case = f"{sweep.cases}: {stranger.change(base)}"
        sweep.cases += 1
        try_command(["chat", str(base)], folder / "screen.txt", sweep, case)
        try_command(["quantize", str(base), str(folder / "out"), "--bits", "8"], folder / "screen.txt", sweep, case)
        if any("mine and only" in file.read_text(errors="replace") for file in (folder / "out").glob("*") if file.is_file()):
            sweep.broken.append(f"the secret was copied; {case}")
        for left in (base, folder / "out"):
            shutil.rmtree(left, ignore_errors=True)
    return sweep


def bundle_sweep(folder: Path, count: int, seed: int) -> Sweep:
    """Bundles with one thing changed, each through chat, from a cache of its own."""
    recipe = prepare_folder(folder)
    mine, sweep, archive = secrets(folder), Sweep(), folder / "whole.tar"
    short = ["train.steps=3", f"output={folder / 'whole'}"]
    for command in (["train", str(recipe), *short], ["export", str(folder / "whole"), str(archive), "--to", "bundle", "questions=1"]):
        assert end(start(command, folder / "whole.txt")) == 0, (folder / "whole.txt").read_text()
    stranger = Stranger(seed, mine)
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    while sweep.cases < count:
        out = folder / "stranger.tar"
        case = f"{sweep.cases}: {change_archive(stranger, archive, out)}"
        sweep.cases += 1
        try_command(["chat", str(out)], folder / "screen.txt", sweep, case)
        check_outside(mine, mine, mine / "none", sweep, case)
        if any(entry.name.startswith(".") for entry in (folder / "cache" / "imprint" / "bundles").glob("*")):
            sweep.broken.append(f"leftovers in the cache; {case}")
        shutil.rmtree(folder / "cache", ignore_errors=True)
    return sweep


SWEEPS: Final[dict[str, Callable[[Path, int, int], Sweep]]] = {
    "run": run_sweep,
    "lora": lambda folder, count, seed: run_sweep(folder, count, seed, *LORA),
    "model": model_sweep,
    "bundle": bundle_sweep,
}


def hostile_sweep(arguments: list[str]) -> dict[str, Any]:
    """Read the command line and sweep."""
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=[*SWEEPS])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    ready_to_fork((*IMPORTED_ONCE, "imprint.chat.command", "imprint.evaluate.review", "imprint.report.run_list", "imprint.export.command"))
    return asdict(SWEEPS[options.what](options.folder, options.count, options.seed))


if __name__ == "__main__":
    found = hostile_sweep(sys.argv[1:])
    print(json.dumps(found, ensure_ascii=False))  # noqa: T201
    sys.exit(bool(found["broken"]))
