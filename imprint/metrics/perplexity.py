"""Perplexity per token and per character, from the losses of documents."""

import math
from dataclasses import dataclass

NORMAL_95 = 1.959964
"""Standard errors to either side that contain 95 % of a normal distribution."""


@dataclass(frozen=True)
class LossRate:
    """Loss per unit of text."""

    nats: float
    """Loss per unit in nats."""
    perplexity: float
    """exp(nats)."""
    bits: float
    """Loss per unit in bits."""
    low: float | None
    """Lower end of the 95 % interval of the perplexity over the choice of documents; None for a single document."""
    high: float | None
    """Upper end of it."""


@dataclass(frozen=True)
class Perplexity:
    """The perplexity of texts under a model."""

    documents: int
    """How many documents were measured."""
    tokens: int
    """Their tokens in the model's vocabulary; values per token of different vocabularies are not comparable."""
    characters: int
    """Their characters; values per character are comparable."""
    token: LossRate
    """Per token."""
    character: LossRate
    """Per character."""


@dataclass
class LossSums:
    """Running sums over documents, from which the ratios and their intervals are computed."""

    documents: int = 0
    loss_sum: float = 0.0
    tokens: int = 0
    characters: int = 0
    squares: float = 0.0
    """Sum of squared losses of documents."""
    products: tuple[float, float] = (0.0, 0.0)
    """Sums of loss times tokens and of loss times characters."""
    sizes: tuple[float, float] = (0.0, 0.0)
    """Sums of squared tokens and of squared characters."""

    def add(self, tokens: int, characters: int, loss: float) -> None:
        """Add a document."""
        self.documents += 1
        self.loss_sum += loss
        self.tokens += tokens
        self.characters += characters
        self.squares += loss * loss
        self.products = (self.products[0] + loss * tokens, self.products[1] + loss * characters)
        self.sizes = (self.sizes[0] + tokens * tokens, self.sizes[1] + characters * characters)

    def perplexity(self) -> Perplexity:
        """The perplexity of all documents; at least one must have a token."""
        rates = [self._rate(total, self.products[index], self.sizes[index]) for index, total in enumerate((self.tokens, self.characters))]
        return Perplexity(self.documents, self.tokens, self.characters, *rates)

    def _rate(self, total: int, product: float, size: float) -> LossRate:
        """The ratio of the sums, and its standard error by linearization.

        Source: Cochran, Sampling Techniques, 1977, section 6.3: the variance of a ratio r = y / x follows from the residuals y - r x.
        """
        nats = self.loss_sum / total
        low = high = None
        if self.documents > 1:
            residuals = max(0.0, self.squares - 2 * nats * product + nats * nats * size)
            error = math.sqrt(residuals * self.documents / (self.documents - 1)) / total
            low, high = math.exp(nats - NORMAL_95 * error), math.exp(nats + NORMAL_95 * error)
        return LossRate(nats, math.exp(nats), nats / math.log(2), low, high)
