from imprint.demo.rng import Rng
from imprint.demo.translations import COLOURS, THINGS, write_translation_row


def test_both_sides_say_the_same_words() -> None:
    rng = Rng(0)
    for _ in range(300):
        english, chinese = write_translation_row(rng, "train")
        assert english.isascii()
        assert "{" not in english + chinese
        words = english.split()
        assert [meaning for word, meaning in COLOURS if word in words and meaning not in chinese] == []
        assert [meaning for word, meaning, _ in THINGS if word in words and meaning not in chinese] == []


def test_two_qualities_of_a_thing_differ() -> None:
    rng = Rng(1)
    both = [english for english, _ in (write_translation_row(rng, "train") for _ in range(600)) if " and " in english]
    assert both
    assert all(english.split()[-1] != english.split()[-3] for english in both)
