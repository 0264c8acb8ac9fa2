"""Small networks that end their answers, and their expected answers, computed without a cache."""

from collections.abc import Sequence

import torch

from imprint.inference.decoder import PrefixedNetwork
from imprint.inference.generate import OnToken, generate
from imprint.inference.request import Request
from imprint.inference.sampling import row_seed
from imprint.models.attention import Prefix
from imprint.models.chatglm import ChatGLM
from imprint.models.network import Network
from imprint.pack import pack
from imprint.tune.prefix import PrefixShape, init_prefix
from tests.cases import prompt, small_network


def ending_network(seed: int = 0, *, vocabulary: int = 12) -> ChatGLM:
    """A network that ends its answers after different numbers of tokens: its vocabulary is small."""
    network = small_network(seed=seed, vocabulary=vocabulary, std=1.0)
    network.head_weight.mul_(0.3)  # so that no token is almost certain
    return network


def generate_ids(
    network: Network,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    temperature: float = 0.0,
    top_p: float = 1.0,
    num_beams: int = 1,
    seed: int | None = None,
    *,
    prefix: Prefix | None = None,
    limits: Sequence[int] | None = None,
    on_token: OnToken | None = None,
) -> list[list[int]]:
    """The answers of a network with a prefix, each prompt as a request with the same settings; `limits` are those of each."""
    most = [min(max_new_tokens, limit) for limit in limits or [max_new_tokens] * len(prompts)]
    requests = [
        Request(prompt, limit, temperature, top_p, seed=row_seed(seed, row))
        for row, (prompt, limit) in enumerate(zip(prompts, most, strict=True))
    ]
    return generate(PrefixedNetwork(network, prefix), requests, num_beams=num_beams, on_token=on_token)


def end_id(network: Network) -> int:
    (end,) = network.stop_ids
    return end


def prefix_for(network: ChatGLM) -> Prefix:
    torch.manual_seed(0)
    encoder = init_prefix(network, PrefixShape.from_network(network, 3, projection=False), "random", [])
    return [(key.detach(), value.detach()) for key, value in encoder.prefix(torch.float32)]


def log_probabilities(network: ChatGLM, row: Sequence[int], prefix: Prefix | None = None) -> torch.Tensor:
    """Log-probabilities of every next token, computed from the whole row without a cache."""
    with torch.no_grad():
        hidden = network(pack([row], network), prefix=prefix)
        return network.logits(hidden[-1:])[0].log_softmax(-1)


def short_prompts(network: ChatGLM) -> list[list[int]]:
    return [prompt(network, *text) for text in ([1, 2, 3, 4], [5], [], [2, 2, 6], [6, 5, 4, 3, 2, 1], [0, 3])]


def greedy(network: ChatGLM, row: Sequence[int], count: int, prefix: Prefix | None = None) -> list[int]:
    answer: list[int] = []
    while len(answer) < count:
        token = int(log_probabilities(network, [*row, *answer], prefix).argmax())
        if token in network.stop_ids:
            break
        answer.append(token)
    return answer
