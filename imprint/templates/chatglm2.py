"""The template of ChatGLM2-6B: question and history as one text.

Source: `build_prompt` in tokenization_chatglm.py and `process_response` in modeling_chatglm.py, THUDM/chatglm2-6b.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from imprint.templates.chatglm import fill_date, with_system, without_partial_date
from imprint.templates.conversation import Message, Segment, Turns
from imprint.templates.pairs import split_pairs
from imprint.templates.rounds import LatestConversation
from imprint.tokenizers import ChatGLM2Tokenizer


@dataclass(frozen=True)
class ChatGLM2Template:
    """`[gMASK] sop`, then rounds counted from 1 as text."""

    tokenizer: ChatGLM2Tokenizer
    """The tokenizer of its ids."""
    latest: LatestConversation = field(default_factory=LatestConversation, compare=False, repr=False)
    """Tokens of the rounds of the latest conversation."""

    @property
    def name(self) -> str:
        """Its name in a recipe."""
        return "chatglm2"

    @property
    def supports_tools(self) -> bool:
        """Not supported."""
        return False

    @property
    def describes_tools(self) -> bool:
        """See Template."""
        return False

    @property
    def end_id(self) -> int:
        """`</s>`."""
        return self.tokenizer.controls["</s>"]

    @property
    def stop_ids(self) -> frozenset[int]:
        """`</s>` alone."""
        return frozenset({self.end_id})

    @property
    def start_ids(self) -> tuple[int, int]:
        """`[gMASK] sop`."""
        return self.tokenizer.controls["[gMASK]"], self.tokenizer.controls["sop"]

    def prompt(self, messages: Sequence[Message], source_prefix: str = "") -> tuple[Segment, ...]:
        """`[gMASK] sop`, then the text. Raises UserError for tool messages."""
        query, history, system = split_pairs(messages, "ChatGLM2-6B")
        text = self.tokenizer.encode(source_prefix + with_system(format_rounds_from_one(query, history), system))
        return (Segment(self.start_ids, fixed=True), Segment(tuple(text)))

    def answer(self, _messages: Sequence[Message], text: str, _tool: str = "", _rest: Sequence[Message] = (), /) -> list[int]:
        """The ids of the text."""
        return self.tokenizer.encode(text)

    def scored_text(self, text: str) -> str:
        """Unchanged."""
        return text

    def display_text(self, text: str, *, done: bool = True) -> str:  # noqa: ARG002
        """Trimmed and with its date filled in."""
        return fill_date(text)

    def stable_prefix(self, shown: str) -> str:
        """Without an incomplete date at the end."""
        return without_partial_date_or_bracket(shown)


def without_partial_date_or_bracket(shown: str) -> str:
    """Without an incomplete date at the end, or a bracket that may begin one."""
    text = without_partial_date(shown)
    return text[:-1] if text == shown and text.endswith("[") else text


def format_rounds_from_one(query: str, history: Turns) -> str:
    """The prompt in numbered rounds, also without a history."""
    earlier = "".join(format_round_from_one(index, *turn) for index, turn in enumerate(history))
    return earlier + format_question_from_one(len(history), query)


def format_round_from_one(index: int, question: str, answer: str) -> str:
    """An earlier round; the first one has index 0 and number 1."""
    return f"{format_question_from_one(index, question)}{answer}\n\n"


def format_question_from_one(index: int, question: str) -> str:
    """The last round, for the model to answer."""
    return f"[Round {index + 1}]\n\n问：{question}\n\n答："
