"""The kill drill of what is made of a finished run: compare, forgetting, report, exports and bundles end as if nobody had killed them.

    python -m tests.drilled_results FOLDER --kills 60 --seed 0

Prints one line of JSON.
"""

import argparse
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from imprint.metrics.means import score
from tests.drills import IMPORTED_ONCE, SHORT, Drill, prepare_folder, timed
from tests.killing import end, kill_before_change, killed, ready_to_fork, start

MEASURED = ["forgetting={measure: true, limit: 2, text_tokens: 8, max_new_tokens: 2, shown_rows: 2}"]
RESULTS = {
    "compare": ["--limit", "4", "max_new_tokens=8", "batch_size=1"],
    "forgetting": ["limit=3"],
    "report": [],
    "export-official": ["--to", "official", "questions=1"],
    "export.tar": ["--to", "bundle", "questions=1"],
    "chat": [],  # with a bundle, which it unpacks
}
"""What is made of a finished run -> its options."""


def results_drill(folder: Path, kills: int, seed: int) -> Drill:
    """What is made of a finished run, killed so many times: in the end all files are those of one that nobody killed."""
    recipe, chance, drill = prepare_folder(folder), random.Random(seed), Drill()
    run, case = folder / "case" / "run", folder / "case"
    score(["热身"], ["热身"])  # reads jieba's dictionary, once for all children
    screen = folder / "results.txt"
    assert end(start(["train", str(recipe), *SHORT, *MEASURED], screen)) == 0, screen.read_text()
    assert end(start(["export", str(folder / "run"), str(folder / "shared.tar"), *RESULTS["export.tar"]], screen)) == 0, screen.read_text()
    expected = {}
    for name, knobs in RESULTS.items():
        fresh_case(folder)
        assert end(start(results_command(name, knobs, folder, run), screen)) == 0, screen.read_text()
        expected[name] = everything_in(case)
    while drill.kills < kills and not drill.broken:
        name = chance.choice(list(RESULTS))
        command = results_command(name, RESULTS[name], folder, run)
        fresh_case(folder)
        for _time in range(chance.randint(2, 4)):
            drill.starts += 1
            if chance.random() < 0.6:
                stopped = end(start(command, screen, kill_before_change(chance.randint(1, 40), folder))) == -signal.SIGKILL
            else:
                stopped = killed(start(command, screen), folder / "none", 0, chance.uniform(0, 1.0))
            if not stopped:
                break
            drill.kills += 1
            drill.in_a_save += any(entry.name.startswith(".") for entry in case.rglob("*"))
        drill.starts += 1
        drill.runs += 1
        if status := end(start(command, screen)):
            drill.broken.append(f"{name}: exit status {status}: {screen.read_text()[-300:]}")
        elif (found := everything_in(case)) == expected[name]:
            drill.equal += 1
        else:
            drill.broken.append(f"{name}: {[file for file in {*found, *expected[name]} if found.get(file) != expected[name].get(file)]}")
    return drill


def results_command(name: str, knobs: Sequence[str], folder: Path, run: Path) -> list[str]:
    """What is typed for a result of the run."""
    if name == "chat":
        return [name, str(folder / "shared.tar")]
    if name.startswith("export"):
        return ["export", str(run), str(run.parent / name), *knobs]
    return [name, str(run), *(["--data", str(folder / "rows.jsonl")] if name == "compare" else []), *knobs]


def fresh_case(folder: Path) -> None:
    """Copy the finished run anew, and empty what stands for the system's temporary files and the user's cache."""
    shutil.rmtree(folder / "case", ignore_errors=True)
    shutil.copytree(folder / "run", folder / "case" / "run")
    (folder / "case" / "tmp").mkdir()
    tempfile.tempdir = str(folder / "case" / "tmp")
    os.environ["XDG_CACHE_HOME"] = str(folder / "case" / "cache")


def everything_in(folder: Path) -> dict[str, bytes]:
    """All files and folders below a folder, but for locks and times."""
    found = {}
    for entry in sorted(folder.rglob("*")):
        content = entry.read_bytes() if entry.is_file() and entry.name != "lock" else b""
        found[str(entry.relative_to(folder))] = re.sub(rb'"seconds": [\d.e-]+', b"", content)
    return found


def drill_results(arguments: list[str]) -> dict[str, Any]:
    """Read the command line and drill."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    ready_to_fork((*IMPORTED_ONCE, "imprint.chat.command"))
    sys.stdin = None
    return asdict(timed(lambda: results_drill(options.folder, options.kills, options.seed)))


if __name__ == "__main__":
    done = drill_results(sys.argv[1:])
    print(json.dumps(done, ensure_ascii=False))  # noqa: T201
    sys.exit(bool(done["broken"]))
