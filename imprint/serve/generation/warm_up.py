"""Answers before a service is ready, so that nobody waits for the compilation of kernels: on a GPU that takes a second of a long prompt."""

from collections.abc import Iterator, Sequence

from imprint.inference.request import Request
from imprint.model import Model
from imprint.models.network import Network
from imprint.serve.generation.answer import MountedModel

TOKENS = 4
"""Of each answer."""


def needs_warm_up(network: Network) -> bool:
    """Whether kernels are compiled when they are first used."""
    return network.device.type == "cuda"


def probe_requests(model: Model) -> Iterator[Request]:
    """One token after a short prompt."""
    yield Request(_prompt_of(model, "1"), 1, adapter="base")


def warm_up_requests(mounted: Sequence[MountedModel], prefill_chunk_tokens: int) -> Iterator[Request]:
    """For each model, since adapters have kernels of their own, a short prompt, and one in two parts where its context has room for it."""
    for one in mounted:
        most = min(2 * prefill_chunk_tokens, one.info.max_length - TOKENS)
        words, prompts = most, [_prompt_of(one.model, "1")]
        while words and len(long := _prompt_of(one.model, "1 " * words)) > most:
            words //= 2
        if words:
            prompts.append(long)
        for ids in prompts:
            yield Request(ids, TOKENS, temperature=1.0, top_p=0.9, adapter=one.adapter)


def _prompt_of(model: Model, text: str) -> list[int]:
    return model.prompt_of(({"role": "user", "content": text},))
