"""Continuous batching: requests join and leave a running batch between its steps, each with its own settings."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, count, islice
from typing import Protocol

import torch
from torch import Tensor

from imprint.inference.decode_batch import Adapters, DecodeBatch, SinglePrefixAdapters, refuse_open_context
from imprint.inference.decode_memory import drop_memory, give_back, take_memory
from imprint.inference.prefill import Prefill
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
        """The id of an adapter, which stays mounted until it is released; None is the model as it is now.

        Raises UserError for an unknown name.
        """

    def release(self, adapter_id: int) -> None:
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
    def adapters(self) -> SinglePrefixAdapters:
        """See DecodableModel."""
        return SinglePrefixAdapters(self.prefix)


@dataclass
class AdmittedRequest:
    """A request in a slot of the batch, or waiting for one."""

    request_id: int
    """What `Decoder.admit` returned."""
    request: Request
    adapter_id: int
    """Its adapter, or NO_ADAPTER."""
    max_new_tokens: int
    """Most new tokens: the request's, or fewer where `Network.max_row_tokens` ends the row."""
    stop_search: StopSearch | None
    """None without stop texts."""
    prefill: Prefill | None = None
    """Its prompt while it is run in parts."""
    count: int = 0
    """Tokens so far, without a stop id."""
    ended: bool = False
    """Whether it has left its slot."""


