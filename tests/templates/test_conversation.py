from imprint.templates import Message, make_messages, split_rounds


def test_a_conversation_is_the_system_text_the_turns_and_the_question() -> None:
    assert make_messages("再见", [("你好", "你好！")], "你是店员。") == [
        Message("system", "你是店员。"),
        Message("user", "你好"),
        Message("assistant", "你好！"),
        Message("user", "再见"),
    ]
    assert make_messages("你好") == make_messages("你好", [], "") == [Message("user", "你好")]


def test_a_round_goes_from_a_question_to_what_comes_before_the_next() -> None:
    messages = [
        Message("system", "你有工具。"),
        Message("user", "北京的天气？"),
        Message("assistant", "{}", tool="weather"),
        Message("observation", "晴"),
        Message("assistant", "晴。"),
        Message("user", "上海呢？"),
    ]
    assert split_rounds(messages) == (messages[:1], [messages[1:5], messages[5:]])
    assert split_rounds([]) == ([], [])
