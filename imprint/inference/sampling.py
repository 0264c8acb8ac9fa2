"""Chooses the next token of every row of a batch from its logits, each by its own settings.

Every row draws one number per token from its seed and the token's index, so its answer does not depend on the rows beside it.
Legend: B rows, R of them, V vocabulary size.
"""

import secrets
from collections.abc import Sequence

import torch
from torch import Tensor

from imprint.inference.request import Request
from imprint.messages import Bilingual, UserError

NO_TOKEN = -1
"""In place of a token id where the logits are not finite."""
MASK_64 = 2**64 - 1
GOLDEN_GAMMA, FIRST_FACTOR, SECOND_FACTOR = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
"""The constants of SplitMix64 (Steele, Lea and Flood 2014)."""


class NotFiniteError(UserError):
    """Raised where a prompt's logits hold NaN or infinity, so that there is no most probable token."""

    def __init__(self, row: int, rows: int) -> None:
        self.row = row
        super().__init__(
            Bilingual(
                f"prompt {row + 1} of {rows}: the network computes numbers that are not finite, so no token can be chosen. Use float32 or "
                "bfloat16 as dtype, since float16 ends at 65504; if it stays so, try without the adapter, then download the weights again.",
                f"第 {row + 1}/{rows} 个提示：网络算出了非有限的数值，无法选出词元。"
                "请把 dtype 设为 float32 或 bfloat16（float16 最大 65504）；若仍如此，先去掉适配器再试，然后重新下载权重。",
            )
        )


class SamplingRows:
    """The settings of the rows of a batch, and what was drawn for each."""

    def __init__(self, vocab_size: int, device: torch.device) -> None:
        self.vocab_size = vocab_size
        self.device = device
        self._requests: list[Request] = []
        self._seeds: list[int] = []
        self._counts: list[int] = []
        self._seen: list[Tensor | None] = []
        """(V,) True for tokens of prompt and answer; None without a repetition penalty."""

    def add(self, request: Request) -> None:
        """Append a row."""
        self._requests.append(request)
        self._seeds.append(secrets.randbits(64) if request.seed is None else int(request.seed) & MASK_64)
        self._counts.append(0)
        seen = None
        if request.repetition_penalty != 1:
            seen = torch.zeros(self.vocab_size, dtype=torch.bool, device=self.device)
            seen[torch.tensor(list(request.ids), device=self.device)] = True
        self._seen.append(seen)

    def take(self, order: Sequence[int]) -> None:
        """Keep these rows, in this order."""
        self._requests, self._seeds = [self._requests[row] for row in order], [self._seeds[row] for row in order]
        self._counts, self._seen = [self._counts[row] for row in order], [self._seen[row] for row in order]

    def sample(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, V) -> token ids (B,), NO_TOKEN where the largest logit is not finite, and their log-probabilities (B,)."""
        finite = logits.amax(-1).isfinite()  # for amax, NaN is the largest
        logits = logits.where(finite[:, None], 0).float()  # a GPU is unusable after an index from NaN
        penalised = self._penalise(logits)
        tokens = penalised.argmax(-1)
        if sampled := [row for row, request in enumerate(self._requests) if not request.greedy]:
            rows = torch.tensor(sampled, device=self.device)
            tokens[rows] = self._draw(penalised[rows], [self._requests[row] for row in sampled], rows)
        log_probs = logits.gather(1, tokens[:, None])[:, 0] - logits.logsumexp(-1)
        self._counts = [count + 1 for count in self._counts]
        for seen, token in zip(self._seen, tokens, strict=True):
            if seen is not None:
                seen[token] = True
        return tokens.where(finite, NO_TOKEN), log_probs

    def _penalise(self, logits: Tensor) -> Tensor:
        """Logits after the repetition penalty of the rows that have one."""
        rows = [row for row, seen in enumerate(self._seen) if seen is not None]
        if not rows:
            return logits
        penalties = torch.tensor([self._requests[row].repetition_penalty for row in rows], device=self.device)[:, None]
        chosen = logits[rows]
        lower = torch.where(chosen > 0, chosen / penalties, chosen * penalties)
        seen = torch.stack([tensor for tensor in self._seen if tensor is not None])
        return logits.index_copy(0, torch.tensor(rows, device=self.device), torch.where(seen, lower, chosen))

    def _draw(self, logits: Tensor, requests: list[Request], rows: Tensor) -> Tensor:
        """One token for each of some rows (R, V) -> (R,), by inverting the cumulative distribution at the row's number."""

        def column(name: str, dtype: torch.dtype) -> Tensor:
            return torch.tensor([getattr(request, name) for request in requests], dtype=dtype, device=self.device)[:, None]

        probabilities = (logits / column("temperature", torch.float32)).softmax(-1)
        if any(request.top_p < 1 or request.top_k for request in requests):
            probabilities = truncate(probabilities, column("top_k", torch.long), column("top_p", torch.float32))
        seeds = [self._seeds[row] for row in rows.tolist()]
        counts = [self._counts[row] for row in rows.tolist()]
        numbers = torch.tensor([uniform(seed, count) for seed, count in zip(seeds, counts, strict=True)], dtype=torch.float64)
        cumulative = probabilities.cumsum(-1, dtype=torch.float64)
        return torch.searchsorted(cumulative, numbers.to(self.device)[:, None] * cumulative[:, -1:], right=True)[:, 0]


def truncate(probabilities: Tensor, top_k: Tensor, top_p: Tensor) -> Tensor:
    """Zero all but the `top_k` (B, 1) most probable tokens (0: none), then all but the smallest set that has `top_p` (B, 1) of the rest."""
    ordered, ids = probabilities.sort(-1, descending=True)
    if bool((top_k > 0).any()):
        ranks = torch.arange(ordered.shape[-1], device=ordered.device)
        ordered = ordered.where((ranks < top_k) | (top_k == 0), 0)
        ordered = ordered / ordered.sum(-1, keepdim=True)
    ordered = ordered.where(ordered.cumsum(-1) - ordered < top_p, 0)
    return torch.zeros_like(probabilities).scatter_(-1, ids, ordered)


def uniform(seed: int, index: int) -> float:
    """Number `index` of a stream of numbers from 0 (included) to 1 (excluded), computed from both alone (SplitMix64)."""
    mixed = (seed + (index + 1) * GOLDEN_GAMMA) & MASK_64
    mixed = ((mixed ^ (mixed >> 30)) * FIRST_FACTOR) & MASK_64
    mixed = ((mixed ^ (mixed >> 27)) * SECOND_FACTOR) & MASK_64
    return ((mixed ^ (mixed >> 31)) >> 11) / 2**53


def row_seed(seed: int | None, row: int) -> int | None:
    """The seed of row `row` of prompts that are answered with one seed; the first row has the seed itself, None stays None."""
    return seed if seed is None or row == 0 else int(uniform(int(seed) & MASK_64, -1 - row) * 2**53)
