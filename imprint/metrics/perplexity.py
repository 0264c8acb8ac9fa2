"""Perplexity of texts from the losses of their documents, per token and per character."""

import math
from dataclasses import dataclass

NORMAL_95 = 1.959964
"""So many standard errors to either side hold 95 % of a normal distribution."""


@dataclass(frozen=True)
class Rate:
    """Nats of loss per unit of text."""

    nats: float
    """Loss per unit."""
    perplexity: float
    """Its exponential: among how many equally likely next units the model is undecided."""
    bits: float
    """The loss in bits."""
    low: float | None
    """Lower end of the 95 % interval of the perplexity over the choice of documents; None for a single document."""
    high: float | None
    """Upper end of it."""


@dataclass(frozen=True)
class Perplexity:
    """How sure a model is of texts."""

    documents: int
    """How many documents were measured."""
    tokens: int
    """How many tokens they have in the model's vocabulary; numbers per token of two vocabularies cannot be compared."""
    characters: int
    """How many characters they have; numbers per character can."""
    token: Rate
    """Per token."""
    character: Rate
    """Per character."""


@dataclass
class Sums:
    """Sums over documents, from which ratios and their intervals follow."""

    documents: int = 0
    nats: float = 0.0
    tokens: int = 0
    characters: int = 0
    squares: float = 0.0
    """Of the nats of documents."""
    products: tuple[float, float] = (0.0, 0.0)
    """Of nats with tokens, and with characters."""
    sizes: tuple[float, float] = (0.0, 0.0)
    """Squares of tokens, and of characters."""

    def add(self, tokens: int, characters: int, nats: float) -> None:
        """Count a document."""
        self.documents += 1
        self.nats += nats
        self.tokens += tokens
        self.characters += characters
        self.squares += nats * nats
        self.products = (self.products[0] + nats * tokens, self.products[1] + nats * characters)
        self.sizes = (self.sizes[0] + tokens * tokens, self.sizes[1] + characters * characters)

    def perplexity(self) -> Perplexity:
        """What the documents come to; there must be one with a token."""
        rates = [self._rate(total, self.products[place], self.sizes[place]) for place, total in enumerate((self.tokens, self.characters))]
        return Perplexity(self.documents, self.tokens, self.characters, *rates)

    def _rate(self, total: int, product: float, size: float) -> Rate:
        """The ratio of the sums, and its standard error by linearization.

        Source: Cochran, Sampling Techniques, 1977, section 6.3: the variance of a ratio r = y / x follows from the residuals y - r x.
        """
        nats = self.nats / total
        low = high = None
        if self.documents > 1:
            residuals = max(0.0, self.squares - 2 * nats * product + nats * nats * size)
            error = math.sqrt(residuals * self.documents / (self.documents - 1)) / total
            low, high = math.exp(nats - NORMAL_95 * error), math.exp(nats + NORMAL_95 * error)
        return Rate(nats, math.exp(nats), nats / math.log(2), low, high)
