from collections import Counter

from imprint.demo.messages import CLAUSES, LABELS, TWO_TOPIC_FRAMES, UNSEEN, write_message_row
from imprint.demo.rng import Rng


def test_every_label_has_about_as_many_messages() -> None:
    rng = Rng(0)
    counts = Counter(label for _, label in (write_message_row(rng, "train") for _ in range(2000)))
    assert set(counts) == set(LABELS) == set(CLAUSES)
    assert max(counts.values()) < 1.3 * min(counts.values())


def test_some_held_out_messages_say_what_no_training_message_says() -> None:
    rng = Rng(0)
    marks = [clause.split("{thing}")[-1].partition("{")[0] for clauses in CLAUSES.values() for clause in clauses[-UNSEEN:]]
    marks = [mark for mark in marks if len(mark) > 3]
    train, dev = ([write_message_row(rng, split)[0] for _ in range(400)] for split in ("train", "dev"))
    assert not [text for text in train if any(mark in text for mark in marks)]
    assert [text for text in dev if any(mark in text for mark in marks)]


def test_the_words_around_two_complaints_tell_which_is_meant() -> None:
    assert all("{minor}" in frame and "{major}" in frame for frame in TWO_TOPIC_FRAMES)
    assert {frame.index("{minor}") < frame.index("{major}") for frame in TWO_TOPIC_FRAMES} == {True, False}
