"""What a chat is about: its turns, what the model is told first, and how answers are drawn. Knows no model and no terminal."""

from dataclasses import dataclass, replace
from pathlib import Path

from imprint.chat.section import SamplingSection
from imprint.config import read_overrides
from imprint.errors import UserError
from imprint.messages import Bilingual


@dataclass(frozen=True)
class ChatTurn:
    """A question and what was answered."""

    question: str
    """What was asked."""
    answer: str
    """What the model said, as far as it came; may be empty."""
    stopped: bool = False
    """Whether a person stopped it."""
    tries: int = 0
    """How often it was asked again."""


@dataclass(frozen=True)
class Conversation:
    """The state of a chat: a value, from which each command and each answer makes the next one."""

    settings: SamplingSection
    """How answers are drawn."""
    system: str | None = None
    """What the model is told before the conversation."""
    has_adapter: bool = False
    """Whether there is an adapter that can be switched off."""
    adapter_on: bool = True
    """Whether it is on."""
    turns: tuple[ChatTurn, ...] = ()
    """What was said, oldest first."""
    pending: str | None = None
    """A question that got no answer at all and is not in `turns`."""
    saved: tuple[Path, ...] = ()
    """The files that hold it as it was earlier, which it may replace."""

    @property
    def history(self) -> list[tuple[str, str]]:
        """The turns as a model takes them."""
        return [(turn.question, turn.answer) for turn in self.turns]

    def ask(self, question: str) -> "ChatRequest":
        """What has to be answered for this question."""
        return ChatRequest(question, replace(self, pending=None), replace(self, pending=question))

    def retry(self) -> "ChatRequest":
        """The last question once more; its answer stays until there is another one. UserError where nothing was asked."""
        if self.pending is not None:
            return self.ask(self.pending)
        if not self.turns:
            raise UserError(Bilingual("/retry: nothing was asked yet. Type a question first.", "还没有问过问题。"))
        *earlier, last = self.turns
        return ChatRequest(last.question, replace(self, turns=tuple(earlier)), self, last.tries + 1)

    def undo(self) -> tuple["Conversation", ChatTurn]:
        """Without the last turn, and that turn; UserError where there is none."""
        if not self.turns:
            raise UserError(Bilingual("/undo: the conversation is empty.", "对话是空的。"))
        return replace(self, turns=self.turns[:-1], pending=None), self.turns[-1]

    def clear(self) -> "Conversation":
        """Without any turn; what the model is told first and the settings stay."""
        return replace(self, turns=(), pending=None, saved=())

    def tell(self, system: str | None) -> "Conversation":
        """With another system text, from the next answer on."""
        return replace(self, system=system)

    def switch(self, *, on: bool) -> "Conversation":
        """With the adapter on or off; UserError where there is none."""
        if not self.has_adapter:
            raise UserError(
                Bilingual(
                    "/adapter: there is no adapter to switch; this model answers as it is. Give the run of a prefix or a LoRA, or "
                    "adapter=FOLDER, to `imprint chat`.",
                    "没有可开关的适配器。",
                )
            )
        return replace(self, adapter_on=on)

    def set(self, name: str, value: str) -> "Conversation":
        """With another setting, checked as one that is given when the chat starts."""
        try:
            given = read_overrides([f"{name}={value}"], SamplingSection)
        except UserError as error:
            raise UserError(str(error).replace("override ", "/set ", 1)) from error
        return replace(self, settings=self.settings.model_copy(update={name: getattr(given, name)}))


@dataclass(frozen=True)
class ChatRequest:
    """A question to be answered now."""

    question: str
    """What is asked."""
    before: Conversation
    """What was said before it; the answer is added to that."""
    otherwise: Conversation
    """What the conversation is where no answer comes."""
    tries: int = 0
    """How often it was asked before."""

    @property
    def seed(self) -> int | None:
        """The seed to draw with: with one set, each try draws another answer, and the same ones every time."""
        seed = self.before.settings.seed
        return None if seed is None else seed + self.tries

    def answered(self, answer: str, *, stopped: bool = False) -> Conversation:
        """The conversation with this turn."""
        return replace(self.before, turns=(*self.before.turns, ChatTurn(self.question, answer, stopped, self.tries)))
