"""Whether the key-value cache of a decoder has room for one more answer."""

from collections.abc import Collection

from imprint.inference.decoder import Decoder
from imprint.serve.generation.answer import WorkerAnswer


def has_room(decoder: Decoder, running: Collection[WorkerAnswer], answer: WorkerAnswer, kv_tokens: int) -> bool:
    """Whether the cache would have at most so many tokens with this answer beside those that run; one alone always fits."""
    return not running or _tokens_with(decoder, running, answer, shrunk=True) <= kv_tokens


def make_room(decoder: Decoder, running: Collection[WorkerAnswer], answer: WorkerAnswer, kv_tokens: int) -> None:
    """Cut the cache, which has grown for many answers or for long ones, to what runs, where it would become too large otherwise."""
    if _tokens_with(decoder, running, answer, shrunk=False) > kv_tokens:
        decoder.shrink_cache()


def _tokens_with(decoder: Decoder, running: Collection[WorkerAnswer], answer: WorkerAnswer, *, shrunk: bool) -> int:
    longest = max(one.max_tokens for one in (answer, *running))
    return decoder.cache_tokens(len(running) + 1, longest, shrunk=shrunk)
