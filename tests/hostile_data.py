"""Hostile files of rows and recipes: each is read in a process of its own, whose time, memory and last words are kept.

    python -m tests.hostile_data FOLDER            prints a line for each file that broke a promise, and the figures

A command may work or refuse with a sentence: no traceback, in 20 seconds (three commands read each file of rows), with at most 500 MB
more memory than before. A recipe's error has at most 200,000 characters; of rows each bad one is listed. A process that is late without
having computed is watched once more: a machine that stood still is no broken promise, and a command that waits is late again.
"""

import io
import json
import os
import random
import resource
import signal
import sys
import time
import traceback
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import openpyxl
import pyarrow
from pyarrow import ipc, parquet

from imprint.cli import main
from imprint.config import dump, read_recipe
from imprint.messages import UserError
from imprint.training.recipe import Recipe

SECONDS: Final = 20
MEGABYTES: Final = 500
CHARACTERS: Final = 200_000
ROWS: Final = [{"content": f"类型#{number}", "summary": f"这件{number}号上衣很好看。"} for number in range(40)]
TALKS: Final = [[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]] * 20
CUTS: Final = (0.1, 0.5, 0.9, 0.99)
FLIPS: Final = 6


@dataclass(frozen=True)
class Outcome:
    """What became of one file."""

    name: str
    """Name of the file."""
    status: int
    """Exit status; negative for a signal."""
    seconds: float
    """Time until the process ended."""
    megabytes: float
    """Memory that it took beyond that of the process it began as."""
    output: str
    """What it printed."""

    @property
    def problem(self) -> str:
        """The broken promise; empty if there is none."""
        if self.status not in (0, 1, 2) or "Traceback" in self.output:
            return f"status {self.status}: {self.output[-400:]!r}"
        if self.seconds > SECONDS:
            return f"{self.seconds:.0f} s"
        if self.megabytes > MEGABYTES:
            return f"{self.megabytes:.0f} MB"
        return f"{len(self.output)} characters" if len(self.output) > CHARACTERS and self.name.endswith(".yaml") else ""


def formats() -> dict[str, bytes]:
    """A sound file of each format by its name."""
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
    table = "content,summary\n" + "".join(f'{row["content"]},"{row["summary"]}"\n' for row in ROWS)
    arrow = pyarrow.Table.from_pylist(ROWS)
    packed, streamed, workbook = io.BytesIO(), io.BytesIO(), io.BytesIO()
    parquet.write_table(arrow, packed)
    with ipc.new_stream(streamed, arrow.schema) as writer:
        writer.write_table(arrow)
    book = openpyxl.Workbook()
    for cells in (("content", "summary"), *(tuple(row.values()) for row in ROWS)):
        book.worksheets[0].append(cells)
    book.save(workbook)
    return {
        "lines.jsonl": lines.encode(),
        "array.json": json.dumps(ROWS, ensure_ascii=False).encode(),
        "objects.json": "".join(json.dumps(row, indent=1) for row in ROWS).encode(),
        "wrapped.json": json.dumps({"version": "1", "data": ROWS}).encode(),
        "talks.json": json.dumps(TALKS).encode(),
        "table.csv": table.encode(),
        "gb.csv": table.encode("gb18030"),
        "wide.tsv": table.replace(",", "\t").encode("utf-16"),
        "packed.parquet": packed.getvalue(),
        "stream.arrow": streamed.getvalue(),
        "book.xlsx": workbook.getvalue(),
    }


def damaged() -> Iterator[tuple[str, bytes]]:
    """Each sound file cut off, and with bytes replaced at random."""
    for name, content in formats().items():
        for cut in CUTS:
            yield f"cut-{cut}-{name}", content[: int(len(content) * cut)]
        for seed in range(FLIPS):
            rng, changed = random.Random(seed), bytearray(content)
            for _ in range(1 + seed * 4):
                changed[rng.randrange(len(changed))] = rng.randrange(256)
            yield f"flip-{seed}-{name}", bytes(changed)


