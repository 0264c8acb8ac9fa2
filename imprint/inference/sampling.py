"""Chooses the next token of every row of a batch from its logits, each by its own settings.

Every row draws one number per token from its seed and the token's index, so its answer does not depend on the rows beside it.
Legend: B rows, R of them, V vocabulary size.
"""

import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from imprint.inference.request import Request
from imprint.messages import Bilingual, UserError
from imprint.models.most_probable import has_kernel, most_probable

MAX_FACTOR = 1e30
"""Temperatures and penalties beyond it, or beyond its inverse, change nothing more, and would not be finite in float32."""
LEAST_TOP_P = 1e-30
"""A smaller top_p would be 0 in 32 bits, which no token has."""
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


@dataclass(frozen=True)
class SampledRows:
    """The settings of the rows that sample, as tensors."""

    rows: Tensor
    """(R,) their places in the batch."""
    temperatures: Tensor
    """(R, 1)."""
    top_k: Tensor | None
    """(R, 1); None where no row has one."""
    top_p: Tensor | None
    """(R, 1); None where no row truncates."""
    origins: Tensor
    """(R,) int64 state of each row's stream of numbers at step 0 of the batch."""


@dataclass(frozen=True)
class PenalisedRows:
    """The rows with a repetition penalty."""

    rows: Tensor
    """(R,) their places in the batch."""
    penalties: Tensor
    """(R, 1)."""
    seen: Tensor
    """(R, V) True for tokens of prompt and answer."""


class SamplingRows:
    """The settings of the rows of a batch, and what was drawn for each; a step is the same few operations whatever the number of rows."""

    def __init__(self, vocab_size: int, device: torch.device, *, kernels: bool = True) -> None:
        self.vocab_size = vocab_size
        self.device = device
        self.kernels = kernels
        """Whether a kernel may choose the tokens of greedy rows on a GPU."""
        self._steps = 0
        self._requests: list[Request] = []
        self._origins: list[int] = []
        """State of each row's stream of numbers at step 0."""
        self._seen: list[Tensor | None] = []
        """(V,) True for tokens of prompt and answer; None without a repetition penalty."""
        self._settings: tuple[SampledRows | None, PenalisedRows | None] | None = None
        """None where the rows have changed."""

    def add(self, request: Request) -> None:
        """Append a row."""
        seed = secrets.randbits(64) if request.seed is None else int(request.seed)
        self._requests.append(request)
        self._origins.append(seed - self._steps * GOLDEN_GAMMA)
        seen = None
        if request.repetition_penalty != 1:
            seen = torch.zeros(self.vocab_size, dtype=torch.bool, device=self.device)
            seen[torch.tensor(list(request.ids), device=self.device)] = True
        self._seen.append(seen)
        self._settings = None

    def take(self, order: Sequence[int]) -> None:
        """Keep these rows, in this order."""
        self._requests, self._origins = [self._requests[row] for row in order], [self._origins[row] for row in order]
        self._seen = [self._seen[row] for row in order]
        self._settings = None

    def sample(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, V) -> token ids (B,), NO_TOKEN where the largest logit is not finite, and their log-probabilities (B,)."""
        self._settings = self._settings or (self._sampled_rows(), self._penalised_rows())
        sampled, penalised = self._settings
        self._steps += 1
        if sampled is None and penalised is None and self.kernels and has_kernel(logits):
            return most_probable(logits)
        largest = logits.amax(-1)
        finite = largest.isfinite()  # for amax, NaN is the largest
        if sampled is None and penalised is None:
            tokens, log_probs = logits.argmax(-1), largest.float() - logits.float().logsumexp(-1)
            return tokens.where(finite, NO_TOKEN), log_probs.where(finite, float("-inf"))
        logits = logits.where(finite[:, None], 0).float()  # a GPU is unusable after an index from NaN
        lowered = logits if penalised is None else _penalise(logits, penalised)
        tokens = lowered.argmax(-1)
        if sampled is not None:
            tokens[sampled.rows] = self._draw(lowered[sampled.rows], sampled)
        if penalised is not None:
            penalised.seen.scatter_(1, tokens[penalised.rows, None], True)
        log_probs = logits.gather(1, tokens[:, None])[:, 0] - logits.logsumexp(-1)
        return tokens.where(finite, NO_TOKEN), log_probs

    def top(self, logits: Tensor) -> tuple[Tensor, ...]:
        """Ids and log-probabilities (B, K) of the most probable tokens of logits (B, V), K the most that a row asks for; else nothing."""
        most = max((request.top_logprobs for request in self._requests), default=0)
        if not most:
            return ()
        log_probs, ids = logits.float().log_softmax(-1).topk(min(most, self.vocab_size), -1)
        return ids, log_probs

    def _sampled_rows(self) -> SampledRows | None:
        rows = [row for row, request in enumerate(self._requests) if not request.greedy]
        if not rows:
            return None
        requests = [self._requests[row] for row in rows]

        def column(values: Iterable[float], dtype: torch.dtype) -> Tensor:
            return torch.tensor([*values], dtype=dtype, device=self.device)[:, None]

        with_top_k = any(request.top_k for request in requests)
        truncates = with_top_k or any(request.top_p < 1 for request in requests)
        return SampledRows(
            torch.tensor(rows, device=self.device),
            column((min(request.temperature, MAX_FACTOR) for request in requests), torch.float32),
            column((min(request.top_k, self.vocab_size) for request in requests), torch.long) if with_top_k else None,
            column((max(request.top_p, LEAST_TOP_P) for request in requests), torch.float32) if truncates else None,
            torch.tensor([_signed(self._origins[row]) for row in rows], device=self.device),
        )

    def _penalised_rows(self) -> PenalisedRows | None:
        rows = [row for row, seen in enumerate(self._seen) if seen is not None]
        if not rows:
            return None
        all_seen = torch.stack([tensor for tensor in self._seen if tensor is not None])
        for row, seen in zip(rows, all_seen, strict=True):
            self._seen[row] = seen  # a view: what the batch marks stays with the row
        factors = [min(max(self._requests[row].repetition_penalty, 1 / MAX_FACTOR), MAX_FACTOR) for row in rows]
        penalties = torch.tensor(factors, device=self.device)[:, None]
        return PenalisedRows(torch.tensor(rows, device=self.device), penalties, all_seen)

    def _draw(self, logits: Tensor, sampled: SampledRows) -> Tensor:
        """One token for each of some rows (R, V) -> (R,), by inverting the cumulative distribution at the row's number."""
        probabilities = (logits / sampled.temperatures).softmax(-1)
        if sampled.top_p is not None:
            probabilities = truncate(probabilities, sampled.top_k, sampled.top_p)
        numbers = uniform_numbers(sampled.origins + _signed(self._steps * GOLDEN_GAMMA))
        cumulative = probabilities.cumsum(-1, dtype=torch.float64)
        drawn = torch.searchsorted(cumulative, numbers[:, None] * cumulative[:, -1:], right=True)[:, 0]
        return drawn.clamp(max=self.vocab_size - 1)  # a number just below 1 may be rounded to the sum


