"""A question with its answer, from a row of a data file."""

from dataclasses import dataclass

from imprint.templates import Message, make_messages


@dataclass(frozen=True)
class Sample:
    """A question, its answer, and what comes before it; a conversation gives a sample for each answer."""

    query: str
    """The question, never empty, or the result of a tool."""
    answer: str
    """The reference answer; empty only for a question without one."""
    history: tuple[tuple[str, str], ...] | None
    """Earlier (question, answer) turns, oldest first; None if the data has no history column."""
    location: str
    """Location of the row: "file:line", or "file:line, row 2" where several rows begin on one line."""
    system: str | None = None
    """System prompt, if any."""
    context: tuple[Message, ...] | None = None
    """All messages before the answer, if tools occur among them; else None."""
    tool: str = ""
    """Name of the tool that the answer calls; empty for a text."""
    further_messages: tuple[Message, ...] = ()
    """Further messages of the answer's turn: calls after words or after another call."""

    @property
    def messages(self) -> list[Message]:
        """The messages up to the question."""
        return make_messages(self.query, self.history, self.system) if self.context is None else list(self.context)


def split_location(location: str) -> tuple[str, int, int]:
    """(file, line, number of the row or 0) of a location: "file:line", or "file:line, row 2" where several rows begin on one line."""
    file, _, line_and_row = location.rpartition(":")
    line, _, row = line_and_row.partition(", row ")
    return file, int(line), int(row or 0)
