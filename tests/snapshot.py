"""What the commands compute, write and say, for comparing two trees that must do the same.

    cd TREE && python /path/to/tests/snapshot.py write FOLDER
    python -m tests.snapshot compare BEFORE AFTER

It asks nothing of the code but what is promised: the command line, the files of a run folder, and the documented functions of Python. So
the same script runs in a tree before a move and in the one behind it. Times, rates, memory, dates, hosts and process ids are masked. One
thread, no network; each command runs in a fork, so that PyTorch is imported once.
"""

import argparse
import difflib
import hashlib
import json
import os
import re
import runpy
import shlex
import shutil
import sys
import tarfile
import tempfile
import time
import traceback
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import yaml

ENVIRONMENT: Final[Mapping[str, str]] = MappingProxyType(
    {
        "COLUMNS": "100",
        "HF_HUB_OFFLINE": "1",
        "LANG": "C.UTF-8",
        "LC_ALL": "C.UTF-8",
        "MKL_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONHASHSEED": "0",
        "RAYON_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "TZ": "UTC",
        "CUDA_VISIBLE_DEVICES": "",
    }
)
MATERIAL: Final = Path(__file__).resolve().parent / "golden-runs"
"""Tiny bases and rows, the same for both trees."""
COMMANDS: Final = Path(__file__).with_suffix(".yaml")
"""Which commands are typed."""
LIBRARIES: Final = ("torch", "transformers", "peft", "matplotlib.pyplot", "safetensors.torch", "sklearn.linear_model", "jieba", "rich")
SHOWN_BYTES: Final = 200_000
"""A text that is longer is kept as its digest and its first lines."""
SHOWN_LINES: Final = 40
"""Lines of a difference that `compare` prints of each file."""

MASKS: Final[tuple[tuple[str, str], ...]] = (
    (r'"(seconds|tokens_per_second|memory_gib|total_flos|\w*_runtime|\w*_per_second)": -?[\d.e+-]+', r'"\1": *'),
    (r"(\w+_(runtime|per_second) +=) +[\d.]+", r"\1 *"),
    (r"\[\d+:\d\d<\d+:\d\d, +[\d.,]+(it/s)\]", "[* < *, * it/s]"),
    (r"\d+:\d\d(:\d\d)? < \d+:\d\d(:\d\d)?", "* < *"),
    (r"[\d.,]+ (\w+/s)\b", r"* \1"),
    (r"\b(\w+/s) [\d.,]+", r"\1 *"),
    (r"[\d.,]+ (GiB|free)\b", r"* \1"),
    (r"<b>[\d.]+</b> <small>GiB", "<b>*</b> <small>GiB"),
    (r"\b\d+\.\d s$", "* s"),
    (r"<small>\d+(:\d+|[smh\d ])*</small>", "<small>*</small>"),
    (r'(aria-label="Memory"><polyline class="\w+" points=)"[^"]*"', r"\1*"),
    (r"base64,[A-Za-z0-9+/=]+", "base64,*"),
    (r'("(log\.jsonl|loss\.png|report\.html|forgetting\.json)"): "[0-9a-f]{64}"', r"\1: *"),
    (r'("model": "[0-9a-f]{16}", "files"): "[0-9a-f]{16}"', r"\1: *"),  # of dates, too
    (r"\b1[0-9]{18}\b", "NANOSECONDS"),
    (r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d)?)?(\.\d+)?(\+00:00|Z)?", "DATE"),
    (r"events\.out\.tfevents\.[\w.-]+", "events.out.tfevents.*"),
    (r"TREE/imprint/\S+\.py:\d+:", "TREE/imprint/*.py:*:"),
)
"""What is no promise -> what stands in its place, in every text."""
PICTURES_OF_TIMES: Final = ("loss.png",)
"""Pictures that show memory and speed too: only that they are there is kept."""


