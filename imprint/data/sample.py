"""One question with its answer, as a data file gives it."""

from dataclasses import dataclass

from imprint.templates import Message, make_messages


@dataclass(frozen=True)
class Sample:
    """One row of a data file: what is asked, what should be answered, and where the row stands."""

    query: str
    """What is asked, never empty; or what a tool gave back."""
    answer: str
    """What should be answered; empty only for a question that nobody has answered yet."""
    history: tuple[tuple[str, str], ...] | None
    """Earlier (question, answer) turns, oldest first; None where the data has no history column."""
    location: str
    """Where the row stands: "file:line"."""
    system: str | None = None
    """What the model is told before the conversation, where the data says so."""
    context: tuple[Message, ...] | None = None
    """All that is said before the answer, where tools are offered, called or answered in it; None elsewhere."""
    tool: str = ""
    """The tool that the answer calls."""

    @property
    def messages(self) -> list[Message]:
        """What is said up to the question."""
        return make_messages(self.query, self.history, self.system) if self.context is None else list(self.context)
