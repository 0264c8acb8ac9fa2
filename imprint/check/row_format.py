"""One form for rows of all shapes, so that rows of different files can stand in one file and are read as before."""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field

from imprint.data.sample import Sample
from imprint.data.shapes import Columns, RowShape
from imprint.data.writers import HISTORY, sample_to_row
from imprint.templates import Message


@dataclass(frozen=True)
class RowFormat:
    """How rows are written."""

    columns: Columns
    """The columns that were asked for."""
    kinds: Set[str]
    """The kinds of shapes that the rows come in."""
    dropped_columns: set[str] = field(default_factory=set)
    """Columns that were there and are not written."""

    def format_row(self, row: Mapping[str, object], shape: RowShape, samples: Sequence[Sample]) -> dict[str, object]:
        """A row that gives the same samples: columns as they are named, else the normal form; of conversations `messages`.

        Where all rows have named columns they keep their other columns, which are not read; elsewhere those might be taken for something.
        """
        last = samples[-1]
        if self.kinds == {"named"}:
            mended: dict[str, object] = {**row, shape.prompt: last.query, shape.response: last.answer}
            return mended if shape.history is None else mended | {shape.history: last.history}
        self.dropped_columns.update(name for name in row if name not in shape.read_columns)
        if "conversation" in self.kinds:
            return {"messages": _messages(samples)} if last.context is None else _with_tools(samples, last.context)
        said = sample_to_row(last)
        return (
            said
            if self.columns.history is None
            else {name: said[name] for name in said if name != HISTORY} | {self.columns.history: last.history}
        )


def _with_tools(samples: Sequence[Sample], said: Sequence[Message]) -> dict[str, object]:
    """A conversation with the tools that it offers, and calls as ChatGLM3 and GLM-4 have them."""
    learned = {len(sample.context or ()) for sample in samples}
    turns: list[dict[str, object]] = []
    for index, message in enumerate((*said, Message("assistant", samples[-1].answer, samples[-1].tool))):
        if message.role == "system" and not message.text:
            continue
        turn: dict[str, object] = {"role": message.role, "content": message.text}
        turn |= {"metadata": message.tool} if message.tool else {}
        turns.append(turn | ({"loss": False} if message.role == "assistant" and index not in learned else {}))
    tools = [dict(tool) for message in said for tool in message.tools]
    return {"tools": tools, "messages": turns} if tools else {"messages": turns}


def _messages(samples: Sequence[Sample]) -> list[dict[str, object]]:
    """The turns of a conversation; an answer that is no sample is read and not learned."""
    last = samples[-1]
    learned = {len(sample.history or ()) for sample in samples}
    turns: list[dict[str, object]] = [{"role": "system", "content": last.system}] if last.system else []
    for number, (question, answer) in enumerate([*(last.history or ()), (last.query, last.answer)]):
        turns.append({"role": "user", "content": question})
        turns.append({"role": "assistant", "content": answer} | ({} if number in learned else {"loss": False}))
    return turns