def main() -> int:
    """Write a snapshot, or compare two."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parts = parser.add_subparsers(dest="part", required=True)
    writing = parts.add_parser("write", help="run everything in this tree")
    writing.add_argument("folder", type=Path)
    writing.add_argument("--keep", action="store_true", help="keep what the commands wrote, in FOLDER/work")
    comparing = parts.add_parser("compare", help="print what differs")
    comparing.add_argument("before", type=Path)
    comparing.add_argument("after", type=Path)
    comparing.add_argument("--lines", type=int, default=SHOWN_LINES, help="lines of each difference that are shown")
    options = parser.parse_args()
    if options.part == "compare":
        return compare(options.before, options.after, lines=options.lines)
    tree = Path.cwd()
    wanted = {**os.environ, **ENVIRONMENT, "PYTHONPATH": python_path(tree)}
    if wanted != dict(os.environ):
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], wanted)
    found = find_spec("imprint")
    assert found is not None
    assert found.origin == str(tree / "imprint" / "__init__.py"), "start it in the root of a checkout"
    write(options.folder.resolve(), tree, keep=options.keep)
    return 0


def python_path(tree: Path) -> str:
    """PYTHONPATH with this tree at its head, and without any other."""
    entries = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry and not (Path(entry) / "imprint").is_dir()]
    return os.pathsep.join([str(tree), *entries])


def write(folder: Path, tree: Path, *, keep: bool) -> None:
    """Run every command of `tree` and keep what it said and wrote."""
    began = time.monotonic()
    assert not folder.exists(), f"{folder} is there already"
    for library in LIBRARIES:
        import_module(library)
    import_module("torch").set_num_threads(1)
    typed = yaml.safe_load(COMMANDS.read_text(encoding="utf-8"))
    work = prepared(folder / "work", typed["files"])
    masked = masks_of(tree, work)
    for number, (line, lines) in enumerate(commands(typed, work)):
        file = folder / "console" / f"{number:03d}-{named(line)}.txt"
        file.parent.mkdir(exist_ok=True)
        words = [word.replace("TREE", str(tree)) for word in shlex.split(line)]
        status = forked(lambda words=words: run_module(words), work, file, lines)  # type: ignore[misc]
        out, err = (masked(text_of(file.with_suffix(ending))) for ending in (".out", ".err"))
        file.write_text(f"$ imprint {line}\nexit {status}\n--- out\n{out}--- err\n{err}", encoding="utf-8")
        for ending in (".out", ".err"):
            file.with_suffix(ending).unlink()
    status = forked(lambda: from_python(Path("python")), work, folder / "console" / "python.txt", "")
    assert status == 0, text_of(folder / "console" / "python.err")
    for path in sorted(work.rglob("*")):
        name = path.relative_to(work)
        if path.is_file() and name.parts[0] not in ("bases", "cache"):
            keep_file(path, folder / "files" / masked(str(name)), masked)
    if not keep:
        shutil.rmtree(work)
    say(f"{folder}: written in {time.monotonic() - began:.0f} s")


def prepared(work: Path, files: Mapping[str, str]) -> Path:
    """The folder in which all commands are typed."""
    work.mkdir(parents=True)
    shutil.copytree(MATERIAL / "bases", work / "bases")
    for name in ("rows.jsonl", "questions.txt"):
        shutil.copyfile(MATERIAL / name, work / name)
    for name, text in files.items():
        (work / name).write_text(text, encoding="utf-8")
    return work


def commands(typed: Mapping[str, Any], work: Path) -> Iterator[tuple[str, str]]:
    """The words of each command and what is typed into it; what is done between two of them is done when the next is asked for."""
    yield from ((f"{name} --help".lstrip(), "") for name in typed["help"])
    yield from ((line, "") for line in typed["first"])
    for name, words in typed["runs"].items():
        yield f"train {words} output=runs/{name}", ""
    shutil.rmtree(work / "runs" / "killed" / "state-000030")  # as if it had been killed before
    yield f"train {typed['runs']['killed']} output=runs/killed", ""
    yield f"train {typed['runs']['killed']} output=runs/shorter", ""
    yield from ((line, "") for line in typed["then"])
    yield from typed["talks"].items()
    yield from ((line, "") for line in typed["refused"])


def named(line: str) -> str:
    """A file's name for a command; a training goes by its run."""
    trained = re.match("train .*output=runs/([a-z0-9-]+)", line)
    return f"train-{trained[1]}" if trained else re.sub(r"[^\w#=.]+", "-", line)[:70].strip("-")


def run_module(words: list[str]) -> None:
    """`python -m imprint WORDS`."""
    sys.argv = ["imprint", *words]
    runpy.run_module("imprint", run_name="__main__", alter_sys=True)


