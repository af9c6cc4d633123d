"""Documents by perplexity: which lie between two quantiles of their corpus.

Shape suffixes: N documents.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from ..errors import ConfigError
from ..types import BoolArray, FloatArray, IntArray

TIE = 1e-6  # relative: the last bits of a log-probability depend on the batch that it was computed in
MOST_NATS = math.log(np.finfo(np.float64).max)  # beyond it a perplexity would be infinite


@dataclasses.dataclass(frozen=True)
class QuantileRange:
    """Two quantiles, low < high, both in [0, 1]."""

    low: float
    high: float

    @classmethod
    def parse(cls, text: str) -> QuantileRange:
        """The range in `low:high`; an empty end is 0 or 1. Raises ConfigError, with the fix, for anything else."""
        what, (low, colon, high) = f"perplexity_quantile={text!r}", text.partition(":")
        try:
            ends = float(low or 0), float(high or 1)
        except ValueError:
            ends = math.nan, math.nan
        if not colon or any(map(math.isnan, ends)):
            raise ConfigError(f"{what} must be two quantiles, low:high, such as 0.05:0.95")
        if max(ends) > 1 and min(ends) >= 0 and max(ends) <= 100:
            low, high = (f"{end / 100:g}" for end in sorted(ends))
            raise ConfigError(f"{what} must be in [0, 1], not in percent: set perplexity_quantile={f'{low}:{high}'!r}")
        if min(ends) < 0 or max(ends) > 1:
            raise ConfigError(f"{what} must be in [0, 1], such as 0.05:0.95")
        if ends[0] > ends[1]:
            raise ConfigError(f"{what} has the higher end first: set perplexity_quantile={f'{high}:{low}'!r}")
        if ends[0] == ends[1]:
            raise ConfigError(f"{what} is empty: its ends must differ, as in 0.05:0.95")
        return cls(*ends)

    def __str__(self) -> str:
        return f"{self.low:g}:{self.high:g}"

    def of(self, values_N: FloatArray) -> tuple[float, float]:
        """The values at the two quantiles, as `numpy.quantile` interpolates them. values_N: finite, at least one."""
        low, high = np.quantile(values_N, [self.low, self.high])
        return float(low), float(high)


def perplexities(logprob_sum_N: FloatArray, num_tokens_N: IntArray) -> FloatArray:
    """exp of the mean negative log-probability of each document's tokens; NaN for a document without any."""
    mean_N = np.divide(-logprob_sum_N, num_tokens_N, out=np.full(len(num_tokens_N), np.nan), where=num_tokens_N > 0)
    perplexity_N: FloatArray = np.exp(np.minimum(mean_N, MOST_NATS))
    return perplexity_N


def lies_between(perplexity_N: FloatArray, low: float, high: float) -> BoolArray:
    """Whether low <= perplexity <= high. Those that tie with an end, up to rounding, are in; NaN is out."""
    return (perplexity_N >= low * (1 - TIE)) & (perplexity_N <= high * (1 + TIE))
