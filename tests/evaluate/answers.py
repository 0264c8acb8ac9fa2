"""What an evaluation wrote, and the same answers by hand."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imprint
from imprint.data.readers.samples import read_samples
from imprint.files.atomic import read_jsonl
from imprint.runs import RunFolder
from tests.prompts import encode_prompt

FILES = ("generated_predictions.txt", "predictions.jsonl", "scores.json", "answers.jsonl")
Ask = Callable[..., Path]


def predictions(folder: Path) -> list[str]:
    return [str(line["prediction"]) for line in read_jsonl(folder / "predictions.jsonl")]


def scores(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "scores.json").read_text(encoding="utf-8")))


def said_by_hand(folder: Path, rows: Path, *, beams: int = 1) -> list[str]:
    """The answers through the public API, row by row."""
    run = RunFolder(folder)
    base = run.path.parent / "talk" / "model" if run.config.is_file() else folder
    model = imprint.load(base, adapter=run.adapter if run.config.is_file() else None, device="cpu")
    samples = read_samples(rows, prompt_column="content", response_column="summary")
    prompts = [encode_prompt(model.template, sample.query, None, max_source_length=64) for sample in samples]
    return [model.tokenizer.decode(model.generate([ids], max_new_tokens=24, num_beams=beams)[0]) for ids in prompts]
