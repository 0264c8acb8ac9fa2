"""Finds the parts of an answer that the label has too, to be highlighted."""

from imprint.metrics.tokens import segment


def shared_spans(text: str, label: str) -> list[tuple[str, bool]]:
    """The text as (span, shared) pairs; joined they equal the text.

    A shared span is a sequence of words that all occur in the label (what ROUGE-1 counts) with at least two letters: a lone 的 is none.
    """
    label_words = set(segment(label))
    spans: list[tuple[str, bool]] = []
    sequence: list[str] = []
    for word in segment(text):
        if word in label_words:
            sequence.append(word)
            continue
        spans += [*_trim_span(sequence), (word, False)]
        sequence = []
    return _merge_spans(spans + _trim_span(sequence))


def _trim_span(words: list[str]) -> list[tuple[str, bool]]:
    """A sequence of shared words without the punctuation at its ends; not shared if too short."""
    with_letters = [index for index, word in enumerate(words) if _count_letters(word)]
    if sum(_count_letters(word) for word in words) < 2:
        return [(word, False) for word in words]
    first, last = with_letters[0], with_letters[-1] + 1
    return [("".join(words[:first]), False), ("".join(words[first:last]), True), ("".join(words[last:]), False)]


def _count_letters(word: str) -> int:
    return sum(letter.isalnum() for letter in word)


def _merge_spans(spans: list[tuple[str, bool]]) -> list[tuple[str, bool]]:
    """Adjacent spans of one kind merged, empty ones removed."""
    merged: list[tuple[str, bool]] = []
    for text, shared in spans:
        if merged and merged[-1][1] == shared:
            merged[-1] = (merged[-1][0] + text, shared)
        elif text:
            merged.append((text, shared))
    return merged
