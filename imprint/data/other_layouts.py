"""Layouts that hold something else than questions with one answer: each is named, with what to do."""

from collections.abc import Mapping
from typing import Final

from imprint.data.column_guess import PROMPT, RESPONSE, knob_words
from imprint.data.readers.bad_rows import quote
from imprint.messages import Bilingual

QUESTIONS: Final = ("prompt", "question", "query", "instruction", "input", "问题", "提问")
"""Names of the question beside a chosen and a rejected answer."""
SPLIT: Final = {"columns", "index", "data"}
"""The keys of a table that pandas writes with orient="split"."""


def other_layout(row: Mapping[str, object], knob_prefix: str = "") -> Bilingual | None:
    """What a row is that cannot be read, and what to do; None if it is of no known layout. `knob_prefix` is typed before knobs."""
    chosen, rejected = (next((name for name in row if which in name.lower()), None) for which in ("chosen", "rejected"))
    if chosen is not None and rejected is not None:
        return _preference(row, chosen, rejected, knob_prefix)
    if {"columns", "data"} <= set(row) <= SPLIT:
        return _table(Bilingual('orient="split"', 'orient="split"'))
    values = list(row.values())
    keys = [list(value) for value in values if isinstance(value, dict)]
    if len(keys) == len(values) and keys and keys[0] and all(names == keys[0] for names in keys):
        return _table(Bilingual('orient="columns" or "index"', 'orient="columns" 或 "index"'))
    lengths = {len(value) for value in values if isinstance(value, list)}
    if len(values) > 1 and all(isinstance(value, list) for value in values) and len(lengths) == 1:
        return _table(Bilingual("a list for each column", "每列一个列表"))
    return None


def _preference(row: Mapping[str, object], chosen: str, rejected: str, knob_prefix: str) -> Bilingual:
    """A chosen and a rejected answer."""
    question = next((name for name in row if name.lower() in QUESTIONS), None)
    if isinstance(row[chosen], str) and question is not None:
        knobs = knob_words({f"{knob_prefix}{PROMPT}": question, f"{knob_prefix}{RESPONSE}": chosen})
        cure = Bilingual(f"With {knobs} the chosen answers are learned.", f"用 {knobs} 可只学较好的回答。")
    elif isinstance(row[chosen], list):
        cure = Bilingual(
            f'To learn the chosen answers, write each row as {{"messages": ...}} with the turns of {quote(chosen)}.',
            f'若只学较好的回答：请把每行写成 {{"messages": ...}}，内容取自 {quote(chosen)}。',
        )
    else:
        cure = Bilingual(
            'To learn the chosen answers, write each row as {"prompt": ..., "response": ...}.',
            '若只学较好的回答：请把每行写成 {"prompt": ..., "response": ...}。',
        )
    return Bilingual(
        f"holds a chosen and a rejected answer ({quote(chosen)}, {quote(rejected)}), as for preference training (DPO), which Imprint does "
        f"not do. {cure.english}",
        f"是偏好训练（DPO）的数据，一个较好、一个较差的回答（{quote(chosen)}、{quote(rejected)}），本程序不做偏好训练。{cure.chinese}",
    )


def _table(form: Bilingual) -> Bilingual:
    """A whole table in one object."""
    return Bilingual(
        f'is a whole table in one object, as pandas writes it ({form.english}). Write a row as an object: df.to_json("rows.jsonl", '
        'orient="records", lines=True, force_ascii=False).',
        f'是 pandas 写出的整张表（{form.chinese}），不是一行数据。请每行写一个对象：df.to_json("rows.jsonl", orient="records", lines=True, '
        "force_ascii=False)。",
    )