def forked(action: Callable[[], None], work: Path, file: Path, typed: str) -> int:
    """Run something in a process of its own, its words in two files beside `file`; returns its exit status."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    status = 99
    try:
        reading, writing = os.pipe()
        os.write(writing, typed.encode())
        os.close(writing)
        os.dup2(reading, 0)
        for number, ending in ((1, ".out"), (2, ".err")):
            os.dup2(os.open(file.with_suffix(ending), os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        os.chdir(work)
        os.environ["XDG_CACHE_HOME"] = str(work / "cache")
        action()
        status = 0
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def from_python(place: Path) -> None:
    """What the documented functions return: written below `place`."""
    import torch
    from safetensors.torch import save_file

    import imprint
    from imprint.data import encode_original, encode_original_evaluation

    place.mkdir()
    rows = [json.loads(line) for line in Path("data/dev.jsonl").read_text(encoding="utf-8").splitlines()[:16]]
    talk = [("你好", "你好！")]
    said: dict[str, Any] = {}
    tensors: dict[str, torch.Tensor] = {}
    adapters = {"prefix": "runs/prefix/adapter", "lora": "runs/lora/adapter", "peft": "runs/lora/export-peft", "base": None}
    for name, adapter in adapters.items():
        model = imprint.load("embedded", adapter=adapter, device="cpu", quantize=8 if name == "peft" else None)
        prompts = [model.prompt(row["content"], max_source_length=64) for row in rows]
        pairs = [encode_original(model.tokenizer, row["content"], row["summary"], talk, 64, 64) for row in rows[:8]]
        ids, labels = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        said[name] = {
            "greedy": model.generate(prompts, 32),
            "sampled": model.generate(prompts[:8], 32, temperature=0.95, top_p=0.7, seed=1),
            "beams": model.generate(prompts[:4], 24, num_beams=3),
            "chat": model.chat(rows[0]["content"], talk, temperature=0, max_length=120),
            "streamed": list(model.stream_chat("你是谁？", temperature=0, system="你是店员。")),
            "loss": [model.loss([one], [other]).item() for one, other in zip(ids, labels, strict=True)],
            "losses": model.loss(ids, labels).item(),
            "encoded": pairs[:2],
            "evaluated": [encode_original_evaluation(model.tokenizer, row["content"], row["summary"], None, 64, 64) for row in rows[:4]],
        }
        tensors |= {f"{name}.logits.{number}": logits for number, logits in enumerate(model.logits(ids))}
        with model.adapter_off():
            tensors |= {f"{name}.off.{number}": logits for number, logits in enumerate(model.logits(ids[:2]))}
        if adapter is not None:
            model.loss(ids, labels).backward()
            tensors |= {f"{name}.grad.{key}": value.grad for key, value in model.adapter_parameters().items() if value.grad is not None}
    for family in ("chatglm", "chatglm2", "glm4", "bloom", "qwen3"):
        tiny = imprint.load(f"bases/{family}", device="cpu")
        questions = [tiny.prompt(line) for line in Path("questions.txt").read_text(encoding="utf-8").split()]
        said[family] = {"greedy": tiny.generate(questions, 32), "chat": tiny.chat("类型#上衣", talk, temperature=0, max_length=90)}
        tensors |= {f"{family}.logits.{number}": logits for number, logits in enumerate(tiny.logits(questions))}
    answers = ["这件上衣的颜色是白色。", "长裙", ""]
    protocols = ("chatglm-6b", "words", "llamafactory", "swift")
    said["scores"] = {protocol: imprint.metrics.score(answers, ["这件上衣是白色的。", "长裙", "外套"], protocol) for protocol in protocols}
    imprint.quantize("bases/chatglm", place / "int4", 4)
    (place / "said.json").write_text(json.dumps(said, ensure_ascii=False, indent=1), encoding="utf-8")
    save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, place / "tensors.safetensors")


def text_of(file: Path) -> str:
    """What a command said, without the lines that a slow machine has more of."""
    text = file.read_text(encoding="utf-8", errors="replace")
    kept = []
    for line in text.splitlines():
        bar = re.match(r"[^:\d]+: ([\d,]+)/([\d,]+)  ", line)
        if bar is None or bar[1] == bar[2]:
            kept.append(line + "\n")
    return "".join(kept)


def masks_of(tree: Path, work: Path) -> Callable[[str], str]:
    """What takes from a text all that is no promise."""
    toy = next((file.parent for file in (tree / "imprint").rglob("ice_text.model")), tree)
    places = {str(work): "WORK", str(toy): "EMBEDDED", str(tree): "TREE", os.uname().nodename: "HOST"}

    def masked(text: str) -> str:
        for place, name in places.items():
            text = text.replace(place, name)
        for pattern, instead in MASKS:
            text = re.sub(pattern, instead, text, flags=re.MULTILINE)
        return text

    return masked


def keep_file(path: Path, place: Path, masked: Callable[[str], str]) -> None:
    """Write what counts of a file as a text to `place`, with .txt behind its name; of an archive, of each file in it."""
    lines: Iterable[str]
    if path.suffix == ".tar":
        with tarfile.open(path) as archive, tempfile.TemporaryDirectory() as unpacked:
            archive.extractall(unpacked, filter="data")
            lines = [f"{member.name} {member.mode:o} {member.mtime} {member.uname}" for member in archive.getmembers()]
            for inner in sorted(Path(unpacked).rglob("*")):
                if inner.is_file():
                    keep_file(inner, place / inner.relative_to(unpacked), masked)
    elif path.name in PICTURES_OF_TIMES or path.name == "lock":
        lines = ["is there"]
    elif path.suffix == ".safetensors":
        lines = safetensors_lines(path)
    elif path.name == "log.jsonl":
        lines = loss_lines(path, masked)
    elif path.suffix in (".bin", ".pt"):
        lines = pickled_lines(path)
    elif ".tfevents." in path.name:
        lines = event_lines(path)
    else:
        lines = text_lines(path, masked)
    target = place.with_name(f"{place.name}.txt")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def text_lines(path: Path, masked: Callable[[str], str]) -> list[str]:
    """The masked text; of a very long one and of what is no text a digest."""
    content = path.read_bytes()
    try:
        text = masked(content.decode("utf-8"))
    except UnicodeDecodeError:
        return [digest(content)]
    lines = text.split("\n")
    return [digest(text.encode()), *lines[:5]] if len(content) > SHOWN_BYTES else lines


def loss_lines(path: Path, masked: Callable[[str], str]) -> list[str]:
    """The lines of a log that hold a loss, without their `event`: what else is in a log, older trees did not write."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    losses = [{name: value for name, value in line.items() if name != "event"} for line in lines if {"loss", "eval_loss"} & line.keys()]
    return [masked(json.dumps(line, ensure_ascii=False)) for line in losses]


