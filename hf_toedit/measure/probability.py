"""How likely a prior finds the tokens of a dataset: the paper's Table 6.

Shape suffixes: E scored tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, ClassVar

import numpy as np

from ..editing.checks import checked_number
from ..editing.stats import NUM_BINS, probability_histogram, ratio
from .batches import Batch
from .measurement import Measurement, Needs

LOW_BINS = 6  # those below .6, of which the paper gives the share


class TokenProbability(Measurement):
    """The probabilities of the tokens in ten bins, and what follows from them.

    threshold: tokens with at least this probability are eligible. In (0, 1].

    `result()` holds:

    - `num_tokens`: tokens that the prior scored
    - `histogram`: tokens by probability, in ten bins of width 0.1, the last of which includes 1; `shares`: the same as
      shares of all
    - `eligible_rate`: share of tokens with p >= threshold
    - `share_below_0.6`: share of tokens with p < 0.6
    - `u_shape`: the share of the emptier of the two outer bins, minus the mean share of the eight between them. Above
      0, both ends hold more than the middle; at most 0.5.
    - `mean_logprob`: in nats; `perplexity`: exp(-mean_logprob), infinite beyond 709 nats
    """

    name: ClassVar[str] = "token_probability"
    needs: ClassVar[Needs] = "logprobs"

    def __init__(self, threshold: float = 0.99) -> None:
        threshold = checked_number("threshold", threshold, 0.0, 1.0, above=True)
        super().__init__(threshold=threshold)
        self._edge = math.log(threshold)
        self.histogram = [0] * NUM_BINS
        self.num_eligible = 0
        self.logprob_sum = Fraction(0)

    def _count(self, batch: Batch) -> None:
        for document in batch.scored:
            logprob_E = document.logprob_E
            assert logprob_E is not None
            self._add(probability_histogram(logprob_E), int((logprob_E >= self._edge).sum()), total_logprob(logprob_E))

    def _merge(self, other: TokenProbability) -> None:
        self._add(other.histogram, other.num_eligible, other.logprob_sum)

    def _add(self, histogram: Sequence[int], num_eligible: int, logprob_sum: Fraction) -> None:
        self.histogram = [a + b for a, b in zip(self.histogram, histogram, strict=True)]
        self.num_eligible += num_eligible
        self.logprob_sum += logprob_sum

    def _figures(self) -> dict[str, Any]:
        num_tokens = sum(self.histogram)
        mean = float(self.logprob_sum / num_tokens) if num_tokens else math.nan
        return {
            "num_tokens": num_tokens,
            **histogram_figures(self.histogram),
            "eligible_rate": ratio(self.num_eligible, num_tokens),
            "mean_logprob": mean,
            "perplexity": exp(-mean),
        }


def total_logprob(logprob_E: np.ndarray[Any, np.dtype[np.float64]]) -> Fraction:
    """The sum over a document, rounded once. Sums of these are exact, and so the same in any order."""
    return Fraction(math.fsum(logprob_E.tolist()))


def histogram_figures(histogram: Sequence[int]) -> dict[str, Any]:
    """The figures of ten bins of probabilities; see TokenProbability."""
    total = sum(histogram)
    shares = [ratio(count, total) for count in histogram]
    first, *middle, last = histogram
    above_middle = Fraction(min(first, last)) - Fraction(sum(middle), len(middle))
    return {
        "histogram": list(histogram),
        "shares": shares,
        "share_below_0.6": ratio(sum(histogram[:LOW_BINS]), total),
        "u_shape": float(above_middle / total) if total else math.nan,
    }


def exp(nats: float) -> float:
    """math.exp, but infinite beyond 709 nats."""
    try:
        return math.exp(nats)
    except OverflowError:
        return math.inf
