import json
from hashlib import sha256
from itertools import islice
from pathlib import Path

import pytest

from imprint.demo.corpus import documents
from imprint.demo.goods import read_goods
from imprint.demo.rows import TASKS, rows, task_rows, write_rows


def pairs(content: str) -> set[tuple[str, str]]:
    parts = sorted(content.split("*")[1:])
    return {(one, other) for place, one in enumerate(parts) for other in parts[place + 1 :]}


def held_out_names() -> set[tuple[str, str]]:
    named = [(f"{one.attribute}#{one.word}", f"{other.attribute}#{other.word}") for one, other in read_goods().held_out]
    return {(one, other) for one, other in named if one < other}


def test_rows_are_the_same_on_every_machine() -> None:
    text = json.dumps([*rows(0, 100, "train"), *rows(0, 100, "dev")], ensure_ascii=False)
    assert sha256(text.encode()).hexdigest()[:16] == "3f9d2ffa96736b20"


def test_every_dev_row_has_a_pair_that_no_training_row_has() -> None:
    held_out = held_out_names()
    seen: set[tuple[str, str]] = set().union(*[pairs(row["content"]) for row in rows(0, 3000, "train")])
    assert not seen & held_out
    assert all(pairs(row["content"]) & held_out for row in rows(0, 400, "dev"))


def test_no_held_out_pair_stands_in_the_corpus() -> None:
    held_out = held_out_names()
    lists = [sample.query for sample in islice(documents(0), 5000) if "类型#" in sample.query]
    assert len(lists) > 500
    for query in lists:
        words = {part.split("\n")[0] for part in query[query.index("类型#") :].split("*")}
        assert not [pair for pair in held_out if words >= set(pair)], query


def test_training_and_dev_rows_share_no_copy() -> None:
    train = {row["summary"] for row in rows(0, 3000, "train")}
    assert not [row for row in rows(0, 400, "dev") if row["summary"] in train]


def test_the_two_files_hold_the_rows_and_nothing_stands_beside_them(tmp_path: Path) -> None:
    write_rows(tmp_path, train=5, dev=3, seed=1)
    lines = (tmp_path / "train.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == list(rows(1, 5, "train"))
    assert len((tmp_path / "dev.jsonl").read_text(encoding="utf-8").splitlines()) == 3
    assert sorted(file.name for file in tmp_path.iterdir()) == ["dev.jsonl", "train.jsonl"]


@pytest.mark.parametrize("task", [task for task in TASKS if task != "ad_copy"])
def test_no_dev_prompt_of_a_task_is_a_training_prompt(task: str) -> None:
    train, dev = list(task_rows(task, 0, 3000, "train")), list(task_rows(task, 0, 400, "dev"))
    known = {row["prompt"] for row in train}
    assert {tuple(row) for row in (*train, *dev)} == {("prompt", "response")}
    assert all(row["prompt"] and row["response"] for row in (*train, *dev))
    assert [row for row in dev if row["prompt"] in known] == []
    assert list(task_rows(task, 0, 20, "dev")) == dev[:20]
    assert list(task_rows(task, 1, 20, "dev")) != dev[:20]
