"""The perplexity of each document: quantiles and tails (the paper's Figures 3 and 10).

Shape suffixes: E scored tokens.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from fractions import Fraction
from itertools import accumulate
from typing import Any, ClassVar

import numpy as np

from ..editing.stats import ratio
from ..errors import ConfigError
from .batches import Batch
from .documents import Document
from .measurement import Measurement, Needs
from .probability import exp, total_logprob

RELATIVE_ERROR = 0.01
QUANTILES = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)
BIN_NATS = 2 * math.log1p(RELATIVE_ERROR)  # a bin's middle is within RELATIVE_ERROR of all that is in it


class Perplexity(Measurement):
    """The perplexities of the documents: quantiles, and the tail above given values.

    The perplexity of a document is exp of the mean negative log-probability of its scored tokens. Long documents are
    scored in overlapping windows, each token once. Documents are counted in bins of perplexity whose edges are 2 %
    apart, so that memory stays flat: quantiles are within 1 % of those of `numpy.quantile`.

    tails: a perplexity or several. `tail_mass` is the share of the documents above each.

    `result()` holds:

    - `num_unscored`: documents without a scored token, such as a single token; they have no perplexity
    - `quantiles`: perplexity by level, such as `0.5`; `median`
    - `min`, `max`: exact
    - `geometric_mean`: exp of the mean log-perplexity over documents
    - `tail_mass`: share of documents above each of `tails`, exact
    """

    name: ClassVar[str] = "perplexity"
    needs: ClassVar[Needs] = "logprobs"

    def __init__(self, tails: float | Sequence[float] = (14.0, 100.0)) -> None:
        edges = tuple(tails) if isinstance(tails, Iterable) else (tails,)
        if not all(isinstance(edge, (int, float, np.number)) and 1 <= edge < math.inf for edge in edges):
            raise ConfigError(f"tails={tails!r} must be perplexities, which are at least 1, such as [14, 100]")
        super().__init__(tails=tuple(float(edge) for edge in edges))
        self.bins: Counter[int] = Counter()
        self.above: Counter[float] = Counter()
        self.num_unscored = 0
        self.log_sum = Fraction(0)
        self.extremes: tuple[float, float] = (math.inf, -math.inf)

    def _count(self, batch: Batch) -> None:
        for document in batch.scored:
            self._count_document(document)

    def _count_document(self, document: Document) -> None:
        logprob_E = document.logprob_E
        assert logprob_E is not None
        if not len(logprob_E):
            self.num_unscored += 1
            return
        nats = max(0.0, float(-total_logprob(logprob_E) / len(logprob_E)))  # rounding can make it slightly negative
        self.bins[math.floor(nats / BIN_NATS)] += 1
        self.above.update(edge for edge in self.settings["tails"] if exp(nats) > edge)
        self.log_sum += Fraction(nats)
        self._widen(nats, nats)

    def _merge(self, other: Perplexity) -> None:
        self.bins.update(dict(other.bins))
        self.above.update(dict(other.above))
        self.num_unscored += other.num_unscored
        self.log_sum += other.log_sum
        self._widen(*other.extremes)

    def _widen(self, low: float, high: float) -> None:
        self.extremes = (min(self.extremes[0], low), max(self.extremes[1], high))

    def quantile(self, level: float) -> float:
        """The perplexity below which a share `level` of the documents lies, within 1 % of `numpy.quantile`."""
        num = self.bins.total()
        if not 0 <= level <= 1:
            raise ConfigError(f"level={level} must be in [0, 1]")
        if not num:
            return math.nan
        numbers = sorted(self.bins)
        ends = list(accumulate(self.bins[number] for number in numbers))
        place = level * (num - 1)
        below, above = (
            self._middle(numbers[bisect_right(ends, rank)]) for rank in (math.floor(place), math.ceil(place))
        )
        return below if below == above else below + (above - below) * (place - math.floor(place))

    def _middle(self, number: int) -> float:
        """The perplexity that stands for a bin: its geometric middle, but within the extremes."""
        low, high = self.extremes
        return exp(min(max((number + 0.5) * BIN_NATS, low), high))

    def tail_mass(self, perplexity: float) -> float:
        """The share of documents above any perplexity, which is moved to the next edge of a bin, at most 1 % away."""
        if not perplexity >= 1:
            raise ConfigError(f"perplexity={perplexity} must be at least 1")
        edge = round(math.log(perplexity) / BIN_NATS)
        return ratio(sum(count for number, count in self.bins.items() if number >= edge), self.bins.total())

    def _figures(self) -> dict[str, Any]:
        num = self.bins.total()
        low, high = self.extremes if num else (math.nan, math.nan)
        return {
            "num_unscored": self.num_unscored,
            "quantiles": {f"{level:g}": self.quantile(level) for level in QUANTILES},
            "median": self.quantile(0.5),
            "min": exp(low),
            "max": exp(high),
            "geometric_mean": exp(float(self.log_sum / num)) if num else math.nan,
            "tail_mass": {f"{edge:g}": ratio(self.above[edge], num) for edge in self.settings["tails"]},
        }
