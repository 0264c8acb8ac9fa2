"""One answer on its way through the worker: from a job to a request, and from its tokens to events."""

import asyncio
import secrets
import time
from dataclasses import dataclass
from functools import partial

from imprint.inference.request import Request, Token
from imprint.messages import Bilingual, UserError
from imprint.model import Model
from imprint.serve.generation.job import (
    BROKEN_TEXT,
    Alternative,
    Ended,
    Event,
    Generation,
    Job,
    Piece,
    RefusalKind,
    RefusedError,
    ServedModel,
    TokenPiece,
    context_exceeded,
    refuse_no_prompt,
)

UNLIMITED = 2**40
"""Most tokens of a prompt that is encoded to be counted: more than any has."""
NOT_FINITE = Bilingual(
    "the model computed numbers that are not finite, so the answer ends here. Try other settings; if it stays so, tell whoever runs this "
    "service.",
    "模型算出了非有限的数值，回答到此为止：请换一组参数再试；若仍如此，请告知管理员。",
)


@dataclass(frozen=True)
class Served:
    """A model that jobs may name, and how it is answered with."""

    info: ServedModel
    """What users are told."""
    model: Model
    """Template and source prefix of its run, over the network and the adapters that all served models share."""
    adapter: str
    """Name of the mounted adapter; `base` for none."""


def request_for(job: Job, served: Served) -> Request:
    """The request of a job. Raises RefusedError for a prompt that leaves no room for a token, and for impossible settings."""
    ids = prompt_of(job, served.model)
    room = served.info.max_length - len(ids)
    if room < 1:
        raise context_exceeded(len(ids), served.info.max_length)
    most = job.max_new_tokens
    try:
        return Request(
            ids,
            room if most is None or most > room else most,
            job.temperature,
            job.top_p,
            job.top_k,
            job.repetition_penalty,
            secrets.randbits(63) if job.seed is None else job.seed,
            stop=job.stop,
            adapter=served.adapter,
            top_logprobs=job.top_logprobs or 0,
        )
    except UserError as error:
        raise RefusedError("invalid", error.message) from error


def prompt_of(job: Job, model: Model) -> list[int]:
    """All ids of the prompt: nothing is left out, however long it is. Raises RefusedError for what is no prompt."""
    refuse_no_prompt(job)
    try:
        if job.text is not None:
            return model.prompt_of_text(job.text)
        return model.prompt_of(job.messages or (), max_source_length=UNLIMITED)
    except UserError as error:
        raise RefusedError("invalid", error.message) from error
    except UnicodeError as error:
        raise RefusedError("invalid", BROKEN_TEXT) from error


class Answer:
    """A job that was taken: it waits, runs in the decoder, and ends. Its `Generation` gets the events."""

    def __init__(self, job: Job, served: Served, request: Request, generation: Generation, loop: asyncio.AbstractEventLoop) -> None:
        self.owner = job.owner
        self.concurrency = max(1, job.concurrency)
        self.request = request
        self.generation = generation
        self.loop = loop
        """The event loop that the generation belongs to."""
        self.request_id: int | None = None
        """Its id in the decoder; None while it waits."""
        self.asked = time.monotonic()
        """When it began to wait, in seconds of a monotonic clock."""
        self.position: int | None = None
        """The place in the queue that was told last."""
        self.started = 0.0
        """When it left the queue, in seconds of a monotonic clock."""
        self.failures = 0
        """How many steps failed while it was in the decoder."""
        self.new_tokens = 0
        self._tokenizer = served.model.tokenizer
        self._new_text = partial(served.model.answer_text, request.stop)
        self._text = self._new_text()
        self._stop_ids = served.model.network.stop_ids
        self._characters_told = 0
        self._ids: list[int] = []
        """Its tokens so far, which must come again where it begins anew."""
        self._repeated = self._ids_before = 0
        """How many of them came again; how many there were when it began anew."""
        self._tokens: list[TokenPiece] = []
        """Those that are in no event yet."""

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the prompt."""
        return len(self.request.ids)

    @property
    def max_tokens(self) -> int:
        """Tokens of the prompt and of the longest answer."""
        return self.prompt_tokens + self.request.max_new_tokens

    @property
    def is_suspect(self) -> bool:
        """Whether it may be to blame for a step that failed: it had not begun by then, or several did."""
        return self.failures > 1 or (self.failures == 1 and not self._ids)

    @property
    def is_further(self) -> bool:
        """Whether it is further than it was before it began anew."""
        return len(self._ids) > self._ids_before

    def begin_anew(self) -> None:
        """Start from the prompt: what was told is not told twice. The same tokens come, as these depend on the request alone."""
        self.request_id, self._text = None, self._new_text()
        self._repeated, self._ids_before = 0, len(self._ids)

    def events(self, token: Token) -> list[Event]:
        """What the next token tells; the last event ends the answer where the token does.

        Raises RuntimeError where the answer began anew and other tokens come.
        """
        if self._repeated < len(self._ids):
            if token.id != self._ids[self._repeated]:
                raise RuntimeError("the answer began anew and became another one")
            self._text.push(token.id)
            self._repeated += 1
            return []
        if token.finish == "error":
            return [*self._piece(self._text.finish(), last=True), self.ended_by(NOT_FINITE)]
        if token.id not in self._stop_ids:
            self._add(token)
        if token.finish is None:
            return self._piece(self._text.settled())
        return [*self._piece(self._text.finish(), last=True), Ended(token.finish, self.prompt_tokens, self.new_tokens)]

    def ended_by(self, error: Bilingual, kind: RefusalKind | None = None) -> Ended:
        """The last event of an answer that an error ends."""
        return Ended("error", self.prompt_tokens, self.new_tokens, error, kind)

    def _add(self, token: Token) -> None:
        first = self.new_tokens == 0
        self.new_tokens += 1
        self._ids.append(token.id)
        self._repeated += 1
        text = self._text.push(token.id)
        top = tuple(Alternative(one, self._tokenizer.token_bytes(one, first=first), log_prob) for one, log_prob in token.top)
        self._tokens.append(TokenPiece(token.id, self._tokenizer.token_bytes(token.id, first=first), token.logprob, text, top))

    def _piece(self, text: str, *, last: bool = False) -> list[Event]:
        """The part of the text that has not been told, if there is one, with the tokens since; the last tokens may complete nothing."""
        new = text[self._characters_told :]
        if not new and not (last and self._tokens):
            return []
        self._characters_told = len(text)
        tokens, self._tokens = tuple(self._tokens), []
        return [Piece(new, tokens)]