def _penalise(logits: Tensor, penalised: PenalisedRows) -> Tensor:
    """Logits after the repetition penalty of the rows that have one."""
    chosen = logits[penalised.rows]
    lower = torch.where(chosen > 0, chosen / penalised.penalties, chosen * penalised.penalties)
    return logits.index_copy(0, penalised.rows, torch.where(penalised.seen, lower, chosen))


def truncate(probabilities: Tensor, top_k: Tensor | None, top_p: Tensor) -> Tensor:
    """Zero all but the `top_k` (B, 1) most probable tokens (0: none), then all but the smallest set that has `top_p` (B, 1) of the rest."""
    ordered, ids = probabilities.sort(-1, descending=True)
    if top_k is not None:
        ranks = torch.arange(ordered.shape[-1], device=ordered.device)
        kept = ordered.where(ranks < top_k, 0)
        ordered = torch.where(top_k == 0, ordered, kept / kept.sum(-1, keepdim=True))
    ordered = ordered.where(ordered.cumsum(-1) - ordered < top_p, 0)
    return torch.zeros_like(probabilities).scatter_(-1, ids, ordered)


def uniform(seed: int, index: int) -> float:
    """Number `index` of a stream of numbers from 0 (included) to 1 (excluded), computed from both alone (SplitMix64)."""
    return float(uniform_numbers(torch.tensor([_signed(seed + (index + 1) * GOLDEN_GAMMA)])))


def uniform_numbers(states: Tensor) -> Tensor:
    """The number of each state (R,) of SplitMix64: from 0 (included) to 1 (excluded), in float64. int64 wraps around as uint64 does."""
    mixed = (states ^ _shifted(states, 30)) * _signed(FIRST_FACTOR)
    mixed = (mixed ^ _shifted(mixed, 27)) * _signed(SECOND_FACTOR)
    return _shifted(mixed ^ _shifted(mixed, 31), 11).double() / 2**53


def _shifted(numbers: Tensor, bits: int) -> Tensor:
    """Int64 numbers shifted to the right as if they were unsigned."""
    shifted: Tensor = (numbers >> bits) & (2 ** (64 - bits) - 1)
    return shifted


def _signed(number: int) -> int:
    """The int64 with the last 64 bits of an integer."""
    return ((number + 2**63) & MASK_64) - 2**63


def row_seed(seed: int | None, row: int) -> int | None:
    """The seed of row `row` of prompts that are answered with one seed; the first row has the seed itself, None stays None."""
    return seed if seed is None or row == 0 else int(uniform(int(seed) & MASK_64, -1 - row) * 2**53)
