"""A request for one answer: the prompt, how each next token is chosen, and where the answer ends; and the tokens of the answer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from imprint import arguments
from imprint.messages import Bilingual, UserError

GREEDY_TEMPERATURE = 1e-5
"""Up to this temperature, decoding is greedy."""
MAX_TOKENS = 1_000_000
"""The longest answer: memory for all of it is taken at once."""
MAX_STOPS = 64
"""Most stop texts of a request: each new token is compared with all of them."""
MAX_TOP_LOGPROBS = 20
"""Most tokens of which log-probabilities are given at a place of an answer."""
SEEDS = range(-(2**63), 2**64)
"""Seeds that PyTorch takes."""

Finish = Literal["stop", "length", "error"]
"""Why an answer ended: at a stop id or a stop text, at its longest, or because the logits were not finite."""


@dataclass(frozen=True)
class Request:
    """One prompt, and how it is answered."""

    ids: Sequence[int]
    """Token ids of the prompt."""
    max_new_tokens: int
    """Maximum number of tokens of the answer."""
    temperature: float = 0.0
    """0 takes the most probable token; otherwise logits are divided by it."""
    top_p: float = 1.0
    """Sample from the smallest set of tokens that together have this probability."""
    top_k: int = 0
    """Sample from this many most probable tokens; 0 from all."""
    repetition_penalty: float = 1.0
    """Tokens that stand in the prompt or the answer have positive logits divided by it, negative ones multiplied (Keskar et al. 2019)."""
    seed: int | None = None
    """Seed of sampling; None draws one."""
    stop_ids: frozenset[int] = frozenset()
    """Ids that end the answer, beside those of the base."""
    stop: tuple[str, ...] = ()
    """Texts that end the answer."""
    adapter: str | None = None
    """Name of a mounted adapter, `base` for the base without one; None takes the model as it is when the request is admitted."""
    top_logprobs: int = 0
    """Number of most probable tokens that come with every new token."""

    def __post_init__(self) -> None:
        """Raise UserError for impossible values and for those of another type."""
        for name in ("max_new_tokens", "top_k", "top_logprobs"):
            arguments.integer(name, getattr(self, name))
        for name in ("temperature", "top_p", "repetition_penalty"):
            arguments.number(name, getattr(self, name))
        if self.seed is not None and arguments.integer("seed", self.seed) not in SEEDS:
            raise arguments.wrong_argument("seed", "an integer of at most 64 bits", self.seed, "不超过 64 位的整数")
        if self.adapter is not None:
            arguments.text("adapter", self.adapter)
        object.__setattr__(self, "stop", stop_texts(self.stop))
        object.__setattr__(self, "stop_ids", frozenset(arguments.token_ids("stop_ids", self.stop_ids)))
        for name, valid, allowed, chinese in (
            ("max_new_tokens", self.max_new_tokens >= 1, "at least 1", "不小于 1"),
            ("max_new_tokens", self.max_new_tokens <= MAX_TOKENS, f"at most {MAX_TOKENS}", f"不大于 {MAX_TOKENS}"),
            ("temperature", 0 <= self.temperature < float("inf"), "0 or more", "不小于 0"),
            ("top_p", 0 < self.top_p <= 1, "above 0 and at most 1", "大于 0 且不大于 1"),
            ("top_k", self.top_k >= 0, "0 or more", "不小于 0"),
            ("top_logprobs", 0 <= self.top_logprobs <= MAX_TOP_LOGPROBS, f"0 to {MAX_TOP_LOGPROBS}", f"在 0 到 {MAX_TOP_LOGPROBS} 之间"),
            ("repetition_penalty", 0 < self.repetition_penalty < float("inf"), "above 0", "大于 0"),
        ):
            if not valid:
                value = getattr(self, name)
                raise UserError(Bilingual(f"{name}: must be {allowed}, got {value}.", f"{name} 必须{chinese}，实际为 {value}。"))

    @property
    def greedy(self) -> bool:
        """Whether the most probable token is taken."""
        return self.temperature <= GREEDY_TEMPERATURE


def stop_texts(stop: object) -> tuple[str, ...]:
    """Stop texts as a tuple; one text is one of them. Raises UserError for an empty one, for too many, and for anything else."""
    texts = (stop,) if isinstance(stop, str) else tuple(arguments.texts("stop", () if stop is None else stop))
    if "" in texts:
        raise UserError(
            Bilingual("stop: a stop text is empty. Give texts of at least one character.", "stop 中有空文本：请至少给出一个字符。")
        )
    if len(texts) > MAX_STOPS:
        raise UserError(
            Bilingual(f"stop: has {len(texts)} texts, allowed are {MAX_STOPS}.", f"stop 有 {len(texts)} 个文本，最多 {MAX_STOPS} 个。")
        )
    return texts


@dataclass(frozen=True)
class Token:
    """One new token of a request."""

    request: int
    """The id that `Decoder.admit` returned."""
    id: int
    """The token's id; a stop id is no part of the answer. -1 where the logits were not finite."""
    index: int
    """Its place in the answer, from 0."""
    logprob: float
    """Its log-probability under the model, before temperature, penalty and truncation."""
    finish: Finish | None = None
    """Why the answer ends with this token; None where it goes on."""
    top: tuple[tuple[int, float], ...] = ()
    """The most probable tokens in its place with their log-probabilities, the most probable first: `Request.top_logprobs` of them."""
