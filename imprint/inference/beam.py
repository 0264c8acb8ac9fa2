"""Beam search: the answer with the highest mean log-probability per token.

Legend: K beams, V vocabulary size.
"""

import math

import torch

from imprint import arguments
from imprint.inference.decode_batch import DecodeBatch
from imprint.inference.decoder import DecodableModel
from imprint.inference.request import Request
from imprint.messages import Bilingual, UserError
from imprint.models.network import Network

MAX_BEAMS = 1000


@torch.inference_mode()
def beam_search(model: DecodableModel, request: Request, num_beams: int) -> list[int] | None:
    """The best answer of up to `max_new_tokens`, without the stop id; None where its log-probability is NaN.

    An answer's score is the mean log-probability of its tokens, the stop id included. Raises UserError for a request that samples, or
    that ends at a stop text.
    """
    refuse_beams(request, num_beams)
    adapter_id = model.adapters.acquire(request.adapter)
    try:
        return _search(model.network, DecodeBatch(model.network, model.adapters), request, adapter_id, num_beams)
    finally:
        model.adapters.release(adapter_id)


def _search(network: Network, batch: DecodeBatch, request: Request, adapter_id: int, num_beams: int) -> list[int] | None:
    stop_ids = network.stop_ids | request.stop_ids
    batch.reserve(num_beams, 0)
    logits = batch.join([request.ids], request.max_new_tokens, [adapter_id])
    batch.select(torch.zeros(num_beams, dtype=torch.long, device=logits.device))
    log_prob_sums = logits.new_full((num_beams,), float("-inf"), dtype=torch.float32)
    log_prob_sums[0] = 0  # all beams are equal at first: only one may branch
    logits = logits.expand(num_beams, -1)
    beams: list[list[int]] = [[] for _ in range(num_beams)]
    finished: list[tuple[float, list[int]]] = []  # score, ids
    for length in range(1, request.max_new_tokens + 1):
        totals = log_prob_sums[:, None] + logits.float().log_softmax(-1)  # (K, V)
        count = min(num_beams * (1 + len(stop_ids)), totals.numel())  # enough to fill the beams whatever ends
        best, indices = totals.flatten().topk(count)
        if any(map(math.isnan, best_sums := best.tolist())):
            return None
        parents, tokens = (indices // totals.shape[1]).tolist(), (indices % totals.shape[1]).tolist()
        candidates = list(zip(best_sums, parents, tokens, strict=True))
        finished += [(log_prob_sum / length, beams[parent]) for log_prob_sum, parent, token in candidates[:num_beams] if token in stop_ids]
        running = [candidate for candidate in candidates if candidate[2] not in stop_ids][:num_beams]
        beams = [[*beams[parent], token] for _, parent, token in running]
        finished = sorted(finished, key=lambda answer: -answer[0])[:num_beams]
        if length == request.max_new_tokens:
            finished += [(log_prob_sum / length, beam) for (log_prob_sum, _, _), beam in zip(running, beams, strict=True)]
            break
        if not running or (len(finished) == num_beams and running[0][0] / length <= finished[-1][0]):
            break
        log_prob_sums = torch.tensor([log_prob_sum for log_prob_sum, _, _ in running], device=logits.device)
        batch.select(torch.tensor([parent for _, parent, _ in running], device=logits.device))
        logits = batch.step(torch.tensor([token for _, _, token in running], device=logits.device))
    return max(finished, key=lambda answer: answer[0])[1]


def refuse_beams(request: Request, num_beams: int) -> None:
    """Raise UserError for an impossible number of beams, and for settings that a search cannot honour."""
    arguments.integer("num_beams", num_beams)
    if not 1 <= num_beams <= MAX_BEAMS:
        raise UserError(
            Bilingual(f"num_beams: must be 1 to {MAX_BEAMS}, got {num_beams}.", f"num_beams 必须为 1 到 {MAX_BEAMS}，实际为 {num_beams}。")
        )
    if num_beams == 1:
        return
    if not request.greedy:
        raise UserError(
            Bilingual(
                f"num_beams: {num_beams} beams are searched without sampling; set temperature to 0 or num_beams to 1.",
                "束搜索不做采样：请把 temperature 设为 0，或把 num_beams 设为 1。",
            )
        )
    ignored = {"top_k": request.top_k, "repetition_penalty": request.repetition_penalty != 1, "stop": request.stop}
    if name := next((name for name, value in ignored.items() if value), None):
        raise UserError(
            Bilingual(
                f"{name}: is not used by beam search. Leave it out, or set num_beams to 1.",
                f"束搜索不支持 {name}：请去掉它，或把 num_beams 设为 1。",
            )
        )
