"""The shape in which repaired rows are written, so that rows of different shapes fit into one file."""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field

from imprint.data.sample import Sample
from imprint.data.shapes import Columns, RowShape, unread_turn_keys
from imprint.data.writers import HISTORY, sample_to_row
from imprint.templates import Message


@dataclass(frozen=True)
class RowFormat:
    """How repaired rows are written."""

    columns: Columns
    """The columns named by the user."""
    kinds: Set[str]
    """The kinds of shapes among the rows."""
    dropped_columns: set[str] = field(default_factory=set)
    """Columns of the rows, and keys of their turns, that are not written."""

    def format_row(self, row: Mapping[str, object], shape: RowShape, samples: Sequence[Sample]) -> dict[str, object]:
        """A row with the same samples: the named columns, else the normal form, or `messages` if any row is a conversation.

        Other columns are kept only if all rows have named columns: in another shape they could be read as something else.
        """
        last = samples[-1]
        if self.kinds == {"named"}:
            repaired: dict[str, object] = {**row, shape.prompt: last.query, shape.response: last.answer}
            return repaired if shape.history is None else repaired | {shape.history: last.history}
        self.dropped_columns.update(name for name in row if name not in shape.read_columns)
        self.dropped_columns.update(unread_turn_keys(row, shape))
        if row.get("tools") and last.context is None:
            self.dropped_columns.add("tools")
        if "conversation" in self.kinds:
            return {"messages": _messages(samples)} if last.context is None else _with_tools(samples, last.context)
        normal = sample_to_row(last)
        return (
            normal
            if self.columns.history is None
            else {name: normal[name] for name in normal if name != HISTORY} | {self.columns.history: last.history}
        )


def _with_tools(samples: Sequence[Sample], context: Sequence[Message]) -> dict[str, object]:
    """A conversation with its tools, and calls in the form of ChatGLM3 and GLM-4. `context`: the messages before the last answer."""
    learned = {len(sample.context or ()) for sample in samples}
    answer = Message("assistant", samples[-1].answer, samples[-1].tool)
    turns: list[dict[str, object]] = []
    for index, message in enumerate((*context, answer, *samples[-1].further_messages)):
        if message.role == "system" and not message.text:
            continue
        if message.continues:
            _add_call(turns[-1], message)
            continue
        turn: dict[str, object] = {"role": message.role, "content": message.text}
        turn |= {"metadata": message.tool} if message.tool else {}
        turns.append(turn | ({"loss": False} if message.role == "assistant" and index not in learned else {}))
    tools = [tool if isinstance(tool, str) else dict(tool) for message in context for tool in message.tools]
    return {"tools": tools, "messages": turns} if tools else {"messages": turns}


def _add_call(turn: dict[str, object], message: Message) -> None:
    """Add a call to the turn of the words or the call before it, in OpenAI's form."""
    if name := turn.pop("metadata", None):
        turn |= {"tool_calls": [{"function": {"name": name, "arguments": turn["content"]}}], "content": ""}
    calls = turn.setdefault("tool_calls", [])
    assert isinstance(calls, list)
    calls.append({"function": {"name": message.tool, "arguments": message.text}})


def _messages(samples: Sequence[Sample]) -> list[dict[str, object]]:
    """The turns of a conversation; an answer that is no sample gets `"loss": false`."""
    last = samples[-1]
    learned = {len(sample.history or ()) for sample in samples}
    turns: list[dict[str, object]] = [{"role": "system", "content": last.system}] if last.system else []
    for index, (question, answer) in enumerate([*(last.history or ()), (last.query, last.answer)]):
        turns.append({"role": "user", "content": question})
        turns.append({"role": "assistant", "content": answer} | ({} if index in learned else {"loss": False}))
    return turns
