"""Whole commands on a base of ChatGLM-6B's exact shape: how long until it is ready, until the first answer, the first step, the end.

    python benchmarks/commands.py FOLDER --vocabulary CHATGLM [--train train.jsonl --dev dev.jsonl --steps 3000]
        [--case train] [--case evaluate] [--out FILE] [--tiny]

Writes 12 GB of random fp16 weights into FOLDER/base, beside the configuration and the vocabulary of CHATGLM (a folder of the original,
without weights). Then new processes load it, in 16 bit and rounded to INT4, twice each, so that the files are in the page cache; `imprint
chat` answers one question, in 16, 8 and 4 bits; with rows `imprint evaluate` answers and scores those of `--dev` with 64 tokens each, and
`imprint main` runs with the flags of `scripts/train.sh`, but in bf16 and with 16 rows a step. Prints one JSON line per case. `--tiny`, the
default without a GPU, only checks that the script runs, on the toy base.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import torch
from results import reporter

LOAD = """
import sys, time
started = time.perf_counter()
import torch, imprint
imported = time.perf_counter()
model = imprint.load(sys.argv[1], quantize=int(sys.argv[2]) if sys.argv[2] != "16" else None)
if torch.cuda.is_available():
    torch.cuda.synchronize()
print(round(imported - started, 2), round(time.perf_counter() - imported, 2))
"""
EVALUATE = """
import sys, time
from pathlib import Path
import torch
from imprint.evaluate import command
load = command.load_with
ready = []
def timed(*arguments):
    model = load(*arguments)
    model.network.stop_ids = frozenset()  # each answer has all its tokens
    ready.append(time.perf_counter())
    return model
command.load_with = timed
knobs = ["prompt_column=content", "response_column=summary", "max_source_length=64", "max_target_length=64", "batch_size=64"]
command.evaluate_command(sys.argv[1], data=Path(sys.argv[2]), limit=int(sys.argv[4]) or None, overrides=[*knobs, f"output={sys.argv[3]}"])
print(round(time.perf_counter() - ready[0], 2))
"""
CASES = ("load", "chat", "evaluate", "train")
QUESTION = "写一段连衣裙的广告文案。"
CHAT_TOKENS = 64
"""Of question and answer."""
TINY_STEPS, TINY_ROWS = 2, 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the base and the run are written")
    parser.add_argument("--vocabulary", type=Path, help="a folder with the original's config.json and vocabulary")
    parser.add_argument("--train", type=Path, help="rows with content and summary")
    parser.add_argument("--dev", type=Path)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--case", choices=CASES, action="append", help="only these; may be repeated")
    parser.add_argument("--out", type=Path, help="append the lines to this file too")
    parser.add_argument("--tiny", action="store_true", help="the toy base, two steps")
    options = parser.parse_args()
    gpu = torch.cuda.is_available()
    tiny = options.tiny or not gpu
    base = "embedded" if tiny else str(write_base(options.folder / "base", options.vocabulary))

    report = reporter(options.out)

    cases = options.case or CASES
    for bits in ("16", "4") if "load" in cases else ():
        for number in (1, 2):
            imported, ready = map(float, run("-c", LOAD, base, bits).split())
            report(case="load", bits=int(bits), call=number, import_seconds=imported, ready_seconds=ready)
    for bits in ("16", "8", "4") if "chat" in cases else ():
        for number in (1, 2):
            report(case="chat", bits=int(bits), call=number, **first_answer(base, bits))
    if "evaluate" in cases and options.dev is not None:
        for number in (1, 2):
            output = options.folder / f"evaluation-{number}"
            shutil.rmtree(output, ignore_errors=True)
            words = run("-c", EVALUATE, base, str(options.dev), str(output), str(TINY_ROWS if tiny else 0)).split()
            report(case="evaluate", call=number, ready_to_scores_seconds=float(words[-1]))
    if options.train and "train" in cases:
        report(case="train", **train(base, options.folder / "run", options.train, options.dev, TINY_STEPS if tiny else options.steps))


def run(*words: str) -> str:
    """Run Python in a new process; returns what it prints."""
    return subprocess.run([sys.executable, *words], check=True, stdout=subprocess.PIPE, text=True).stdout


def write_base(folder: Path, vocabulary: Path, **values: int) -> Path:
    """Random weights of the shape that `vocabulary` describes, but for `values` in its config.json, beside its files."""
    from imprint.models.checkpoint import save_network
    from imprint.models.families import build_network, read_config

    if not folder.is_dir():
        source = folder.with_name(f"{folder.name}-source")
        shutil.copytree(vocabulary, source)
        described = json.loads((source / "config.json").read_text(encoding="utf-8"))
        (source / "config.json").write_text(json.dumps({**described, **values}), encoding="utf-8")
        with torch.device("meta"):
            network = build_network(read_config(source), source).half()
        network.to_empty(device="cuda")
        for name, parameter in network.named_parameters():
            torch.nn.init.normal_(parameter.data, std=0.02) if parameter.dim() > 1 else parameter.data.fill_(name.endswith("norm.weight"))
        save_network(network, source, folder)
    return folder


def first_answer(base: str, bits: str) -> dict[str, object]:
    """Seconds from the start of `imprint chat` until it is ready, from then to the first characters, and to the end of the answer."""
    quantize = [] if bits == "16" else [f"quantize={bits}"]
    words = [sys.executable, "-m", "imprint", "chat", base, f"max_length={CHAT_TOKENS}", "temperature=0", *quantize]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    started = time.perf_counter()
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        said = b""
        while b"loaded" not in (line := process.stderr.readline()):
            if not line:
                sys.exit(said.decode())
            said += line
        ready = time.perf_counter()
        process.stdin.write(f"{QUESTION}\n".encode())
        process.stdin.close()
        process.stdout.read(1)
        first = time.perf_counter()
        process.stdout.read()
    ended = time.perf_counter()
    return {
        "ready_seconds": round(ready - started, 2),
        "first_character_seconds": round(first - ready, 2),
        "answered_seconds": round(ended - ready, 2),
    }


def train(base: str, output: Path, rows: Path, dev: Path | None, steps: int) -> dict[str, object]:
    """Seconds of a whole run, and those of its steps and of the first."""
    flags = {
        "train_file": rows,
        "validation_file": dev,
        "prompt_column": "content",
        "response_column": "summary",
        "model_name_or_path": base,
        "output_dir": output,
        "max_source_length": 64,
        "max_target_length": 64,
        "per_device_train_batch_size": 16,
        "gradient_accumulation_steps": 1,
        "max_steps": steps,
        "save_steps": 1000,
        "learning_rate": 2e-2,
        "pre_seq_len": 128,
    }
    words = [f"--{name}={value}" for name, value in flags.items() if value is not None]
    output.parent.mkdir(parents=True, exist_ok=True)
    started = time.time()
    command = [sys.executable, "-m", "imprint", "main", "--do_train", "--overwrite_output_dir", "--bf16", *words]
    subprocess.run(command, check=True, stdout=sys.stderr)
    ended = time.time()
    lines = [json.loads(line) for line in (output / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    step_lines = [line for line in lines if line["event"] == "step"]
    return {
        "steps": steps,
        "seconds": round(ended - started, 1),
        "in_steps_seconds": round(step_lines[-1]["seconds"], 1),
        "first_step_seconds": step_lines[0]["seconds"],
        "last_loss": step_lines[-1]["loss"],
        "memory_gib": max(line["memory_gib"] for line in step_lines),
    }


if __name__ == "__main__":
    main()
