from imprint.demo.rng import Rng
from imprint.demo.stories import list_words, read_everyday_words, tell_day, write_odd_text


def test_stories_have_no_gap_left_open() -> None:
    rng = Rng(3)
    for tell in (tell_day, list_words, write_odd_text):
        for _ in range(300):
            text = tell(rng)
            assert text
            assert not any(gap in text for gap in ("{number}", "{digit}", "{words}", "{one}"))


def test_everyday_words_bring_a_thousand_characters() -> None:
    assert len(set("".join(read_everyday_words()))) > 1000
