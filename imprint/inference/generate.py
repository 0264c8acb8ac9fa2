"""From prompt ids to answer ids: greedy, sampled or by beams, many rows at once on one static cache.

Knows token ids only. Legend: B rows still running, A position axes, V vocabulary.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from imprint.errors import UserError
from imprint.models.attention import Cache, Prefix
from imprint.models.network import Network
from imprint.pack import Pack, pack

GREEDY_BELOW = 1e-5
NOTHING = -1
"""Stands in place of a chosen token where there is none to choose."""


class NotFiniteError(UserError):
    """Raised where a row's logits hold NaN or infinity: there is no most probable token."""

    def __init__(self, row: int, rows: int) -> None:
        self.row = row
        super().__init__(
            f"prompt {row + 1} of {rows}: the network computes numbers that are not finite, so no token can be chosen. Use float32 or "
            "bfloat16 as dtype, since float16 ends at 65504; if it stays so, try without the adapter, then download the weights again."
        )


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen, and when to stop."""

    max_new_tokens: int
    """Most tokens an answer may have."""
    temperature: float = 0.0
    """0 takes the most probable token; otherwise logits are divided by it."""
    top_p: float = 1.0
    """Sample from the smallest set of tokens that together have this probability."""
    num_beams: int = 1
    """More than one: keep that many candidates and return the best (greedy only)."""
    seed: int | None = None
    """Makes sampling repeatable; None draws a new one each time."""

    def __post_init__(self) -> None:
        """Refuse impossible values with a sentence."""
        for name, ok, allowed in (
            ("max_new_tokens", self.max_new_tokens >= 1, "at least 1"),
            ("temperature", 0 <= self.temperature < float("inf"), "0 or more"),
            ("top_p", 0 < self.top_p <= 1, "above 0 and at most 1"),
            ("num_beams", self.num_beams >= 1, "at least 1"),
        ):
            if not ok:
                raise UserError(f"{name}: must be {allowed}, got {getattr(self, name)}.")
        if self.num_beams > 1 and self.temperature > GREEDY_BELOW:
            raise UserError(f"num_beams: {self.num_beams} beams are searched without sampling; set temperature to 0 or num_beams to 1.")


class Rows:
    """The running rows of one batch: their cache, their places, and the pack of their next step."""

    def __init__(self, network: Network, prompts: Sequence[Sequence[int]], new_tokens: int) -> None:
        device = network.device
        layouts = [network.layout(prompt) for prompt in prompts]
        for prompt, layout in zip(prompts, layouts, strict=True):
            if layout.context == len(prompt) > 0:
                raise UserError(f"a prompt of {len(prompt)} ids has no <sop>, behind which the answer begins. Append [gMASK] and <sop>.")
        self.cache: Cache = network.new_cache(len(prompts), max(map(len, prompts)) + new_tokens)
        self.first = pack(prompts, network).to(device)
        self.lengths = torch.tensor(self.first.lengths, device=device)
        self.context = torch.tensor([layout.context for layout in layouts], device=device)
        self.anchor = torch.tensor([layout.anchor for layout in layouts], device=device)
        self.nothing = torch.empty(0, dtype=torch.long, device=device)

    def read_prompts(self, network: Network, prefix: Prefix | None) -> Tensor:
        """Fill the cache; logits (B, V) of each row's first new token."""
        self.cache.used = int(self.lengths.max())
        hidden = network(self.first, prefix=prefix, cache=self.cache)
        return network.logits(hidden[self.lengths.cumsum(0) - 1])

    def step(self, network: Network, prefix: Prefix | None, tokens: Tensor) -> Tensor:
        """Append one token a row (B,); logits (B, V) of the next."""
        count = len(tokens)
        row = torch.arange(count, device=tokens.device)
        positions = network.positions(self.lengths, self.context, self.anchor)
        step = Pack(tokens, positions, row, self.lengths, self.lengths + 1, (1,) * count, self.nothing, self.nothing)
        self.lengths = self.lengths + 1
        self.cache.used += 1
        return network.logits(network(step, prefix=prefix, cache=self.cache))

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows only, in this order; a row may be named several times (beams)."""
        self.cache.keep(rows)
        self.lengths, self.context, self.anchor = self.lengths[rows], self.context[rows], self.anchor[rows]


@torch.inference_mode()
def generate(
    network: Network,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    *,
    prefix: Prefix | None = None,
    limits: Sequence[int] | None = None,
    on_token: Callable[[int, int], None] | None = None,
) -> list[list[int]]:
    """New ids of every prompt, up to and without the end id.

    `limits` are rows' own bounds below `max_new_tokens`; `on_token(row, id)` is called for each token as it comes, with beams
    when a row's search has ended. Rows that are done leave the batch. Raises NotFiniteError where a row's logits are not finite.
    """
    bounds = [min(sampling.max_new_tokens, limit) for limit in limits] if limits else [sampling.max_new_tokens] * len(prompts)
    answers: list[list[int]] = [[] for _ in prompts]
    tell = on_token or (lambda _row, _token: None)
    if not prompts:
        return answers
    if sampling.num_beams > 1:
        for row, answer in enumerate(_search_each(network, prompts, sampling.num_beams, prefix, bounds)):
            answers[row] = answer
            for token in answer:
                tell(row, token)
        return answers
    running = list(range(len(prompts)))
    rows = Rows(network, prompts, max(bounds))
    choose = _chooser(sampling, rows.lengths.device)
    logits = rows.read_prompts(network, prefix)
    while running:
        tokens = choose(logits)
        chosen = _ids(tokens, running, len(prompts))
        for row, token in zip(running, chosen, strict=True):
            if token not in network.end_ids and bounds[row] > 0:
                answers[row].append(token)
                tell(row, token)
        alive = [place for place, row in enumerate(running) if len(answers[row]) < bounds[row] and chosen[place] not in network.end_ids]
        if len(alive) < len(running):
            running = [running[place] for place in alive]
            if not running:
                break
            kept = torch.tensor(alive, device=tokens.device)
            rows.keep(kept)
            tokens = tokens[kept]
        logits = rows.step(network, prefix, tokens)
    return answers


@torch.inference_mode()
def stream(network: Network, prompt: Sequence[int], sampling: Sampling, *, prefix: Prefix | None = None) -> Iterator[int]:
    """New ids of one prompt, one at a time, up to and without the end id."""
    rows = Rows(network, [prompt], sampling.max_new_tokens)
    choose = _chooser(sampling, rows.lengths.device)
    logits = rows.read_prompts(network, prefix)
    for count in range(1, sampling.max_new_tokens + 1):
        token = choose(logits)
        (chosen,) = _ids(token, [0], 1)
        if chosen in network.end_ids:
            return
        yield chosen
        if count < sampling.max_new_tokens:
            logits = rows.step(network, prefix, token)


def _chooser(sampling: Sampling, device: torch.device) -> Callable[[Tensor], Tensor]:
    """Logits (B, V) -> token ids (B,); NOTHING where a row's largest logit is not finite, and NaN counts as the largest."""

    def greedy(logits: Tensor) -> Tensor:
        largest, tokens = logits.max(-1)
        return tokens.where(largest.isfinite(), NOTHING)

    if sampling.temperature <= GREEDY_BELOW:
        return greedy
    generator = torch.Generator(device)
    if sampling.seed is None:
        generator.seed()
    else:
        generator.manual_seed(sampling.seed)

    def draw(logits: Tensor) -> Tensor:
        finite = logits.amax(-1).isfinite()
        logits = logits.where(finite[:, None], 0)  # a GPU would fail as a whole
        probabilities = (logits.float() / sampling.temperature).softmax(-1)
        if sampling.top_p < 1:
            ordered, ids = probabilities.sort(-1, descending=True)
            ordered[ordered.cumsum(-1) - ordered >= sampling.top_p] = 0
            probabilities = torch.zeros_like(probabilities).scatter_(-1, ids, ordered)
        return torch.multinomial(probabilities, 1, generator=generator)[:, 0].where(finite, NOTHING)

    return draw