def endless() -> Iterator[tuple[str, bytes]]:
    """Files that once took time or memory without bound, and their kin."""
    cell = '{"content": "q", "summary": "a"'
    yield from (
        ("lists.jsonl", b"[" * 5_000_000),
        ("objects.jsonl", b'{"a":' * 2_000_000),
        ("deep.jsonl", f'{cell}, "x": {"[" * 900}{"]" * 900}}}\n'.encode() * 20),
        ("deep-named.jsonl", f'{{"content": {"[" * 900}{"]" * 900}, "summary": "a"}}\n'.encode() * 20),
        ("digits.jsonl", f'{{"content": "q", "summary": {"9" * 4000}}}\n'.encode() * 100),
        ("many-digits.jsonl", f'{{"content": "q", "summary": {"9" * 1_000_000}}}\n'.encode()),
        ("floats.jsonl", b'{"content": 1e400, "summary": -Infinity}\n{"content": NaN, "summary": NaN}\n'),
        ("keys.jsonl", ("{" + ",".join(f'"k{number}":1' for number in range(200_000)) + ',"k0":2}\n').encode()),
        ("columns.jsonl", ("{" + ",".join(f'"k{number}":1' for number in range(100_000)) + "}\n").encode() * 3),
        ("column.jsonl", f'{{"{"k" * 5_000_000}": 1}}\n'.encode()),
        ("line.jsonl", b'{"content": "' + b"x" * 40_000_000),
        ("blank.jsonl", b"\n" * 2_000_000),
        ("returns.jsonl", b"\r" * 5_000_000),
        ("nul.jsonl", bytes(5_000_000)),
        ("brackets.json", b"[" + b"[]," * 30_000),
        ("commas.json", b"[" + b"," * 5_000_000),
        (
            "turns.json",
            ('[{"messages": [' + '{"role":"user","content":"a"},{"role":"assistant","content":"b"},' * 50_000 + "1]}]").encode(),
        ),
        ("turn-parts.json", ('[{"messages": [{"role":"user","content":[' + '{"text":"a"},' * 100_000 + '{"text":"a"}]}]}]').encode()),
        ("history.jsonl", f'{{"prompt":"q","response":"a","history":"{"[" * 100_000}"}}\n'.encode() * 10),
        ("literal.csv", ('prompt,response,history\nq,a,"' + "[" * 90_000 + '"\nq,a,"[' + "-" * 90_000 + '1]"\n').encode()),
        ("wrapper.json", ("{" + "".join(f'"k{number}": {{}}, ' for number in range(100_000)) + '"data": [{}]}').encode()),
        ("wrapped-twice.json", b'{"data": [{"content": "a", "summary": "b"}]}' * 100_000),
        ("surrogates.jsonl", b'{"content": "\\ud800", "summary": "\\udc00\\ud800"}\n' * 1000),
        ("tokens.jsonl", f'{{"content": "q", "summary": "x{"<s> " * 500_000}y"}}\n'.encode()),
        ("spaces.jsonl", f'{{"content": "q", "summary": "x{" " * 2_000_000}y"}}\n'.encode()),
        ("garbled.jsonl", f'{{"content": "q", "summary": "{"ä½" * 500_000}"}}\n'.encode()),
        ("python.jsonl", ("{'content': " + "[" * 100_000 + "\n").encode() * 5),
        ("trailing.jsonl", ('{"content": "q", "summary": "a"' + "," * 500_000 + "}\n").encode()),
        ("quotes.jsonl", ("{" + '"\\' * 500_000 + "\n").encode()),
    )
    yield from endless_tables()


def endless_tables() -> Iterator[tuple[str, bytes]]:
    """The same of tables and of packed files."""
    yield from (
        ("header.csv", ",".join(f"c{number}" for number in range(300_000)).encode() + b"\n1\n"),
        ("same-header.csv", b"a," * 500_000 + b"\n"),
        ("quotes.csv", b"content,summary\n" + b'a","\n' * 500_000),
        ("quote.csv", b'content,summary\n"' + b"a\n" * 20_000),
        ("cells.csv", b"content,summary\n" + b"," * 5_000_000),
        ("rows.csv", b"content,summary\n" + b",,,\n" * 30_000),
        ("repeated.csv", b"content,summary\n" * 50_000),
        ("delimiters.tsv", b"content\tsummary\n" + b"\t" * 5_000_000),
        ("semicolons.csv", b";" * 5_000_000),
        ("titles.csv", b"title\n" + b"a,b\n" * 20_000),
        ("utf16.csv", b"\xff\xfe" + b"\x00\xd8" * 1_000_000),
        ("bytes.bin", random.Random(0).randbytes(2_000_000)),
        ("bytes.json", random.Random(1).randbytes(2_000_000)),
        ("bytes.csv", random.Random(2).randbytes(2_000_000)),
        ("magic.parquet", b"PAR1" + bytes(100) + b"PAR1"),
        ("magic.arrow", b"\xff\xff\xff\xff\xf0\xff\xff\x7f" + bytes(100)),
        ("magic-file.arrow", b"ARROW1\0\0" + b"\xff" * 100 + b"ARROW1"),
        ("huge-footer.parquet", b"PAR1" + bytes(20) + b"\xff\xff\xff\x7fPAR1"),
        ("far.xlsx", workbook(b'<c r="A1" t="str"><v>content</v></c></row><row r="1048576"><c r="XFD1048576" t="str"><v>z</v></c>')),
        ("cells.xlsx", workbook(b"<c/>" * 3_000_000)),
        ("rows.xlsx", workbook(b"</row>" + b"<row></row>" * 1_000_000 + b"<row>")),
        ("zeros.xlsx", workbook(b" " * 100_000_000)),
        ("laughs.xlsx", workbook(b"<c t='str'><v>&a9;</v></c>", b"<!DOCTYPE x [" + laughs() + b"]>")),
        ("zip.parquet", parquet_bytes("x" * 2**27)),
    )


