"""Which parts of an answer are in the label too, so that the eye sees who is nearer."""

from imprint.metrics.tokens import words


def shared_runs(text: str, label: str) -> list[tuple[str, bool]]:
    """The text in pieces, each with whether it is shared; joined they are the text again.

    Shared is a run of words that all occur in the label, which is what ROUGE-1 counts, from two letters on: a lone 的 tells nothing.
    """
    known = set(words(label))
    pieces: list[tuple[str, bool]] = []
    run: list[str] = []
    for word in words(text):
        if word in known:
            run.append(word)
            continue
        pieces += [*_pieces_of_run(run), (word, False)]
        run = []
    return _joined(pieces + _pieces_of_run(run))


def _pieces_of_run(run: list[str]) -> list[tuple[str, bool]]:
    """A run of known words: the punctuation at its ends is not marked, and a run too short to tell is not either."""
    solid = [place for place, word in enumerate(run) if _letters(word)]
    if sum(_letters(word) for word in run) < 2:
        return [(word, False) for word in run]
    first, last = solid[0], solid[-1] + 1
    return [("".join(run[:first]), False), ("".join(run[first:last]), True), ("".join(run[last:]), False)]


def _letters(word: str) -> int:
    return sum(letter.isalnum() for letter in word)


def _joined(pieces: list[tuple[str, bool]]) -> list[tuple[str, bool]]:
    """Neighbours of one kind as one piece, nothing empty."""
    joined: list[tuple[str, bool]] = []
    for text, shared in pieces:
        if joined and joined[-1][1] == shared:
            joined[-1] = (joined[-1][0] + text, shared)
        elif text:
            joined.append((text, shared))
    return joined
