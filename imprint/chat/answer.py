"""Answers chat requests: fits the conversation into the context and streams the answer."""

from collections.abc import Generator
from contextlib import nullcontext
from dataclasses import dataclass

from imprint.chat.conversation import ChatRequest
from imprint.model import Model


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
    length = model.chat_length(request.before.settings.max_length)
    before = request.before
    prompt = model.chat_prompt(request.question, before.history, before.system, max_length=length)
    return ContextFit(length, len(prompt.ids), prompt.dropped_turns, prompt.cut_tokens)


def answer(model: Model, request: ChatRequest) -> Generator[str, None, None]:
    """Stream the answer so far, as `Model.stream_chat`; with the adapter off it is the base's, bit for bit.

    Close the generator when done: it keeps the adapter off until then.
    """
    before, settings = request.before, request.before.settings
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
