"""A model on this machine that answers in a chat: fits the conversation into the context and streams the answer."""

from collections.abc import Generator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Final

from imprint.chat.answerer import AnswerSummary, dropped_note
from imprint.chat.conversation import ChatRequest
from imprint.chat.section import SamplingSection
from imprint.messages import Bilingual, UserError
from imprint.model import Model
from imprint.runtime import is_out_of_memory

OUT_OF_MEMORY: Final = Bilingual(
    "the device ran out of memory; the conversation is kept. /undo or /clear makes it shorter, /set max_length 512 bounds it; or start the "
    "chat with quantize=8.",
    "显存或内存不足：可用 /undo、/clear 或 /set max_length 512 缩短对话，或以 quantize=8 启动。",
)


class LocalModel:
    """A model on this machine."""

    def __init__(self, model: Model) -> None:
        self.model = model

    def answer(self, request: ChatRequest) -> Generator[str, None, None]:
        """Stream the answer so far; too little memory is a UserError."""
        try:
            yield from answer(self.model, request)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise UserError(OUT_OF_MEMORY) from error

    def settled(self, text: str) -> str:
        """The text without what its template may still change."""
        return self.model.template.stable_prefix(text)

    def summary(self, request: ChatRequest, text: str) -> AnswerSummary:
        """Its tokens, and what did not fit into the context."""
        tokens = len(self.model.tokenizer.encode(text))
        return AnswerSummary(tokens, truncation_notes(fit_context(self.model, request), tokens))


@dataclass(frozen=True)
class ContextFit:
    """How a request fits into the context window."""

    max_length: int
    """Maximum tokens of prompt and answer together."""
    prompt_tokens: int
    """Tokens of the prompt, special tokens included."""
    dropped_turns: int
    """Number of oldest turns left out."""
    cut_tokens: int
    """Number of tokens cut from the question."""


def fit_context(model: Model, request: ChatRequest) -> ContextFit:
    """The part of the conversation that fits into the context."""
    before = request.before
    length = model.chat_length(_settings(request).max_length)
    prompt = model.chat_prompt(request.question, before.history, before.system, max_length=length)
    return ContextFit(length, len(prompt.ids), prompt.dropped_turns, prompt.cut_tokens)


def truncation_notes(fitted: ContextFit, tokens: int) -> list[str]:
    """Notes about turns and tokens that did not fit into the context."""
    notes = []
    if fitted.dropped_turns:
        notes.append(dropped_note(fitted.dropped_turns))
    if fitted.cut_tokens:
        cut = fitted.cut_tokens
        notes.append(Bilingual(f"the question lost {cut} tokens of its middle", f"问题过长，中间略去 {cut} 个词元").line)
    if fitted.prompt_tokens + tokens >= fitted.max_length:
        notes.append(Bilingual(f"ended by max_length={fitted.max_length}", "达到长度上限").line)
    return notes


def answer(model: Model, request: ChatRequest) -> Generator[str, None, None]:
    """Stream the answer so far, as `Model.stream_chat`; with the adapter off it is the base's, bit for bit.

    Close the generator when done: it keeps the adapter off until then.
    """
    before, settings = request.before, _settings(request)
    with nullcontext() if before.adapter_on else model.adapter_off():
        for text, _history in model.stream_chat(
            request.question,
            before.history,
            max_length=settings.max_length,
            top_p=settings.top_p,
            temperature=settings.temperature,
            seed=request.seed,
            system=before.system,
            top_k=settings.top_k,
            repetition_penalty=settings.repetition_penalty,
            stop=settings.stop,
        ):
            yield text


def _settings(request: ChatRequest) -> SamplingSection:
    settings = request.before.settings
    assert isinstance(settings, SamplingSection)
    return settings
