"""Generated rows of every task, for training and evaluation."""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final, Literal

from imprint.demo.copywriter import write_copy
from imprint.demo.diaries import write_diary_row
from imprint.demo.goods import read_goods
from imprint.demo.messages import write_message_row
from imprint.demo.rng import Rng
from imprint.demo.snippets import write_snippet_row
from imprint.demo.summaries import write_summary_row
from imprint.demo.translations import write_translation_row
from imprint.files.atomic import write_text

Split = Literal["train", "dev"]
SEED_STRIDE: Final = 7_919
"""Distance between seeds, so that the two files and the corpus draw differently."""
AD_COPY: Final = "ad_copy"
WRITERS: Final[Mapping[str, Callable[[Rng, Split], tuple[str, str]]]] = MappingProxyType(
    {
        "summary": write_summary_row,
        "translation": write_translation_row,
        "classification": write_message_row,
        "continuation": write_diary_row,
        "code_comments": write_snippet_row,
    }
)
"""Task -> function that draws one row (prompt, response) for a split; ad copy is drawn by `rows`."""
TASKS: Final = (AD_COPY, *WRITERS)
"""All tasks."""


def rows(seed: int, count: int, split: Split) -> Iterator[dict[str, str]]:
    """Rows {"content": attribute list, "summary": ad copy}; each dev row has a pair of values that is in no training row or corpus text."""
    goods = read_goods()
    rng = _rng(seed, split)
    for _ in range(count):
        item = goods.draw(rng) if split == "train" else goods.draw_held_out(rng)
        yield {"content": item.content, "summary": write_copy(item, rng)}


def task_rows(task: str, seed: int, count: int, split: Split) -> Iterator[dict[str, str]]:
    """Rows of any task; except for ad copy they are {"prompt": question, "response": answer}, and no dev prompt is a training prompt.

    `task` is one of TASKS.
    """
    if task == AD_COPY:
        yield from rows(seed, count, split)
        return
    rng = _rng(seed, split)
    for _ in range(count):
        prompt, response = WRITERS[task](rng, split)
        yield {"prompt": prompt, "response": response}


def write_rows(folder: Path, *, task: str = AD_COPY, train: int = 3000, dev: int = 400, seed: int = 0) -> None:
    """Write train.jsonl and dev.jsonl into a folder."""
    counts: dict[Split, int] = {"train": train, "dev": dev}
    for split, count in counts.items():
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in task_rows(task, seed, count, split)]
        write_text(folder / f"{split}.jsonl", "".join(lines))


def _rng(seed: int, split: Split) -> Rng:
    return Rng(seed * SEED_STRIDE + (1 if split == "train" else 2))