def digest(content: bytes) -> str:
    """What bytes are recognised by."""
    return f"{len(content)} bytes, sha256 {hashlib.sha256(content).hexdigest()}"


def safetensors_lines(path: Path) -> Iterator[str]:
    """A line for the whole file, for what it says of itself, and for each tensor."""
    yield digest(path.read_bytes())
    with import_module("safetensors").safe_open(path, framework="pt") as opened:
        yield f"metadata {json.dumps(opened.metadata(), sort_keys=True)}"
        for name in opened.keys():  # noqa: SIM118
            yield from tensor_lines(opened.get_tensor(name), name)


def pickled_lines(path: Path) -> Iterator[str]:
    """A line for the whole file, and for each tensor where it is one of PyTorch's."""
    yield digest(path.read_bytes())
    if zipfile.is_zipfile(path):
        yield from tensor_lines(import_module("torch").load(path, map_location="cpu", weights_only=True))


def tensor_lines(value: Any, name: str = "") -> Iterator[str]:
    """A line for each tensor of whatever was saved."""
    torch = import_module("torch")
    if isinstance(value, torch.Tensor):
        content = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        yield f"{name} {value.dtype} {tuple(value.shape)} {hashlib.sha256(content).hexdigest()}"
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from tensor_lines(inner, f"{name}/{key}")
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            yield from tensor_lines(inner, f"{name}/{number}")
    else:
        yield f"{name} {value!r}"


def event_lines(path: Path) -> Iterator[str]:
    """Step, name and number of what was written for TensorBoard, but for times and memory."""
    loader = import_module("tensorboard.backend.event_processing.event_file_loader")
    for event in loader.EventFileLoader(str(path)).Load():
        for value in event.summary.value:
            hidden = re.search("second|memory", value.tag)
            yield f"{event.step} {value.tag} {'*' if hidden else list(value.tensor.float_val) or value.tensor.tensor_content.hex()}"


def compare(before: Path, after: Path, *, lines: int) -> int:
    """Print what differs between two snapshots; 1 where anything does."""
    here, there = sample_texts(before), sample_texts(after)
    found = 0
    for name in sorted(here.keys() | there.keys()):
        old, new = here.get(name), there.get(name)
        if old == new:
            continue
        found += 1
        say(f"== {name}{': is new' if old is None else ': is gone' if new is None else ''}")
        difference = list(difflib.unified_diff(old, new, n=0, lineterm=""))[2:] if old and new else []
        for line in difference[:lines]:
            say(f"   {line[:400]}")
        if len(difference) > lines:
            say(f"   ... {len(difference) - lines} more lines")
    say(f"{len(here.keys() | there.keys())} texts compared, {found} differ")
    return int(found > 0)


def sample_texts(snapshot: Path) -> dict[str, list[str]]:
    """The lines of every text of a snapshot."""
    parts = [path for part in ("console", "files") for path in (snapshot / part).rglob("*.txt")]
    return {path.relative_to(snapshot).as_posix(): path.read_text(encoding="utf-8").splitlines() for path in parts}


def say(line: str) -> None:
    print(line, flush=True)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
