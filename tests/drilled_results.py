"""The kill drill of every command that writes something beside training: it ends as if nobody had killed it.

    python -m tests.drilled_results FOLDER --kills 120 --seed 0
    python -m tests.drilled_results FOLDER --kills 20 --only perplexity --only import
    python -m tests.drilled_results FOLDER --sweep    each command, killed once before each of its changes on the disk

What carries its name after a kill is complete; started again, the command leaves the same files as one that nobody killed, and no others,
neither beside its output nor among the temporary files. Prints one line of JSON.
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
import time
import zipfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from imprint.metrics.means import score
from tests.drills import IMPORTED_ONCE, LORA, SHORT, Drill, prepare_folder, timed
from tests.ggufs import gguf_file
from tests.killing import blank_pictures, end, kill_before_change, killed, ready_to_fork, start

ALSO_IMPORTED = (
    "imprint.chat.command",
    "imprint.check.command",
    "imprint.compat.migrate",
    "imprint.compat.run",
    "imprint.demo.rows",
    "imprint.evaluate.perplexity",
    "imprint.evaluate.score",
    "imprint.export.from_gguf",
    "imprint.tune.lora.layer",
    "gguf",
    "openpyxl",
    "pyarrow.parquet",
)
MEASURED = ["forgetting={measure: true, limit: 2, text_tokens: 8, max_new_tokens: 2, shown_rows: 2}"]
FULL = ["forgetting.measure=false", "tune={method: full}", "optimizer.learning_rate=0.001"]
ORIGINAL = [
    *("--prompt_column", "content", "--response_column", "summary", "--model_name_or_path", "{base}", "--max_source_length", "32"),
    *("--max_target_length", "24", "--per_device_train_batch_size", "2", "--per_device_eval_batch_size", "4", "--max_steps", "3"),
    *("--learning_rate", "2e-2", "--overwrite_cache", "--save_steps", "1", "--logging_steps", "1"),
]
RESULTS = {
    "compare": ["compare", "{case}/run", "--data", "{rows}", "--limit", "4", "max_new_tokens=8", "batch_size=1"],
    "forgetting": ["forgetting", "{case}/run", "limit=3"],
    "report": ["report", "{case}/run"],
    "chat": ["chat", "{inputs}/shared.tar"],  # unpacks it
    "bundle": ["export", "{case}/run", "{case}/out.tar", "--to", "bundle", "questions=1"],
    **{
        f"{method}-{target}": ["export", f"{{inputs}}/{method}", "{case}/out", "--to", target, "questions=1"]
        for method, target in (
            ("prefix", "official"),
            ("prefix", "peft"),
            ("prefix", "int4"),
            ("lora", "peft"),
            ("lora", "merged"),
            ("full", "official"),
        )
    },
    "full-bundle": ["export", "{inputs}/full", "{case}/out.tar", "--to", "bundle", "questions=1"],
    "quantize": ["quantize", "{inputs}/base", "{case}/out"],
    "import": ["import", "{inputs}/tiny.gguf", "{case}/out"],
    "score": ["score", "{inputs}/predictions.jsonl", "--output", "{case}/scores.json"],
    "perplexity": ["perplexity", "{inputs}/prefix", "--data", "{inputs}/texts.jsonl", "output={case}/perplexity", "length=64"],
    "perplexity-base": ["perplexity", "{inputs}/base", "--data", "{inputs}/texts.jsonl", "output={case}/perplexity", "length=64"],
    "check": ["data", "check", "{inputs}/bad.jsonl", "--dev", "{rows}", "--fix", "{case}/fixed.jsonl"],
    "check-texts": ["data", "check", "{inputs}/texts.jsonl", "kind=texts"],
    **{f"convert-{kind}": ["data", "convert", "{rows}", f"{{case}}/out.{kind}"] for kind in ("jsonl", "csv", "xlsx", "parquet")},
    "migrate": ["migrate", "{inputs}/train.sh", "{case}/recipe.yaml"],
    "demo-rows": ["demo", "rows", "{case}/demo", "--task", "summary"],
    "demo-identity": ["demo", "identity", "{case}/demo"],
    "demo-kiln": ["demo", "kiln", "{case}/demo"],
    "main": ["main", "--do_train", "--train_file", "{rows}", *ORIGINAL, "--pre_seq_len", "4", "--output_dir", "{case}/original"],
    "main-predict": ["main", "--do_predict", "--test_file", "{rows}", *ORIGINAL, "--output_dir", "{case}/predicted"],
}
"""Name -> command; `{case}` is a fresh folder with a finished run in it, `{inputs}` what all commands read."""
TIMED = re.compile(r"(^|/)lock$|_results\.json$|trainer_state\.json$|original/log\.jsonl$")
"""Files that hold times."""
EVENTS = re.compile(r"/events\.out")
"""Files of TensorBoard, one for each start."""
GROWING = re.compile(r"perplexity/.*\.jsonl$|answers\.jsonl$|/lock$|^original/")
"""Files that are written line by line, and the folder of a run, which is there from its start."""


@dataclass
class Whole:
    """What a command leaves that nobody killed."""

    status: int
    """Its exit status."""
    files: dict[str, bytes]
    """All files and folders."""
    seconds: float
    """How long it took."""


class ResultsDrill:
    """Commands that are killed: in the end all files are those of commands that nobody killed."""

    def __init__(self, folder: Path, seed: int, only: Sequence[str]) -> None:
        self.folder, self.rng, self.drill = folder, random.Random(seed), Drill()
        self.output_file = folder / "results.txt"
        score(["热身"], ["热身"])  # reads jieba's dictionary, once for all children
        prepare_inputs(folder, self.output_file)
        self.commands = {name: [word.format(**places(folder)) for word in RESULTS[name]] for name in only or RESULTS}
        self.whole = {}
        for name, command in self.commands.items():
            fresh_case(folder)
            began = time.monotonic()
            status = end(start(command, self.output_file))
            assert status in (0, 1), f"{name}: {self.output_file.read_text()[-2000:]}"
            self.whole[name] = Whole(status, everything_in(folder / "case"), time.monotonic() - began)

    def at_random(self, kills: int) -> Drill:
        """Each command in turn, killed two to four times at random, until there were so many kills."""
        while self.drill.kills < kills and not self.drill.broken:
            name = list(self.commands)[self.drill.runs % len(self.commands)]
            fresh_case(self.folder)
            for _time in range(self.rng.randint(2, 4)):
                number = int(2 ** self.rng.uniform(0, 5.4)) if self.rng.random() < 0.6 else None
                if not self.killed(name, number):
                    break
            self.finish(name)
        return self.drill

    def sweep(self) -> Drill:
        """Each command, killed once before each of its changes on the disk."""
        for name in self.commands:
            number, stopped = 0, True
            while stopped and not self.drill.broken:
                number += 1
                fresh_case(self.folder)
                if stopped := self.killed(name, number):
                    self.finish(name)
        return self.drill

    def killed(self, name: str, number: int | None) -> bool:
        """One start, killed before the change of this number or by the clock; False if it came to its end."""
        case, command, whole = self.folder / "case", self.commands[name], self.whole[name]
        before = everything_in(case)
        self.drill.starts += 1
        if number is not None:
            stopped = end(start(command, self.output_file, kill_before_change(number, self.folder))) == -signal.SIGKILL
        else:
            stopped = killed(start(command, self.output_file), self.folder / "none", 0, self.rng.uniform(0, whole.seconds))
        if stopped:
            found = everything_in(case)
            self.drill.kills += 1
            self.drill.in_a_save += any("/." in f"/{file}" for file in found)
            incomplete = half_written(found, before, whole.files)
            self.drill.broken += [f"{name}: {file} carries its name and is not complete" for file in incomplete]
        return stopped

    def finish(self, name: str) -> None:
        """Start a command once more, let it end, and compare."""
        whole = self.whole[name]
        self.drill.starts += 1
        self.drill.runs += 1
        status, found = end(start(self.commands[name], self.output_file)), everything_in(self.folder / "case")
        if status != whole.status:
            self.drill.broken.append(f"{name}: exit status {status}: {self.output_file.read_text()[-300:]}")
        elif found == whole.files:
            self.drill.equal += 1
        else:
            self.drill.broken.append(f"{name}: {[file for file in {*found, *whole.files} if found.get(file) != whole.files.get(file)]}")


def half_written(found: dict[str, bytes], before: dict[str, bytes], whole: dict[str, bytes]) -> list[str]:
    """The files under their final names that are neither what was there before nor what the command writes."""
    named = {file: content for file, content in found.items() if not re.search(r"(^|/)\.|^tmp/|^cache/", file) and not GROWING.search(file)}
    return [file for file, content in named.items() if content not in (before.get(file), whole.get(file))]


def places(folder: Path) -> dict[str, str]:
    """The folders and files that the commands name."""
    return {"case": str(folder / "case"), "inputs": str(folder), "rows": str(folder / "rows.jsonl"), "base": str(folder / "base")}


def prepare_inputs(folder: Path, output_file: Path) -> None:
    """Finished runs of each method, a bundle, a GGUF file, rows, texts, answers and a script."""
    recipe = prepare_folder(folder)
    for method, knobs in {"prefix": MEASURED, "lora": [*MEASURED, *LORA], "full": FULL}.items():
        command = ["train", str(recipe), f"output={folder / method}", *SHORT, *knobs]
        assert end(start(command, output_file)) == 0, output_file.read_text()
    bundle = ["export", str(folder / "prefix"), str(folder / "shared.tar"), "--to", "bundle", "questions=1"]
    assert end(start(bundle, output_file)) == 0, output_file.read_text()
    gguf_file(folder / "tiny.gguf", {})
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text(encoding="utf-8").splitlines()]
    texts = [row["summary"] * 12 for row in rows]
    bad = [
        *rows[:6],
        {"content": "裙", "summary": ""},
        rows[2],
        {"content": " 帽 ", "summary": "好看。<eop>"},
        {"content": 3, "summary": [1]},
    ]
    bad += [{"content": f"袜{number}", "summary": f"第{number}双。"} for number in range(20)]
    answers = [{"labels": row["summary"], "predict": row["summary"][::2]} for row in rows]
    for name, lines in (("texts", [{"text": text} for text in texts]), ("bad", bad), ("predictions", answers)):
        content = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        (folder / f"{name}.jsonl").write_text(content, encoding="utf-8")
    flags = " ".join(word.format(**places(folder)) for word in ORIGINAL)
    (folder / "train.sh").write_text(f"python3 main.py --do_train --train_file a.json {flags} --output_dir out\n")


def fresh_case(folder: Path) -> None:
    """Copy the finished run anew, and empty what stands for the system's temporary files and the user's cache."""
    shutil.rmtree(folder / "case", ignore_errors=True)
    shutil.copytree(folder / "prefix", folder / "case" / "run")
    (folder / "case" / "tmp").mkdir()
    tempfile.tempdir = str(folder / "case" / "tmp")
    os.environ["XDG_CACHE_HOME"] = str(folder / "case" / "cache")


def everything_in(folder: Path) -> dict[str, bytes]:
    """All files and folders below a folder, but for locks and times."""
    found = {}
    for entry in sorted(folder.rglob("*")):
        name = str(entry.relative_to(folder))
        if not EVENTS.search(name):
            content = content_of(entry) if entry.is_file() and not TIMED.search(name) else b""
            found[name] = re.sub(rb'"seconds": [\d.e-]+', b"", content)
    return found


def content_of(file: Path) -> bytes:
    """The bytes of a file; of a workbook, whose archive holds the time, those of its sheet."""
    if file.suffix == ".xlsx" and zipfile.is_zipfile(file):
        return zipfile.ZipFile(file).read("xl/worksheets/sheet1.xml")
    return file.read_bytes()


def drill_results(arguments: list[str]) -> dict[str, Any]:
    """Read the command line and drill."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", action="append", choices=[*RESULTS], default=[])
    parser.add_argument("--sweep", action="store_true")
    options = parser.parse_args(arguments)
    ready_to_fork((*IMPORTED_ONCE, *ALSO_IMPORTED))
    blank_pictures()
    sys.stdin = None
    options.folder.mkdir(parents=True, exist_ok=True)
    drill = ResultsDrill(options.folder, options.seed, options.only)
    return asdict(timed(drill.sweep if options.sweep else lambda: drill.at_random(options.kills)))


if __name__ == "__main__":
    done = drill_results(sys.argv[1:])
    print(json.dumps(done, ensure_ascii=False))  # noqa: T201
    sys.exit(bool(done["broken"]))
