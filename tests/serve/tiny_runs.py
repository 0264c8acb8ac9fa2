"""Runs on the embedded base that need no training."""

from pathlib import Path

from tests.chat.talkative import prefix_run


def tiny_run(folder: Path, source_prefix: str = "") -> Path:
    """A run at this path, with a prefix; `source_prefix`: the text before its prompts."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    run = prefix_run(folder.parent)
    config = run.config.read_text(encoding="utf-8").replace("rows.jsonl}", f'rows.jsonl, source_prefix: "{source_prefix}"}}')
    run.config.write_text(config, encoding="utf-8")
    return run.path.rename(folder)