@dataclass(frozen=True)
class LaunchedStep:
    """A step whose tokens may still be on their way from the device."""

    rows: Sequence[AdmittedRequest]
    """Its requests, in the batch's order."""
    drawn: Tensor
    """(2 + 2K, B) float64 on the host: tokens, their log-probabilities, the K most probable tokens, and theirs."""
    arrived: torch.cuda.Event | None
    """When `drawn` is there; None where it is."""

    @classmethod
    def of(cls, rows: Sequence[AdmittedRequest], tokens: Tensor, log_probs: Tensor, top: Sequence[Tensor]) -> "LaunchedStep":
        """Send the tokens of a step to the host; `top`: what `SamplingRows.top` gives."""
        columns = torch.cat((tokens[None].double(), log_probs[None].double(), *(tensor.T.double() for tensor in top)))
        if columns.device.type != "cuda":
            return cls(rows, columns, None)
        drawn = torch.empty(columns.shape, dtype=columns.dtype, pin_memory=True).copy_(columns, non_blocking=True)
        arrived = torch.cuda.Event()
        arrived.record(torch.cuda.current_stream(columns.device))
        return cls(rows, drawn, arrived)

    def read(self) -> list[tuple[AdmittedRequest, int, float, tuple[tuple[int, float], ...]]]:
        """The token of each request that has not ended since, its log-probability, and the most probable tokens that it asks for."""
        if self.arrived is not None:
            self.arrived.synchronize()
        found = []
        for admitted, (token, log_prob, *top) in zip(self.rows, zip(*self.drawn.tolist(), strict=True), strict=True):
            if not admitted.ended:
                pairs = zip(map(int, top[: len(top) // 2]), top[len(top) // 2 :], strict=True)
                found.append((admitted, int(token), log_prob, tuple(islice(pairs, admitted.request.top_logprobs))))
        return found


class Decoder:
    """Answers requests token by token; one thread owns it.

    `slots`: most requests at a time. The cache grows to the longest request and to the most requests that were there at a time. Where steps
    are repeated as graphs, the next one runs while the tokens of the last one are looked at; what it gives for requests that have ended by
    then is thrown away. `prefill_chunk_tokens`: most tokens of prompts that a step runs, so that the running requests need not wait for
    long; the rest joins at the next steps, and a longer prompt is run in parts. None runs whatever waits.
    """

    def __init__(self, model: DecodableModel, *, slots: int = DEFAULT_SLOTS, prefill_chunk_tokens: int | None = None) -> None:
        self.model = model
        self.slots = slots
        self.prefill_chunk_tokens = prefill_chunk_tokens
        self._open_batch: DecodeBatch | None = None
        network = model.network
        self._sampling = SamplingRows(network.vocab_size, network.device, kernels=network.kernels != "plain")
        self._waiting: deque[AdmittedRequest] = deque()
        self._running: list[AdmittedRequest] = []
        self._request_ids = count()
        self._tokens: Tensor | None = None
        """(B,) the last token of each running request; None where none is running."""
        self._ahead: LaunchedStep | None = None
        """The step that runs while its predecessor's tokens are looked at."""

    def __len__(self) -> int:
        """Number of requests that have not ended."""
        return len(self._running) + len(self._waiting)

    @property
    def _batch(self) -> DecodeBatch:
        """The sequences; their memory is taken with the first step and given back by `close`."""
        if self._open_batch is None:
            network = self.model.network
            self._open_batch = DecodeBatch(network, self.model.adapters, take_memory(network))
        return self._open_batch

    def admit(self, request: Request) -> int:
        """Take a request, which joins at the next step that has a slot; returns its id.

        Raises UserError for ids that the base does not have, a prompt that is too long for it, and an unknown adapter.
        """
        network = self.model.network
        pack([request.ids], network)
        refuse_open_context(len(request.ids), network.context_span(request.ids).bidirectional_length)
        network.check_length(len(request.ids))
        max_new_tokens = request.max_new_tokens
        if network.max_row_tokens is not None:
            max_new_tokens = min(max_new_tokens, network.max_row_tokens - len(request.ids) + 1)
        stop_search = StopSearch(request.stop, self.model.new_text()) if request.stop else None
        adapter_id = self.model.adapters.acquire(request.adapter)
        admitted = AdmittedRequest(next(self._request_ids), request, adapter_id, max_new_tokens, stop_search)
        self._waiting.append(admitted)
        return admitted.request_id

    def cancel(self, request_id: int) -> None:
        """End a request without a further token; nothing happens where it has ended."""
        for admitted in [*self._waiting]:
            if admitted.request_id == request_id:
                self._waiting.remove(admitted)
                self.model.adapters.release(admitted.adapter_id)
        self._remove([row for row, admitted in enumerate(self._running) if admitted.request_id == request_id])

    def close(self) -> None:
        """End all requests."""
        for admitted in (*self._running, *self._waiting):
            self.cancel(admitted.request_id)
        self._ahead = None
        batch, self._open_batch = self._open_batch, None
        if batch is not None and batch.memory is not None:
            give_back(batch.memory)

    def abandon(self) -> None:
        """End all requests after an error in a step; nothing that the step may have left behind is used again."""
        for admitted in (*self._running, *self._waiting):
            admitted.ended = True
            self.model.adapters.release(admitted.adapter_id)
        self._running, self._waiting, self._tokens, self._ahead, self._open_batch = [], deque(), None, None, None
        drop_memory(self.model.network)

    def cache_tokens(self, requests: int, longest: int, *, shrunk: bool = False) -> int:
        """Tokens that the cache would have room for if it had to hold this many requests of this many tokens.

        `shrunk`: after `shrink_cache`; else it stays at least as large as it is.
        """
        assert self._batch.memory is not None
        room = self._batch.memory.least_room if shrunk else self._batch.memory.room_after
        slots, capacity = room(requests, max(longest, self._batch.longest))
        return slots * capacity

    def shrink_cache(self) -> None:
        """Give back the room that the running requests do not need: a cache with few long slots has none for many short ones."""
        self._batch.shrink()

    @torch.inference_mode()
    def step(self) -> list[Token]:
        """One token for every request that has a slot and whose prompt has been run; empty where there is none.

        After an error only `abandon` may be called, and a new Decoder is needed.
        """
        launched, self._ahead = self._ahead, None
        if launched is None or all(admitted.ended for admitted in launched.rows):
            launched = self._launch()
        if launched is None:
            return []
        if self._can_run_ahead(launched):
            self._ahead = self._launch()
        return self._take_tokens(launched)

    def _launch(self) -> LaunchedStep | None:
        """Compute the next token of each request; None where there is no request."""
        parts = [] if self._tokens is None else [self._batch.step(self._tokens)]
        if self._waiting and len(self._running) < self.slots:
            parts += self._run_prompts()
        if not parts:
            return None
        logits = parts[0] if len(parts) == 1 else torch.cat(parts)
        tokens, log_probs = self._sampling.sample(logits)
        self._tokens = tokens.clamp(min=0)  # a row without a token ends, but another step may have begun by then
        return LaunchedStep.of([*self._running], tokens, log_probs, self._sampling.top(logits))

    def _can_run_ahead(self, launched: LaunchedStep) -> bool:
        """Whether to compute another step before the tokens of this one are known: no request waits, none surely ends."""
        if self._batch.graphs is None or (self._waiting and len(self._running) < self.slots):
            return False
        return all(admitted.count + 1 < admitted.max_new_tokens for admitted in launched.rows if not admitted.ended)

    def _take_tokens(self, launched: LaunchedStep) -> list[Token]:
        tokens, ended, failed = [], set(), set()
        for admitted, token, log_prob, top in launched.read():
            index, finish = admitted.count, self._finish(admitted, token)
            tokens.append(Token(admitted.request_id, token, index, log_prob, finish, top))
            if finish:
                ended.add(admitted.request_id)
            if token == NO_TOKEN:
                failed.add(admitted.request_id)
        self._remove(self._rows_of(ended), self._rows_of(failed))
        return tokens

    def _rows_of(self, request_ids: set[int]) -> list[int]:
        return [row for row, admitted in enumerate(self._running) if admitted.request_id in request_ids] if request_ids else []

    def _run_prompts(self) -> list[Tensor]:
        """Run prompts of the first waiting requests, or a part of one; returns the logits (K, V) of those that join, if any."""
        first, most = self._waiting[0], self.prefill_chunk_tokens
        if most is None or len(first.request.ids) <= most:
            joining = [*islice(self._waiting, self.slots - len(self._running))]
            totals = accumulate(len(admitted.request.ids) for admitted in joining)
            return [self._join([admitted for admitted, total in zip(joining, totals, strict=True) if most is None or total <= most])]
        prefill = first.prefill = first.prefill or Prefill(self.model.network, first.request.ids, first.adapter_id)
        logits = prefill.advance(most, self.model.adapters.row_adapters([first.adapter_id]))
        if logits is None:
            return []
        self._batch.join_prefilled(prefill, first.max_new_tokens)
        first.prefill = None
        self._take_in([first])
        return [logits]

    def _join(self, joining: list[AdmittedRequest]) -> Tensor:
        """Run the prompts of the first waiting requests; returns their logits (K, V)."""
        logits = self._batch.join(
            [admitted.request.ids for admitted in joining],
            [admitted.max_new_tokens for admitted in joining],
            [admitted.adapter_id for admitted in joining],
        )
        self._take_in(joining)
        return logits

    def _take_in(self, joined: list[AdmittedRequest]) -> None:
        """Note that the first waiting requests are running."""
        self._running += joined
        for admitted in joined:
            self._waiting.popleft()
            self._sampling.add(admitted.request)

    def _finish(self, admitted: AdmittedRequest, token: int) -> Finish | None:
        """Why the answer ends with this token, which is counted."""
        if token == NO_TOKEN:
            return "error"
        if token in self.model.network.stop_ids or token in admitted.request.stop_ids:
            return "stop"
        admitted.count += 1
        if admitted.stop_search is not None and admitted.stop_search.push(token):
            return "stop"
        return "length" if admitted.count >= admitted.max_new_tokens else None

    def _remove(self, rows: Sequence[int], clear: Sequence[int] = ()) -> None:
        """Free the slots of requests that have ended."""
        if not rows:
            return
        for row in rows:
            self._running[row].ended = True
            self.model.adapters.release(self._running[row].adapter_id)
        order = self._batch.remove(rows, clear=clear)
        self._sampling.take(order)
        self._running = [self._running[row] for row in order]
        self._tokens = None if self._tokens is None or not order else self._tokens[order]
