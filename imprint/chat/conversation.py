"""The state of a chat: turns, system prompt and sampling settings; independent of model and terminal."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from imprint.chat.section import ChatSettings
from imprint.config import read_overrides
from imprint.messages import Bilingual, UserError, closest, did_you_mean

BASE: Final = "base"
"""How `imprint serve` calls the model that its runs were tuned on."""
MAX_NAMED: Final = 20
"""Most models that are named in a line."""


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
    model: str | None = None
    """The model of a service that is asked; None in a chat with a model on this machine."""
    models: tuple[str, ...] = ()
    """The models that the service lists."""
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
                    "adapter=FOLDER, to `imprint chat`; in a chat with a service, /model NAME asks another model.",
                    "/adapter：没有可开关的适配器。与在线服务对话时，可用 /model 换成微调后的模型。",
                )
            )
        return replace(self, adapter_on=on)

    def with_model(self, name: str) -> "Conversation":
        """With another model of the service. Raises UserError for one that it does not list, and where there is no service."""
        if self.model is None:
            raise UserError(
                Bilingual(
                    "/model: this chat has one model, on this machine. /adapter off asks its base; `imprint chat` opens another run.",
                    "/model：本对话只有一个本机模型。/adapter off 可改问底座；换模型请重新运行 imprint chat。",
                )
            )
        if self.models and name not in self.models:
            meant = did_you_mean(closest(name, self.models), "/model {}")
            raise UserError(
                Bilingual(
                    f"/model {name}: the service listed no such model. {meant.english}It has {listed(self.models)}.",
                    f"/model {name}：服务没有列出这个模型。{meant.chinese}可用：{listed(self.models)}。",
                )
            )
        return replace(self, model=name, has_adapter=name != BASE and BASE in self.models, adapter_on=True)

    def with_setting(self, name: str, value: str) -> "Conversation":
        """With another sampling setting, validated as at the start of the chat."""
        try:
            given = read_overrides([f"{name}={value}"], type(self.settings))
        except UserError as error:
            raise UserError(str(error).replace(f"override {name}", f"/set {name}")) from error
        return replace(self, settings=self.settings.model_copy(update={name: getattr(given, name)}))


def listed(names: Sequence[str]) -> str:
    """Names in a line; of very many the first, and how many more there are."""
    more = f" (+{len(names) - MAX_NAMED})" if len(names) > MAX_NAMED else ""
    return ", ".join(names[:MAX_NAMED]) + more


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
