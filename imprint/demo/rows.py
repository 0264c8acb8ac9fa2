"""Rows as ADGEN's, an attribute list and its ad copy, for tuning and for judging what was tuned."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal

from imprint.demo.copywriter import write_copy
from imprint.demo.dice import Dice
from imprint.demo.goods import read_goods
from imprint.files import write_text

Split = Literal["train", "dev"]
SEED_STRIDE: Final = 7_919
"""Keeps the choices for the two files, and for the corpus, apart."""


def rows(seed: int, count: int, split: Split) -> Iterator[dict[str, str]]:
    """Rows {"content": attribute list, "summary": ad copy}; each dev row has a pair of values that no training row and no text holds."""
    goods = read_goods()
    dice = Dice(seed * SEED_STRIDE + (1 if split == "train" else 2))
    for _ in range(count):
        item = goods.draw(dice) if split == "train" else goods.draw_held_out(dice)
        yield {"content": item.content, "summary": write_copy(item, dice)}


def write_rows(folder: Path, *, train: int = 3000, dev: int = 400, seed: int = 0) -> None:
    """Write train.jsonl and dev.jsonl into a folder."""
    counts: dict[Split, int] = {"train": train, "dev": dev}
    for split, count in counts.items():
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows(seed, count, split)]
        write_text(folder / f"{split}.jsonl", "".join(lines))
