"""How probable given answers are, and which of a few is the most probable; knows token ids only.

Legend: B rows, K nodes of a tree of answers, O options, V vocabulary, N scored tokens.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from imprint.inference.generate import NotFiniteError, Rows
from imprint.models.attention import Prefix
from imprint.models.network import Network
from imprint.pack import NOT_SCORED, pack

CHUNK = 1024
"""Tokens whose logits exist at a time."""
AT_ONCE = 256
"""Rows of the cache that are read on at a time."""


@torch.inference_mode()
def choose(network: Network, prompts: Sequence[Sequence[int]], options: Sequence[Sequence[int]], *, prefix: Prefix | None = None) -> Tensor:
    """Log-probabilities (B, O) of each option as the whole answer to each prompt; options are ids with the end id, no two the same.

    Each prompt is read once. The options are a tree that is walked level by level, all prompts and all nodes of a level in one step, so
    that options which begin alike are read alike. Nothing is left out: these are the numbers that reading prompt and option in one row
    gives. Raises NotFiniteError where the network computes no numbers.
    """
    widest = max(len(_nodes(options, depth)) for depth in range(max(map(len, options))))
    chunk = max(1, AT_ONCE // widest)
    found = [_choose(network, prompts[start : start + chunk], options, prefix) for start in range(0, len(prompts), chunk)]
    scores = torch.cat(found).cpu()
    if not scores.isfinite().all():
        raise NotFiniteError(int((~scores.isfinite()).any(1).nonzero()[0, 0]), len(prompts))
    return scores


def _nodes(options: Sequence[Sequence[int]], depth: int) -> list[tuple[int, ...]]:
    """The beginnings of `depth` ids that some option goes on from, each once."""
    return sorted({tuple(option[:depth]) for option in options if len(option) > depth})


def _choose(network: Network, prompts: Sequence[Sequence[int]], options: Sequence[Sequence[int]], prefix: Prefix | None) -> Tensor:
    """The same for as many prompts as are read at once, on the network's device."""
    count, longest = len(prompts), max(map(len, options))
    rows = Rows(network, prompts, longest)
    logits = rows.read_prompts(network, prefix)
    scores: dict[tuple[int, ...], Tensor] = {(): torch.zeros(count, device=logits.device)}
    nodes: list[tuple[int, ...]] = [()]
    for depth in range(longest):
        logs = logits.float().log_softmax(-1).view(count, len(nodes), -1)
        for ids in {tuple(option[: depth + 1]) for option in options if len(option) > depth}:
            scores[ids] = scores[ids[:-1]] + logs[:, nodes.index(ids[:-1]), ids[-1]]
        deeper = _nodes(options, depth + 1)
        if not deeper:
            break
        parents = torch.tensor([nodes.index(ids[:-1]) for ids in deeper], device=logits.device)
        rows.keep((torch.arange(count, device=logits.device)[:, None] * len(nodes) + parents).flatten())
        logits = rows.step(network, prefix, torch.tensor([ids[-1] for ids in deeper], device=logits.device).repeat(count))
        nodes = deeper
    return torch.stack([scores[tuple(option)] for option in options], 1)


@torch.inference_mode()
def likelihoods(
    network: Network, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]], *, prefix: Prefix | None = None
) -> list[float]:
    """The log-probability of each answer (ids with the end id) to its prompt.

    Raises NotFiniteError where the network computes no numbers.
    """
    rows = [[*prompt, *answer] for prompt, answer in zip(prompts, answers, strict=True)]
    labels = [[*[NOT_SCORED] * len(prompt), *answer] for prompt, answer in zip(prompts, answers, strict=True)]
    batch = pack(rows, network, labels).to(network.device)
    hidden = network(batch, prefix=prefix)[batch.targets]
    logs = [
        network.logits(hidden[start : start + CHUNK]).float().log_softmax(-1).gather(1, batch.labels[start : start + CHUNK, None])[:, 0]
        for start in range(0, len(hidden), CHUNK)
    ]
    owners = batch.row[batch.targets]
    sums = torch.zeros(len(rows), dtype=torch.float32, device=hidden.device).index_add(0, owners, torch.cat(logs))
    if not sums.isfinite().all():
        raise NotFiniteError(int((~sums.isfinite()).nonzero()[0, 0]), len(rows))
    return [float(value) for value in sums]
