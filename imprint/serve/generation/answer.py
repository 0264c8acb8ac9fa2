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
    ModelInfo,
    RefusalKind,
    RefusedError,
    TextDelta,
    TokenPiece,
    context_exceeded,
    refuse_no_prompt,
)
from imprint.serve.generation.text_marks import TEMPLATES, messages_without_marks
from imprint.tokenizers import TooManyTokensError, at_most_tokens

COUNTED_CONTEXTS = 8
"""Prompts of up to so many contexts are counted exactly; longer ones are only refused, since counting takes time that others wait for."""
UNLIMITED = 2**40
"""Most tokens of a prompt that is encoded to be counted: more than any has."""
NOT_FINITE = Bilingual(
    "the model computed numbers that are not finite, so the answer ends here. Try other settings; if it stays so, tell whoever runs this "
    "service.",
    "模型算出了非有限的数值，回答到此为止：请换一组参数再试；若仍如此，请告知管理员。",
)


@dataclass(frozen=True)
class MountedModel:
    """A model that jobs may name, and the adapter that is mounted for it."""

    info: ModelInfo
    """What users are told."""
    model: Model
    """Template and source prefix of its run, over the network and the adapters that all mounted models share."""
    adapter: str
    """Name of the mounted adapter; `base` for none."""
    neutralize_marks: bool = False
    """Whether marks of turns that are plain text are changed in what users send, if its template has some."""


def request_for(job: Job, mounted: MountedModel) -> Request:
    """The request of a job. Raises RefusedError for a prompt that leaves no room for a token, and for impossible settings."""
    ids = prompt_of(job, mounted, mounted.info.max_length)
    room = mounted.info.max_length - len(ids)
    if room < 1:
        raise context_exceeded(len(ids), mounted.info.max_length)
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
            adapter=mounted.adapter,
            top_logprobs=job.top_logprobs or 0,
        )
    except UserError as error:
        raise RefusedError("invalid", error.message) from error


def count_of(job: Job, mounted: MountedModel) -> int:
    """The number of ids of the prompt. Raises RefusedError for what is no prompt, and for one that is known to be many times too long."""
    return len(prompt_of(job, mounted, COUNTED_CONTEXTS * mounted.info.max_length))


def prompt_of(job: Job, mounted: MountedModel, most: int) -> list[int]:
    """All ids of the prompt: nothing is left out. Raises RefusedError for what is no prompt, and for one known to have more than `most`."""
    refuse_no_prompt(job)
    try:
        with at_most_tokens(most):
            if job.text is not None:
                return mounted.model.prompt_of_text(job.text)
            messages = job.messages or ()
            if mounted.neutralize_marks and mounted.model.template.name in TEMPLATES:
                messages = tuple(messages_without_marks(messages, mounted.model.tokenizer))
            return mounted.model.prompt_of(messages, max_source_length=UNLIMITED)
    except TooManyTokensError as error:
        raise context_exceeded(error.least, mounted.info.max_length, about=error.about) from error
    except UserError as error:
        raise RefusedError("invalid", error.message) from error
    except UnicodeError as error:
        raise RefusedError("invalid", BROKEN_TEXT) from error


class WorkerAnswer:
    """A job that the worker has taken: it waits, runs in the decoder, and ends. Its `Generation` gets the events."""

    def __init__(self, job: Job, mounted: MountedModel, request: Request, generation: Generation, loop: asyncio.AbstractEventLoop) -> None:
        self.owner, self.turn, self.gives_way = job.owner, job.turn, job.gives_way
        self.concurrency = max(1, job.concurrency)
        self.request = request
        self.generation = generation
        self.loop = loop
        """The event loop that the generation belongs to."""
        self.request_id: int | None = None
        """Its id in the decoder; None while it waits."""
        self.queued_at = time.monotonic()
        """When it began to wait, in seconds of a monotonic clock."""
        self.position: int | None = None
        """The position in the queue that its reader was sent last."""
        self.started_at = 0.0
        """When it left the queue, in seconds of a monotonic clock; 0 before."""
        self.failures = 0
        """How many steps failed while it was in the decoder."""
        self.new_tokens = 0
        self._tokenizer = mounted.model.tokenizer
        self._new_text = partial(mounted.model.answer_text, request.stop)
        self._text = self._new_text()
        self._stop_ids = mounted.model.network.stop_ids
        self._characters_sent = 0
        self._ids: list[int] = []
        """Its tokens so far; after a restart the same must come again."""
        self._replayed = self._ids_before = 0
        """How many of them have come since the last restart; how many there were at that restart."""
        self._tokens: list[TokenPiece] = []
        """Tokens that are in no event yet."""

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
    def is_past_replay(self) -> bool:
        """Whether it has more tokens than before its last restart."""
        return len(self._ids) > self._ids_before

    def restart(self) -> None:
        """Start from the prompt again; no text is sent twice. The same tokens come, as these depend on the request alone."""
        self.request_id, self._text = None, self._new_text()
        self._replayed, self._ids_before = 0, len(self._ids)

    def events(self, token: Token) -> list[Event]:
        """The events of the next token; the last one ends the answer where the token does.

        Raises RuntimeError where other tokens come after a restart than came before.
        """
        if self._replayed < len(self._ids):
            if token.id != self._ids[self._replayed]:
                raise RuntimeError("the answer was restarted and became another one")
            self._text.push(token.id)
            self._replayed += 1
            return []
        if token.finish == "error":
            return [*self._delta(self._text.finish(), last=True), self.ended_by(NOT_FINITE)]
        if token.id not in self._stop_ids:
            self._add(token)
        if token.finish is None:
            return self._delta(self._text.settled())
        return [*self._delta(self._text.finish(), last=True), Ended(token.finish, self.prompt_tokens, self.new_tokens)]

    def ended_by(self, error: Bilingual, kind: RefusalKind | None = None) -> Ended:
        """The last event of an answer that an error ends."""
        return Ended("error", self.prompt_tokens if self.started_at else 0, self.new_tokens, error, kind)

    def cancelled(self, *, has_run: bool) -> Ended:
        """The last event of an answer that is cancelled, also while the thread hands it to the decoder."""
        return Ended("cancelled", self.prompt_tokens if has_run else 0, self.new_tokens)

    def _add(self, token: Token) -> None:
        first = self.new_tokens == 0
        self.new_tokens += 1
        self._ids.append(token.id)
        self._replayed += 1
        text = self._text.push(token.id)
        top = tuple(Alternative(one, self._tokenizer.token_bytes(one, first=first), log_prob) for one, log_prob in token.top)
        self._tokens.append(TokenPiece(token.id, self._tokenizer.token_bytes(token.id, first=first), token.logprob, text, top))

    def _delta(self, text: str, *, last: bool = False) -> list[Event]:
        """The text that has not been sent, if there is any, with its tokens; the last tokens may complete no character."""
        new = text[self._characters_sent :]
        if not new and not (last and self._tokens):
            return []
        self._characters_sent = len(text)
        tokens, self._tokens = tuple(self._tokens), []
        return [TextDelta(new, tokens)]
