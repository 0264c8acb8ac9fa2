"""Chooses the next token from logits: greedily, or sampled with a temperature and top-p.

Legend: B sequences, V vocabulary size.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from imprint import arguments
from imprint.messages import Bilingual, UserError

GREEDY_TEMPERATURE = 1e-5
"""Up to this temperature, decoding is greedy."""
MAX_TOKENS = 1_000_000
"""The longest answer: memory for all of it is taken at once."""
MAX_BEAMS = 1000
SEEDS = range(-(2**63), 2**64)
"""Seeds that PyTorch takes."""
NO_TOKEN = -1
"""In place of a token id where the logits are not finite."""

Sampler = Callable[[Tensor], Tensor]
"""Logits (B, V) -> token ids (B,), NO_TOKEN where the largest logit is not finite."""


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
class Sampling:
    """How the next token is chosen, and when to stop."""

    max_new_tokens: int
    """Maximum number of tokens of an answer."""
    temperature: float = 0.0
    """0 takes the most probable token; otherwise logits are divided by it."""
    top_p: float = 1.0
    """Sample from the smallest set of tokens that together have this probability."""
    num_beams: int = 1
    """Number of beams; 1 means no beam search. Beam search does not sample."""
    seed: int | None = None
    """Seed of the sampler; None draws a new one each time."""

    def __post_init__(self) -> None:
        """Raise UserError for impossible values and for those of another type."""
        for name in ("max_new_tokens", "num_beams"):
            arguments.integer(name, getattr(self, name))
        for name in ("temperature", "top_p"):
            arguments.number(name, getattr(self, name))
        if self.seed is not None:
            seed = arguments.integer("seed", self.seed)
            if seed not in SEEDS:
                raise arguments.wrong_argument("seed", "an integer of at most 64 bits", seed, "不超过 64 位的整数")
        for name, valid, allowed, chinese in (
            ("max_new_tokens", self.max_new_tokens >= 1, "at least 1", "不小于 1"),
            ("max_new_tokens", self.max_new_tokens <= MAX_TOKENS, f"at most {MAX_TOKENS}", f"不大于 {MAX_TOKENS}"),
            ("temperature", 0 <= self.temperature < float("inf"), "0 or more", "不小于 0"),
            ("top_p", 0 < self.top_p <= 1, "above 0 and at most 1", "大于 0 且不大于 1"),
            ("num_beams", self.num_beams >= 1, "at least 1", "不小于 1"),
            ("num_beams", self.num_beams <= MAX_BEAMS, f"at most {MAX_BEAMS}", f"不大于 {MAX_BEAMS}"),
        ):
            if not valid:
                value = getattr(self, name)
                raise UserError(Bilingual(f"{name}: must be {allowed}, got {value}.", f"{name} 必须{chinese}，实际为 {value}。"))
        if self.num_beams > 1 and self.temperature > GREEDY_TEMPERATURE:
            raise UserError(
                Bilingual(
                    f"num_beams: {self.num_beams} beams are searched without sampling; set temperature to 0 or num_beams to 1.",
                    "束搜索不做采样：请把 temperature 设为 0，或把 num_beams 设为 1。",
                )
            )


def make_sampler(sampling: Sampling, device: torch.device) -> Sampler:
    """The sampler of these settings, with a random generator of its own."""

    def greedy(logits: Tensor) -> Tensor:
        largest, tokens = logits.max(-1)  # for max, NaN is the largest
        return tokens.where(largest.isfinite(), NO_TOKEN)

    if sampling.temperature <= GREEDY_TEMPERATURE:
        return greedy
    temperature = float(sampling.temperature)
    generator = torch.Generator(device)
    if sampling.seed is None:
        generator.seed()
    else:
        generator.manual_seed(int(sampling.seed))

    def sample(logits: Tensor) -> Tensor:
        finite = logits.amax(-1).isfinite()
        logits = logits.where(finite[:, None], 0)  # multinomial over NaN makes a GPU unusable
        probabilities = (logits.float() / temperature).softmax(-1)
        if sampling.top_p < 1:
            ordered, ids = probabilities.sort(-1, descending=True)
            ordered[ordered.cumsum(-1) - ordered >= sampling.top_p] = 0
            probabilities = torch.zeros_like(probabilities).scatter_(-1, ids, ordered)
        return torch.multinomial(probabilities, 1, generator=generator)[:, 0].where(finite, NO_TOKEN)

    return sample


def token_ids(tokens: Tensor, rows: Sequence[int], num_prompts: int) -> list[int]:
    """Sampled tokens (B,) as Python integers, with one copy from the device; `rows` are the prompts they belong to.

    Raises NotFiniteError for NO_TOKEN.
    """
    ids: list[int] = tokens.tolist()
    if NO_TOKEN in ids:
        raise NotFiniteError(rows[ids.index(NO_TOKEN)], num_prompts)
    return ids
