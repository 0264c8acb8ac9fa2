"""Log-probabilities of given answers, of a few options as the answer, and losses of rows.

Legend: B prompts, K nodes of one level of the tree of options, O options, V vocabulary size, N scored tokens.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from imprint.inference.decode_batch import DecodeBatch, SinglePrefixAdapters
from imprint.inference.sampling import NotFiniteError
from imprint.models.attention import Prefix
from imprint.models.network import Network
from imprint.pack import IGNORE_INDEX, pack

CHUNK_TOKENS = 1024
"""Most tokens whose logits are computed at a time."""
MAX_ROWS = 256
"""Most rows of the cache decoded at a time."""


@torch.inference_mode()
def score_options(
    network: Network, prompts: Sequence[Sequence[int]], options: Sequence[Sequence[int]], *, prefix: Prefix | None = None
) -> Tensor:
    """Log-probabilities (B, O) of each option as the complete answer to each prompt. Options are distinct and end with the end id.

    Each prompt is prefilled once. The options form a prefix tree, decoded level by level: one step for all prompts and nodes of a level, so
    options share the computation of a common beginning. The result equals that of running prompt and option as one sequence. Raises
    NotFiniteError where a log-probability is not finite.
    """
    widest = max(len(_nodes(options, depth)) for depth in range(max(map(len, options))))
    chunk = max(1, MAX_ROWS // widest)
    parts = [_score_options(network, prompts[start : start + chunk], options, prefix) for start in range(0, len(prompts), chunk)]
    scores = torch.cat(parts).cpu()
    if not scores.isfinite().all():
        raise NotFiniteError(int((~scores.isfinite()).any(1).nonzero()[0, 0]), len(prompts))
    return scores


def _nodes(options: Sequence[Sequence[int]], depth: int) -> list[tuple[int, ...]]:
    """The inner nodes of a level: the distinct first `depth` ids of the options that are longer."""
    return sorted({tuple(option[:depth]) for option in options if len(option) > depth})


def _score_options(network: Network, prompts: Sequence[Sequence[int]], options: Sequence[Sequence[int]], prefix: Prefix | None) -> Tensor:
    """The scores (B, O) of one chunk of prompts, on the network's device."""
    count, longest = len(prompts), max(map(len, options))
    batch = DecodeBatch(network, SinglePrefixAdapters(prefix))
    logits = batch.join(prompts, longest)
    scores: dict[tuple[int, ...], Tensor] = {(): torch.zeros(count, device=logits.device)}
    nodes: list[tuple[int, ...]] = [()]
    for depth in range(longest):
        log_probs = logits.float().log_softmax(-1).view(count, len(nodes), -1)  # (B, K, V)
        for ids in {tuple(option[: depth + 1]) for option in options if len(option) > depth}:
            scores[ids] = scores[ids[:-1]] + log_probs[:, nodes.index(ids[:-1]), ids[-1]]
        children = _nodes(options, depth + 1)
        if not children:
            break
        parents = torch.tensor([nodes.index(ids[:-1]) for ids in children], device=logits.device)
        batch.select((torch.arange(count, device=logits.device)[:, None] * len(nodes) + parents).flatten())
        logits = batch.step(torch.tensor([ids[-1] for ids in children], device=logits.device).repeat(count))
        nodes = children
    return torch.stack([scores[tuple(option)] for option in options], 1)


@torch.inference_mode()
def score_answers(
    network: Network, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]], *, prefix: Prefix | None = None
) -> list[float]:
    """The log-probability of each answer (ids with the end id) to its prompt. Raises NotFiniteError where one is not finite."""
    rows = [[*prompt, *answer] for prompt, answer in zip(prompts, answers, strict=True)]
    labels = [[*[IGNORE_INDEX] * len(prompt), *answer] for prompt, answer in zip(prompts, answers, strict=True)]
    batch = pack(rows, network, labels).to(network.device)
    hidden = network(batch, prefix=prefix)[batch.targets]
    log_probs = [
        network.logits(hidden[start : start + CHUNK_TOKENS])
        .float()
        .log_softmax(-1)
        .gather(1, batch.labels[start : start + CHUNK_TOKENS, None])[:, 0]
        for start in range(0, len(hidden), CHUNK_TOKENS)
    ]
    seq_ids = batch.seq_ids[batch.targets]
    sums = torch.zeros(len(rows), dtype=torch.float32, device=hidden.device).index_add_(0, seq_ids, torch.cat(log_probs))
    if not sums.isfinite().all():
        raise NotFiniteError(int((~sums.isfinite()).nonzero()[0, 0]), len(rows))
    return [float(value) for value in sums]


@torch.no_grad()
def row_losses(
    network: Network, rows: Sequence[Sequence[int]], labels: Sequence[Sequence[int]], *, prefix: Prefix | None = None
) -> list[float]:
    """The summed cross-entropy, in nats, of the scored tokens of each row; `labels` are aligned with the ids of `rows`."""
    batch = pack(rows, network, labels).to(network.device)
    hidden = network(batch, prefix=prefix)
    losses = network.token_losses(hidden[batch.targets], batch.labels)
    sums = losses.new_zeros(batch.num_seqs, dtype=torch.float64).index_add_(0, batch.seq_ids[batch.targets], losses.double())
    return [float(value) for value in sums]
