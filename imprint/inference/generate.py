"""Generates answer ids from prompt ids: greedily, sampled or by beam search."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing

from imprint.inference.beam import beam_search, refuse_beams
from imprint.inference.decoder import DecodableModel, Decoder
from imprint.inference.request import Request, Token
from imprint.inference.sampling import NotFiniteError
from imprint.models.network import Network

OnToken = Callable[[int, int], None]
"""Called with the index of a prompt and each new id of its answer."""


def generate(model: DecodableModel, requests: Sequence[Request], *, num_beams: int = 1, on_token: OnToken | None = None) -> list[list[int]]:
    """New ids of every request, without the stop id; a stop text is part of them.

    All requests are decoded at the same time; finished answers leave the batch. `on_token` is called for each token as it is chosen; with
    beam search, when the search of a prompt has ended. Raises NotFiniteError where logits are not finite.
    """
    on_token = on_token or (lambda _row, _token: None)
    for request in requests[:1]:
        refuse_beams(request, num_beams)
    if num_beams > 1:
        return _search_beams(model, requests, num_beams, on_token)
    answers: list[list[int]] = [[] for _ in requests]
    for row, token in _new_tokens(model, requests):
        answers[row].append(token)
        on_token(row, token)
    return answers


def stream(model: DecodableModel, request: Request) -> Iterator[int]:
    """New ids of one request, one at a time, without the stop id; one that names no adapter uses what is on at this call.

    Raises NotFiniteError where logits are not finite.
    """
    return (token for _, token in _new_tokens(model, [request]))


def _new_tokens(model: DecodableModel, requests: Sequence[Request]) -> Iterator[tuple[int, int]]:
    """(row, id) of every new token but the stop ids, row after row in each step; the requests are admitted at once."""
    decoder = Decoder(model, slots=max(1, len(requests)))
    with ExitStack() as on_refusal:
        on_refusal.callback(decoder.close)
        rows = {decoder.admit(request): row for row, request in enumerate(requests)}
        on_refusal.pop_all()

    def tokens_of_all_steps() -> Iterator[tuple[int, int]]:
        with closing(decoder):
            while len(decoder):
                tokens = sorted(decoder.step(), key=lambda token: rows[token.request])
                _raise_failures(model.network, requests, [(rows[token.request], token) for token in tokens])
                for token in tokens:
                    row = rows[token.request]
                    if token.id not in model.network.stop_ids | requests[row].stop_ids:
                        yield row, token.id

    return tokens_of_all_steps()


def _raise_failures(network: Network, requests: Sequence[Request], tokens: Sequence[tuple[int, Token]]) -> None:
    """Raise NotFiniteError where a token is NO_TOKEN, and UserError where an answer ended at `Network.max_row_tokens`."""
    for row, token in tokens:
        if token.finish == "error":
            raise NotFiniteError(row, len(requests))
    for row, token in tokens:
        if token.finish == "length" and token.index + 1 < requests[row].max_new_tokens:
            network.check_length(len(requests[row].ids) + token.index + 1)


def _search_beams(model: DecodableModel, requests: Sequence[Request], num_beams: int, on_token: OnToken) -> list[list[int]]:
    """The answers by beam search, one prompt at a time."""
    answers = []
    for row, request in enumerate(requests):
        answer = beam_search(model, request, num_beams)
        if answer is None:
            raise NotFiniteError(row, len(requests))
        answers.append(answer)
        for token in answer:
            on_token(row, token)
    return answers