def _ids(tokens: Tensor, rows: Sequence[int], count: int) -> list[int]:
    """What was chosen (B,) for these of `count` rows, fetched from the device once a step."""
    ids: list[int] = tokens.tolist()
    if NOTHING in ids:
        raise NotFiniteError(rows[ids.index(NOTHING)], count)
    return ids


def _search_each(
    network: Network, prompts: Sequence[Sequence[int]], beams: int, prefix: Prefix | None, bounds: Sequence[int]
) -> Iterator[list[int]]:
    """The answers by beams, one after the other."""
    for row, (prompt, bound) in enumerate(zip(prompts, bounds, strict=True)):
        found = _beam_search(network, prompt, beams, prefix, bound)
        if found is None:
            raise NotFiniteError(row, len(prompts))
        yield found


def _beam_search(network: Network, prompt: Sequence[int], beams: int, prefix: Prefix | None, bound: int) -> list[int] | None:
    """The answer of up to `bound` tokens with the highest mean log-probability per token (the end counts); None where that is NaN."""
    rows = Rows(network, [prompt], bound)
    if bound < 1:
        return []
    logits = rows.read_prompts(network, prefix)
    rows.keep(torch.zeros(beams, dtype=torch.long, device=logits.device))
    scores = logits.new_full((beams,), float("-inf"), dtype=torch.float32)
    scores[0] = 0  # all beams are equal at first: only one may branch
    logits = logits.expand(beams, -1)
    texts: list[list[int]] = [[] for _ in range(beams)]
    done: list[tuple[float, list[int]]] = []
    for length in range(1, bound + 1):
        total = scores[:, None] + logits.float().log_softmax(-1)
        best, places = total.flatten().topk(min(beams * (1 + len(network.end_ids)), total.numel()))  # enough to go on whatever ends
        if any(map(math.isnan, kept := best.tolist())):
            return None
        candidates = list(zip(kept, (places // total.shape[1]).tolist(), (places % total.shape[1]).tolist(), strict=True))
        done += [(score / length, texts[beam]) for score, beam, token in candidates[:beams] if token in network.end_ids]
        going = [(score, beam, token) for score, beam, token in candidates if token not in network.end_ids][:beams]
        texts = [[*texts[beam], token] for _, beam, token in going]
        done = sorted(done, key=lambda one: -one[0])[:beams]
        if length == bound:
            done += [(score / length, text) for (score, _, _), text in zip(going, texts, strict=True)]
            break
        if not going or (len(done) == beams and going[0][0] / length <= done[-1][0]):
            break
        scores = torch.tensor([score for score, _, _ in going], device=logits.device)
        rows.keep(torch.tensor([beam for _, beam, _ in going], device=logits.device))
        logits = rows.step(network, prefix, torch.tensor([token for _, _, token in going], device=logits.device))
    return max(done, key=lambda one: one[0])[1]
