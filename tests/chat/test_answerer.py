from imprint.chat.answerer import dropped_note


def test_turns_that_were_left_out_are_counted_in_both_languages() -> None:
    assert dropped_note(2) == "2 old turns no longer seen / 已略去最早 2 轮"
