from imprint.data.sample import Sample, split_location
from imprint.templates import Message, make_messages


def test_the_messages_are_everything_before_the_answer() -> None:
    sample = Sample("类型#上衣", "这件上衣很好看。", (("a", "b"),), "train.jsonl:1", "s")

    assert [(message.role, message.text) for message in sample.messages] == [
        ("system", "s"),
        ("user", "a"),
        ("assistant", "b"),
        ("user", "类型#上衣"),
    ]


def test_messages_with_tools_are_taken_as_they_are() -> None:
    context: tuple[Message, ...] = (*make_messages("几点了？", None, None), *make_messages("12:00", None, None))

    assert Sample("12:00", "十二点。", None, "train.jsonl:1", context=context).messages == list(context)


def test_a_location_has_a_line_and_perhaps_a_number_of_a_row() -> None:
    assert split_location("a:b.jsonl:12") == ("a:b.jsonl", 12, 0)
    assert split_location("book.xlsx!Sheet 1:12") == ("book.xlsx!Sheet 1", 12, 0)
    assert split_location("rows.json:1, row 2") == ("rows.json", 1, 2)
