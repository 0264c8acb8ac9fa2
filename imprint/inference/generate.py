"""Generates answer ids from prompt ids: greedily, sampled or by beam search."""

from collections.abc import Callable, Iterator, Sequence

import torch

from imprint.inference.beam import beam_search
from imprint.inference.decode_batch import DecodeBatch
from imprint.inference.sampling import NotFiniteError, Sampling, make_sampler, token_ids
from imprint.models.attention import Prefix
from imprint.models.network import Network

OnToken = Callable[[int, int], None]
"""Called with the index of a prompt and each new id of its answer."""


@torch.inference_mode()
def generate(
    network: Network,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    *,
    prefix: Prefix | None = None,
    limits: Sequence[int] | None = None,
    on_token: OnToken | None = None,
) -> list[list[int]]:
    """New ids of every prompt, without the end id.

    `limits`: most new tokens of each prompt, where fewer than `max_new_tokens`. `on_token` is called for each token as it is chosen; with
    beam search, when the search of a prompt has ended. Finished answers leave the batch. Raises NotFiniteError where logits are not finite.
    """
    limits = [min(sampling.max_new_tokens, limit) for limit in limits] if limits else [sampling.max_new_tokens] * len(prompts)
    on_token = on_token or (lambda _row, _token: None)
    if not prompts:
        return []
    if sampling.num_beams > 1:
        return _search_beams(network, prompts, sampling.num_beams, prefix, limits, on_token)
    answers: list[list[int]] = [[] for _ in prompts]
    running = list(range(len(prompts)))
    batch = DecodeBatch(network, prompts, max(limits))
    sample = make_sampler(sampling, batch.lengths.device)
    logits = batch.prefill(network, prefix)
    while running:
        tokens = sample(logits)
        ids = token_ids(tokens, running, len(prompts))
        for row, token in zip(running, ids, strict=True):
            if token not in network.stop_ids and limits[row] > 0:
                answers[row].append(token)
                on_token(row, token)
        remaining = [index for index, row in enumerate(running) if len(answers[row]) < limits[row] and ids[index] not in network.stop_ids]
        if len(remaining) < len(running):
            running = [running[index] for index in remaining]
            if not running:
                break
            selected = torch.tensor(remaining, device=tokens.device)
            batch.select(selected)
            tokens = tokens[selected]
        logits = batch.step(network, prefix, tokens)
    return answers


def _search_beams(
    network: Network,
    prompts: Sequence[Sequence[int]],
    num_beams: int,
    prefix: Prefix | None,
    limits: Sequence[int],
    on_token: OnToken,
) -> list[list[int]]:
    """The answers by beam search, one prompt at a time."""
    answers = []
    for row, (prompt, limit) in enumerate(zip(prompts, limits, strict=True)):
        answer = beam_search(network, prompt, num_beams, limit, prefix=prefix)
        if answer is None:
            raise NotFiniteError(row, len(prompts))
        answers.append(answer)
        for token in answer:
            on_token(row, token)
    return answers


@torch.inference_mode()
def stream(network: Network, prompt: Sequence[int], sampling: Sampling, *, prefix: Prefix | None = None) -> Iterator[int]:
    """New ids of one prompt, one at a time, without the end id. Raises NotFiniteError where logits are not finite."""
    batch = DecodeBatch(network, [prompt], sampling.max_new_tokens)
    sample = make_sampler(sampling, batch.lengths.device)
    logits = batch.prefill(network, prefix)
    for count in range(1, sampling.max_new_tokens + 1):
        token = sample(logits)
        (token_id,) = token_ids(token, [0], 1)
        if token_id in network.stop_ids:
            return
        yield token_id
        if count < sampling.max_new_tokens:
            logits = batch.step(network, prefix, token)
