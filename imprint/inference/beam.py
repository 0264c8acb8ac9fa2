"""Beam search: the answer with the highest mean log-probability per token.

Legend: K beams, V vocabulary size.
"""

import math
from collections.abc import Sequence

import torch

from imprint.inference.decode_batch import DecodeBatch
from imprint.models.attention import Prefix
from imprint.models.network import Network


@torch.inference_mode()
def beam_search(
    network: Network, prompt: Sequence[int], num_beams: int, max_new_tokens: int, *, prefix: Prefix | None = None
) -> list[int] | None:
    """The best answer of up to `max_new_tokens`, without the end id; None where its log-probability is NaN.

    An answer's score is the mean log-probability of its tokens, the end id included.
    """
    batch = DecodeBatch(network, [prompt], max_new_tokens)
    if max_new_tokens < 1:
        return []
    logits = batch.prefill(network, prefix)
    batch.select(torch.zeros(num_beams, dtype=torch.long, device=logits.device))
    scores = logits.new_full((num_beams,), float("-inf"), dtype=torch.float32)
    scores[0] = 0  # all beams are equal at first: only one may branch
    logits = logits.expand(num_beams, -1)
    beams: list[list[int]] = [[] for _ in range(num_beams)]
    finished: list[tuple[float, list[int]]] = []
    for length in range(1, max_new_tokens + 1):
        totals = scores[:, None] + logits.float().log_softmax(-1)  # (K, V)
        count = min(num_beams * (1 + len(network.stop_ids)), totals.numel())  # enough to fill the beams whatever ends
        best, indices = totals.flatten().topk(count)
        if any(map(math.isnan, best_scores := best.tolist())):
            return None
        parents, tokens = (indices // totals.shape[1]).tolist(), (indices % totals.shape[1]).tolist()
        candidates = list(zip(best_scores, parents, tokens, strict=True))
        finished += [(score / length, beams[parent]) for score, parent, token in candidates[:num_beams] if token in network.stop_ids]
        running = [(score, parent, token) for score, parent, token in candidates if token not in network.stop_ids][:num_beams]
        beams = [[*beams[parent], token] for _, parent, token in running]
        finished = sorted(finished, key=lambda answer: -answer[0])[:num_beams]
        if length == max_new_tokens:
            finished += [(score / length, beam) for (score, _, _), beam in zip(running, beams, strict=True)]
            break
        if not running or (len(finished) == num_beams and running[0][0] / length <= finished[-1][0]):
            break
        scores = torch.tensor([score for score, _, _ in running], device=logits.device)
        batch.select(torch.tensor([parent for _, parent, _ in running], device=logits.device))
        logits = batch.step(network, prefix, torch.tensor([token for _, _, token in running], device=logits.device))
    return max(finished, key=lambda answer: answer[0])[1]
