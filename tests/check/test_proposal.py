from collections.abc import Sequence

import pytest

from imprint.check.proposal import Proposal, RowKinds
from imprint.data.shapes import Columns, detect_shape, samples_from_row
from imprint.starters.command import STARTERS

PROSE = "这件上衣很宽松，适合夏天穿，也适合秋天穿。"


def proposal(rows: Sequence[dict[str, object]]) -> Proposal:
    kinds = RowKinds()
    for number, row in enumerate(rows, start=1):
        shape = detect_shape(row, Columns())
        kinds.add(samples_from_row(row, shape, f"a:{number}"), shape)
    return kinds.proposal()


def talk(number: int) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": "你好"}, {"role": "assistant", "content": f"你好，{number}。"}]}


@pytest.mark.parametrize(
    ("rows", "starter"),
    [
        ([{"prompt": f"类型#上衣*编号#{number}", "response": f"{PROSE}{number}"} for number in range(9)], "adgen"),
        ([{"content": f"编号#{number}", "summary": PROSE} for number in range(9)], "adgen"),  # one answer is no choice
        ([talk(number) for number in range(9)], "chat"),
        ([{"question": f"{number}？", "answer": f"{number}。"} for number in range(9)], "chat"),
        ([{"instruction": f"{number}？", "output": f"{number}。"} for number in range(9)], "chat"),
        ([{"prompt": str(number), "response": f"{number}。", "history": [["问", "答"]]} for number in range(9)], "chat"),
        ([{"prompt": str(number), "response": f"{number}。", "system": "简短"} for number in range(9)], "chat"),
        ([{"question": str(number), "answer": "好坏"[number % 2]} for number in range(9)], "classify"),
        ([{"instruction": "分类", "input": str(number), "output": "好坏"[number % 2]} for number in range(9)], "classify"),
        ([{"content": str(number), "summary": "好坏"[number % 2]} for number in range(4)], "adgen"),  # too few to tell
        ([{"content": str(number), "summary": f"{PROSE * 2}{number % 2}"} for number in range(9)], "adgen"),  # too long for labels
        ([{"content": str(number), "summary": "好\n" if number % 2 else "坏"} for number in range(9)], "adgen"),
    ],
)
def test_the_starter_fits_the_rows(rows: Sequence[dict[str, object]], starter: str) -> None:
    assert proposal(rows).starter == starter
    assert starter in STARTERS


def test_what_a_recipe_must_be_told_follows_from_the_starter() -> None:
    assert proposal([{"content": str(number), "summary": "好坏"[number % 2]} for number in range(9)]).labels == ("坏", "好")
    assert proposal([talk(1)]) == Proposal("chat", mixes_general=True)
    for name, starter in STARTERS.items():
        kinds = Proposal("chat", mixes_general=True), Proposal("adgen", has_own_dev=True), Proposal("classify", has_own_dev=True)
        for one in kinds:
            assert one.starter != name or one.has_own_dev == ("held-out.jsonl" in starter.rows())
