"""The model's side of a chat: a request answered as a text that grows, and what it cost."""

from collections.abc import Generator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Final

from imprint.chat.conversation import ChatRequest
from imprint.data.encode import encode_messages
from imprint.model import ANSWER_ROOM, Model
from imprint.templates import make_messages

USUAL_LENGTH: Final = 2048


@dataclass(frozen=True)
class Fit:
    """How a request fits into the context."""

    max_length: int
    """Most tokens of prompt and answer together."""
    prompt_tokens: int
    """Tokens of the prompt, with those that frame it."""
    dropped_turns: int
    """How many of the oldest turns had to be left out."""
    cut_tokens: int
    """How many tokens the question lost, being too long by itself."""


def fit(model: Model, request: ChatRequest) -> Fit:
    """How much of the conversation the model will see."""
    length = max_length(model, request)
    before = request.before
    prompt = encode_messages(
        model.template,
        make_messages(request.question, before.history, before.system),
        max_source_length=length - max(int(length * ANSWER_ROOM), 1),
        source_prefix=model.source_prefix,
    )
    return Fit(length, len(prompt.ids), prompt.dropped_turns, prompt.cut_tokens)


def max_length(model: Model, request: ChatRequest) -> int:
    """Most tokens of prompt and answer together; unless said, no more than the base was made for."""
    return request.before.settings.max_length or min(USUAL_LENGTH, model.network.shape.max_length)


def answer(model: Model, request: ChatRequest) -> Generator[str, None, None]:
    """The answer so far whenever it has grown, as `Model.stream_chat` gives it; with the adapter off it is the base's, bit for bit.

    Close it when done: until then the adapter stays off.
    """
    before, settings = request.before, request.before.settings
    with nullcontext() if before.adapter_on else model.adapter_off():
        for text, _history in model.stream_chat(
            request.question,
            before.history,
            max_length=max_length(model, request),
            top_p=settings.top_p,
            temperature=settings.temperature,
            seed=request.seed,
            system=before.system,
        ):
            yield text
