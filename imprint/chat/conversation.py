"""The state of a chat: turns, system prompt and sampling settings; independent of model and terminal."""

from dataclasses import dataclass, replace
from pathlib import Path

from imprint.chat.section import ChatSettings
from imprint.config import read_overrides
from imprint.messages import Bilingual, UserError


@dataclass(frozen=True)
class ChatTurn:
    """A question and its answer."""

    question: str
    """What was asked."""
    answer: str
    """The answer, possibly stopped or empty."""
    stopped: bool = False
    """Whether Ctrl-C stopped it."""
    tries: int = 0
    """Number of retries."""


@dataclass(frozen=True)
class Conversation:
    """The immutable state of a chat; each command and each answer returns a new one."""

    settings: ChatSettings
    """Sampling settings."""
    system: str | None = None
    """System prompt."""
    has_adapter: bool = False
    """Whether there is an adapter that can be switched off."""
    adapter_on: bool = True
    """Whether it is on."""
    turns: tuple[ChatTurn, ...] = ()
    """Turns, oldest first."""
    pending: str | None = None
    """A question without any answer; not in `turns`."""
    saved: tuple[Path, ...] = ()
    """Files of earlier /save commands, which may be overwritten."""

    @property
    def history(self) -> list[tuple[str, str]]:
        """(question, answer) pairs, as a model takes them."""
        return [(turn.question, turn.answer) for turn in self.turns]

    def ask(self, question: str) -> "ChatRequest":
        """The request for this question."""
        return ChatRequest(question, replace(self, pending=None), replace(self, pending=question))

    def retry(self) -> "ChatRequest":
        """The request for the last question again; its answer stays until there is a new one. Raises UserError if there is none."""
        if self.pending is not None:
            return self.ask(self.pending)
        if not self.turns:
            raise UserError(Bilingual("/retry: nothing was asked yet. Type a question first.", "/retry：还没有问过问题。"))
        *earlier, last = self.turns
        return ChatRequest(last.question, replace(self, turns=tuple(earlier)), self, last.tries + 1)

    def undo(self) -> tuple["Conversation", ChatTurn]:
        """The conversation without its last turn, and that turn. Raises UserError if there is none."""
        if not self.turns:
            raise UserError(Bilingual("/undo: the conversation is empty.", "/undo：对话是空的。"))
        return replace(self, turns=self.turns[:-1], pending=None), self.turns[-1]

    def clear(self) -> "Conversation":
        """The conversation without turns; system prompt and settings stay."""
        return replace(self, turns=(), pending=None, saved=())

    def with_system(self, system: str | None) -> "Conversation":
        """With another system prompt."""
        return replace(self, system=system)

    def with_adapter(self, *, on: bool) -> "Conversation":
        """With the adapter on or off. Raises UserError if there is none."""
        if not self.has_adapter:
            raise UserError(
                Bilingual(
                    "/adapter: there is no adapter to switch; this model answers as it is. Give the run of a prefix or a LoRA, or "
                    "adapter=FOLDER, to `imprint chat`; of a service that has a base, model=NAME of another model.",
                    "/adapter：没有可开关的适配器。与在线服务对话时，请用 model= 选择微调后的模型。",
                )
            )
        return replace(self, adapter_on=on)

    def with_setting(self, name: str, value: str) -> "Conversation":
        """With another sampling setting, validated as at the start of the chat."""
        try:
            given = read_overrides([f"{name}={value}"], type(self.settings))
        except UserError as error:
            raise UserError(str(error).replace(f"override {name}", f"/set {name}")) from error
        return replace(self, settings=self.settings.model_copy(update={name: getattr(given, name)}))


@dataclass(frozen=True)
class ChatRequest:
    """A question to answer."""

    question: str
    """The question."""
    before: Conversation
    """The conversation before it."""
    without_answer: Conversation
    """The conversation if there is no answer."""
    tries: int = 0
    """Number of earlier tries."""

    @property
    def seed(self) -> int | None:
        """The sampling seed: with a seed set, each retry gives another answer, reproducibly."""
        seed = self.before.settings.seed
        return None if seed is None else seed + self.tries

    def answered(self, answer: str, *, stopped: bool = False) -> Conversation:
        """The conversation with this turn."""
        return replace(self.before, turns=(*self.before.turns, ChatTurn(self.question, answer, stopped, self.tries)))
