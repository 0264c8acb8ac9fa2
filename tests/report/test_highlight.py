"""What an answer shares with its label is found, and the text stays whole."""

import pytest

from imprint.report.highlight import shared_spans


def test_shared_words_are_marked_without_the_punctuation_at_their_ends() -> None:
    assert shared_spans("裙子，白色的外套。", "白色的外套，裤子。") == [("裙子，", False), ("白色的外套", True), ("。", False)]


def test_order_does_not_matter() -> None:
    assert [piece for piece, shared in shared_spans("外套是白色", "白色外套") if shared] == ["外套", "白色"]


@pytest.mark.parametrize("text", ["的", "，。", "他的。", "", "\n"])
def test_a_lone_letter_or_punctuation_tells_nothing(text: str) -> None:
    assert not any(shared for _, shared in shared_spans(text, "我的，好。\n"))


@pytest.mark.parametrize("text", ["白色的外套\n很 <b>百搭</b>！", "", "a b  c", "<UNK>，，。白色"])
def test_the_pieces_are_the_text_again(text: str) -> None:
    pieces = shared_spans(text, "白色的外套，很百搭 a b")

    assert "".join(piece for piece, _ in pieces) == text
    assert all(piece for piece, _ in pieces)
