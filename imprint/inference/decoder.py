"""Continuous batching: requests join and leave a running batch between its steps, each with its own settings."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count, islice
from typing import Protocol

import torch
from torch import Tensor

from imprint.inference.decode_batch import Adapters, DecodeBatch, SharedPrefix, refuse_open_context
from imprint.inference.request import Finish, Request, Token
from imprint.inference.sampling import NO_TOKEN, SamplingRows
from imprint.inference.stop_text import StopSearch
from imprint.models.attention import Prefix
from imprint.models.network import Network
from imprint.pack import pack

DEFAULT_SLOTS = 64
"""Most requests that are decoded at a time; more wait."""


class NamedAdapters(Adapters, Protocol):
    """Adapters that requests name."""

    def acquire(self, name: str | None) -> int:
        """The number of an adapter, which stays mounted until it is released; None is the model as it is now.

        Raises UserError for an unknown name.
        """

    def release(self, number: int) -> None:
        """A request with this adapter has ended."""


class DecodableModel(Protocol):
    """What a Decoder needs of a model; `imprint.model.Model` is one."""

    @property
    def network(self) -> Network:
        """The network."""

    def new_text(self) -> Callable[[int], str]:
        """A function from each next token of a text to the characters that it completes; only stop texts ask for it."""

    @property
    def adapters(self) -> NamedAdapters:
        """The adapters that requests may name."""


@dataclass(frozen=True)
class PrefixedNetwork:
    """A network alone, and the prefix that all requests use; stop texts need a Model."""

    network: Network
    prefix: Prefix | None = None

    def new_text(self) -> Callable[[int], str]:
        """See DecodableModel; there is no tokenizer."""
        raise AssertionError("stop texts need a Model")

    @property
    def adapters(self) -> SharedPrefix:
        """See DecodableModel."""
        return SharedPrefix(self.prefix)


@dataclass
class RunningRequest:
    """A request in a slot of the batch, or waiting for one."""

    number: int
    """What `Decoder.admit` returned."""
    request: Request
    adapter: int
    """Number of its adapter, or NO_ADAPTER."""
    limit: int
    """Most new tokens: the request's, or fewer where `Network.max_row_tokens` ends the row."""
    stop: StopSearch | None
    """None without stop texts."""
    count: int = 0
    """Tokens so far, without a stop id."""


class Decoder:
    """Answers requests token by token; one thread owns it.

    `slots`: most requests at a time. The cache grows to the longest request and to the most requests that were there at a time.
    """

    def __init__(self, model: DecodableModel, *, slots: int = DEFAULT_SLOTS) -> None:
        self.model = model
        self.slots = slots
        self._batch = DecodeBatch(model.network, model.adapters)
        self._sampling = SamplingRows(model.network.vocab_size, model.network.device)
        self._waiting: deque[RunningRequest] = deque()
        self._running: list[RunningRequest] = []
        self._numbers = count()
        self._tokens: Tensor | None = None
        """(B,) the last token of each running request; None where none is running."""

    def __len__(self) -> int:
        """Number of requests that have not ended."""
        return len(self._running) + len(self._waiting)

    def admit(self, request: Request) -> int:
        """Take a request, which joins at the next step that has a slot; returns its number.

        Raises UserError for ids that the base does not have, a prompt that is too long for it, and an unknown adapter.
        """
        network = self.model.network
        pack([request.ids], network)
        refuse_open_context(len(request.ids), network.context_span(request.ids).bidirectional_length)
        network.check_length(len(request.ids))
        limit = request.max_new_tokens
        if network.max_row_tokens is not None:
            limit = min(limit, network.max_row_tokens - len(request.ids) + 1)
        stop = StopSearch(request.stop, self.model.new_text()) if request.stop else None
        adapter = self.model.adapters.acquire(request.adapter)
        running = RunningRequest(next(self._numbers), request, adapter, limit, stop)
        self._waiting.append(running)
        return running.number

    def cancel(self, number: int) -> None:
        """End a request without a further token; nothing happens where it has ended."""
        for running in [*self._waiting]:
            if running.number == number:
                self._waiting.remove(running)
                self.model.adapters.release(running.adapter)
        self._remove([row for row, running in enumerate(self._running) if running.number == number])

    def close(self) -> None:
        """End all requests."""
        for running in (*self._running, *self._waiting):
            self.cancel(running.number)

    @torch.inference_mode()
    def step(self) -> list[Token]:
        """One token for every request that has a slot; empty where there is no request. After an error a new Decoder is needed."""
        parts = [] if self._tokens is None else [self._batch.step(self._tokens)]
        if joining := [*islice(self._waiting, self.slots - len(self._running))]:
            parts.append(self._join(joining))
        if not parts:
            return []
        sampled, log_probs = self._sampling.sample(torch.cat(parts))
        self._tokens = sampled
        tokens = [
            Token(running.number, token, running.count, log_prob, self._finish(running, token))
            for running, token, log_prob in zip(self._running, sampled.tolist(), log_probs.tolist(), strict=True)
        ]
        self._remove(
            [row for row, token in enumerate(tokens) if token.finish], [row for row, token in enumerate(tokens) if token.id == NO_TOKEN]
        )
        return tokens

    def _join(self, joining: list[RunningRequest]) -> Tensor:
        """Run the prompts of the first waiting requests; returns their logits (K, V)."""
        prompts = [running.request.ids for running in joining]
        logits = self._batch.join(prompts, max(running.limit for running in joining), [running.adapter for running in joining])
        self._running += joining
        for running in joining:
            self._waiting.popleft()
            self._sampling.add(running.request)
        return logits

    def _finish(self, running: RunningRequest, token: int) -> Finish | None:
        """Why the answer ends with this token, which is counted."""
        if token == NO_TOKEN:
            return "error"
        if token in self.model.network.stop_ids or token in running.request.stop_ids:
            return "stop"
        running.count += 1
        if running.stop is not None and running.stop.push(token):
            return "stop"
        return "length" if running.count >= running.limit else None

    def _remove(self, rows: Sequence[int], clear: Sequence[int] = ()) -> None:
        """Free the slots of requests that have ended."""
        if not rows:
            return
        for row in rows:
            self.model.adapters.release(self._running[row].adapter)
        order = self._batch.remove(rows, clear=clear)
        self._sampling.take(order)
        self._running = [self._running[row] for row in order]
        self._tokens = None if self._tokens is None or not order else self._tokens[order]
