from imprint.messages import Bilingual, UserError

MESSAGE = Bilingual("there is no such file", "没有这个文件")


def test_both_languages_stand_on_two_lines_or_on_one() -> None:
    assert str(MESSAGE) == "there is no such file\n没有这个文件"
    assert MESSAGE.line == "there is no such file / 没有这个文件"


def test_an_error_takes_a_message_in_both_languages() -> None:
    assert str(UserError(MESSAGE)) == str(MESSAGE)


def test_a_location_is_put_before_the_english_text() -> None:
    assert str(UserError(MESSAGE).prefixed("rows.jsonl:7: ")) == "rows.jsonl:7: there is no such file\n没有这个文件"
    assert str(UserError("no. ").prefixed("x: ")) == "x: no. "
