"""Finds the end of an answer at a stop text: in its tokens as they come, and in its text."""

from collections.abc import Callable, Sequence


class StopSearch:
    """Looks for stop texts in the growing text of one answer; only as much of the text as a stop text can reach is kept."""

    def __init__(self, stop: Sequence[str], add: Callable[[int], str]) -> None:
        self.stop = stop
        self._add = add
        """A token -> the characters that it completes."""
        self._longest = max(map(len, stop))
        self._text = ""

    def push(self, token: int) -> bool:
        """Whether a stop text is complete with this token."""
        self._text += self._add(token)
        found = any(text in self._text for text in self.stop)
        self._text = self._text[1 - self._longest :] if self._longest > 1 else ""
        return found


def before_stop(text: str, stop: Sequence[str], *, done: bool) -> str:
    """The text in front of its first stop text; unless `done`, also without an end that may become one."""
    ends = [index for index in map(text.find, stop) if index >= 0]
    if ends:
        return text[: min(ends)]
    if done or not stop:
        return text
    longest = min(max(map(len, stop)) - 1, len(text))
    held = next((size for size in range(longest, 0, -1) if any(end.startswith(text[-size:]) for end in stop)), 0)
    return text[: len(text) - held]
