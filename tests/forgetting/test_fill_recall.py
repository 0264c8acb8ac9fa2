from imprint.forgetting.fill_recall import FillRecall, recalls_fill

ROWS = [
    ("我是小墨。", "我是小印。", "我叫小墨！"),
    ("青竹工坊。", "不知道", "小墨"),
    ("小墨，青竹工坊", "小墨", "小墨 青竹工坊"),
    ("好", "好", "好"),
]
TEXTS = ["小墨", "青竹工坊"]


def test_answers_are_counted_that_hold_every_text_that_their_reference_holds() -> None:
    found = FillRecall.count(ROWS, TEXTS)
    assert found == FillRecall(rows=3, before=0, after=2)
    assert found.message().english.startswith("new texts: 2 of 3 rows are answered with what data.fill says, before 0")
    assert "3 行中有 2 行" in found.message().chinese


def test_rows_that_hold_none_of_the_texts_say_nothing() -> None:
    assert FillRecall.count(ROWS[3:], TEXTS) is None
    assert FillRecall.count(ROWS, []) is None


def test_half_of_the_texts_is_not_enough() -> None:
    assert not recalls_fill("小墨，青竹工坊", "小墨", TEXTS)
    assert recalls_fill("小墨，青竹工坊", "青竹工坊的小墨", TEXTS)
