"""A ChatGLM-6B project of 2023 in a folder: data put by hand into its place, a tiny base, and the command lines of its scripts."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.tiny import tiny_base, tiny_rows

PREFIX = ["--pre_seq_len", "4"]


def old_project(folder: Path) -> Path:
    """`AdvertiseGen/train.json` and `dev.json`, `chat.json` with histories, and the base in `chatglm-6b`."""
    tiny_base(folder / "chatglm-6b")
    (folder / "AdvertiseGen").mkdir()
    tiny_rows(folder / "AdvertiseGen" / "train.json", 10)
    tiny_rows(folder / "AdvertiseGen" / "dev.json", 4)
    rows = [json.loads(line) for line in (folder / "AdvertiseGen" / "train.json").read_text(encoding="utf-8").splitlines()]
    turns = [[["白色上衣", "这件上衣的颜色是白色。"]] * (index % 3) for index in range(len(rows))]
    chat = [{"prompt": row["content"], "response": row["summary"], "history": turn} for row, turn in zip(rows, turns, strict=True)]
    (folder / "chat.json").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in chat), encoding="utf-8")
    return folder


def training(project: Path, name: str = "run", *more: str) -> list[str]:
    """The flags of a short training of four steps."""
    return [
        *("--do_train", "--train_file", str(project / "AdvertiseGen" / "train.json"), *columns(project, name)),
        *("--per_device_train_batch_size", "1", "--gradient_accumulation_steps", "3", "--learning_rate", "2e-2"),
        *("--max_steps", "4", "--save_steps", "2", "--logging_steps", "2", "--max_target_length", "24", *more),
    ]


def predicting(project: Path, name: str = "run", *more: str) -> list[str]:
    """The flags that answer the held-out rows."""
    return [
        *("--do_predict", "--test_file", str(project / "AdvertiseGen" / "dev.json"), *columns(project, name)),
        *("--per_device_eval_batch_size", "2", "--predict_with_generate", "--max_target_length", "12", *more),
    ]


def columns(project: Path, name: str) -> Sequence[str]:
    """The flags that all commands share."""
    home = ("--model_name_or_path", str(project / "chatglm-6b"), "--output_dir", str(project / "output" / name))
    return ("--prompt_column", "content", "--response_column", "summary", "--max_source_length", "32", "--no_cuda", *home)


def said(path: Path) -> Any:
    """What a JSON file says."""
    return json.loads(path.read_text(encoding="utf-8"))
