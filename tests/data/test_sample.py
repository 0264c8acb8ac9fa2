from imprint.data.sample import Sample
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