def laughs() -> bytes:
    """Entities of entities."""
    return b'<!ENTITY a0 "ha">' + b"".join(b'<!ENTITY a%d "%s">' % (level, b"&a%d;" % (level - 1) * 10) for level in range(1, 10))


def workbook(cells: bytes, head: bytes = b"") -> bytes:
    """A workbook whose one sheet has these cells in its first row."""
    main_space = b"http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    whole, changed = formats()["book.xlsx"], io.BytesIO()
    sheet = b'%s<worksheet xmlns="%s"><sheetData><row r="1">%s</row></sheetData></worksheet>' % (head, main_space, cells)
    with zipfile.ZipFile(io.BytesIO(whole)) as source, zipfile.ZipFile(changed, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            target.writestr(name, sheet if name.endswith("sheet1.xml") else source.read(name))
    return changed.getvalue()


def parquet_bytes(text: str) -> bytes:
    """A Parquet file whose rows are all the same long text."""
    packed = io.BytesIO()
    table = pyarrow.table({"content": [text], "summary": ["a"]})
    parquet.write_table(table, packed, compression="zstd", use_dictionary=False)
    return packed.getvalue()


def recipes() -> Iterator[tuple[str, bytes]]:
    """Recipes, sound ones that are damaged and others."""
    sound = dump(read_recipe(Path("recipes/demo.yaml"), [], Recipe)).encode()
    for cut in (0.05, 0.2, 0.4, 0.6, 0.8, 0.95):
        yield f"cut-{cut}.yaml", sound[: int(len(sound) * cut)]
    for seed in range(40):
        rng, changed = random.Random(seed), bytearray(sound)
        for _ in range(1 + seed % 8):
            changed[rng.randrange(len(changed))] = rng.choice(b":{}[]&*!|>'\"%@`#-?,\n\t \x00\xff0e")
        yield f"flip-{seed}.yaml", bytes(changed)
    aliases = "a0: &a0 [x, x]\n" + "".join(f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]\n" for level in range(1, 20))
    knob = "output: o\nmodel: {path: m}\ndata: {train: t}\n"
    yield from (
        (f"{name}.yaml", text.encode())
        for name, text in {
            "aliases": aliases,
            "keyed-aliases": aliases.replace("[", "{k: [").replace("]", "]}"),
            "itself": "a: &a [*a]",
            "itself-aliases": aliases + "b: &b [*a19, *b]",
            "digits": knob + "train: {steps: " + "9" * 150_000 + "}",
            "some-digits": knob + "train: {steps: " + "9" * 99 + "}",
            "exponent": knob + "optimizer: {learning_rate: 1e" + "9" * 1000 + "}",
            "digit-text": knob + "train: {steps: " + "9" * 150_000 + "x}",
            "lists": "[" * 150_000,
            "maps": "{a: " * 40_000,
            "indents": "\n".join(" " * level + "a:" for level in range(500)),
            "dashes": "- " * 90_000,
            "questions": "? " * 90_000,
            "unknown": "\n".join(f"k{number}: 1" for number in range(15_000)),
            "unknown-nested": "train: {" + ", ".join(f"k{number}: 1" for number in range(15_000)) + "}",
            "wrong-list": knob + "train: {steps: [" + "x," * 60_000 + "]}",
            "long": "x" * 10_000_000,
            "long-key": "k" * 100_000 + ": 1",
            "long-value": knob + "train: {steps: " + "x" * 150_000 + "}",
            "folded": "a: >\n" + " x\n" * 60_000,
            "quoted": 'a: "' + "\\n" * 90_000,
            "comments": "#\n" * 90_000,
            "documents": "---\n" * 40_000,
            "directives": "%TAG ! x\n" * 10_000,
            "tags": "a: !!python/object/apply:os.system [x]",
            "merge": "a: &a {b: 1}\nc: {<<: *a}",
            "anchors": ", ".join(f"&a{number} x" for number in range(10_000)).join("[]"),
            "bell": "a: \x07\x1b[31m",
            "targets": knob + "tune: {method: lora, targets: [" + "x," * 60_000 + "]}",
            "fill": knob + "fill: {" + ", ".join(f"k{number}: v" for number in range(10_000)) + "}",
        }.items()
    )


def check(path: Path) -> int:
    """The commands that read rows; the highest exit status."""
    written = str(path.with_name("out.jsonl"))
    commands = (["data", "check", str(path), "--fix", written], ["data", "convert", str(path), written], ["score", str(path)])
    return max(main(words) for words in commands)


def read(path: Path) -> int:
    """Read a recipe."""
    try:
        read_recipe(path, [], Recipe)
    except UserError as error:
        print(error)  # noqa: T201
        return 2
    return 0


def watched(name: str, path: Path, command: Callable[[Path], int], limit: float = SECONDS) -> Outcome:
    """Run a command in a process of its own; once more if it needed more than `limit` seconds, but not of the processor."""
    outcome, computed = watched_once(name, path, command)
    return watched_once(name, path, command)[0] if outcome.seconds > limit >= computed else outcome


def watched_once(name: str, path: Path, command: Callable[[Path], int]) -> tuple[Outcome, float]:
    """Run a command in a process of its own: what became of it, and the seconds that it and its children computed."""
    sys.stdout.flush()
    printed, began = path.with_suffix(".printed"), time.monotonic()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    child = os.fork()
    if child == 0:
        output = os.open(printed, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        status = 99
        try:
            signal.alarm(3 * SECONDS)
            status = command(path)
        except BaseException:  # as at the top of a program
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    _child, status, used = os.wait4(child, 0)
    megabytes = max(0.0, (used.ru_maxrss - before) / 1024)
    output_text = printed.read_text(encoding="utf-8", errors="replace")
    outcome = Outcome(name, os.waitstatus_to_exitcode(status), time.monotonic() - began, megabytes, output_text)
    return outcome, used.ru_utime + used.ru_stime


def sweep(folder: Path, tell: Callable[[Outcome], object] = lambda _outcome: None) -> list[Outcome]:
    """Read every file; `tell` is called with each outcome."""
    folder.mkdir(parents=True, exist_ok=True)
    warm = folder / "warm.jsonl"
    warm.write_bytes(formats()["lines.jsonl"].replace(b"content", b"label").replace(b"summary", b"predict"))
    check(warm)
    outcomes = []
    for files, command in ((recipes, read), (endless, check), (damaged, check)):
        for name, content in files():
            path = folder / name
            path.write_bytes(content)
            del content
            outcomes.append(watched(name, path, command))
            tell(outcomes[-1])
            path.unlink()
    return outcomes


def run_sweep(sweep: Callable[[Path, Callable[[Outcome], object]], list[Outcome]], noun: str) -> None:
    """Sweep in the folder that the command line names, print each broken promise at once and the figures at the end, and exit."""

    def tell(outcome: Outcome) -> None:
        if outcome.problem:
            print(f"{outcome.name}: {outcome.problem}", flush=True)  # noqa: T201

    found = sweep(Path(sys.argv[1]), tell)
    slowest, largest = max(found, key=lambda one: one.seconds), max(found, key=lambda one: one.megabytes)
    print(  # noqa: T201
        f"{len(found)} {noun}, {sum(bool(one.problem) for one in found)} broke a promise; {sum(one.status == 2 for one in found)} were "
        f"refused; slowest {slowest.seconds:.1f} s ({slowest.name}), most memory {largest.megabytes:.0f} MB ({largest.name})"
    )
    sys.exit(any(one.problem for one in found))


if __name__ == "__main__":
    run_sweep(sweep, "files")
