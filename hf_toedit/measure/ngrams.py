"""The distribution of n-grams, hashed as in DSIR, and how far it has shifted (the paper's Figure 11).

Shape suffixes: D buckets.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np

from ..editing.checks import checked_integer
from ..editing.stats import ratio
from ..errors import ConfigError
from ..types import FloatArray
from .batches import BITS, Batch, modulo, values_of
from .measurement import Measurement, Needs

NUM_BUCKETS = 10_000
TOP_SHARE = 0.01  # of the buckets
MOST_BUCKETS = 2**BITS


class NGrams(Measurement):
    """The distribution of uni- and bigrams of words, hashed into buckets.

    As in DSIR (arXiv 2302.03169), and so in the paper: the n-grams of each document, joined by spaces, fall into the
    bucket SHA-256 mod `num_buckets`, all lengths together. Words: see `words_of`.

    n: the longest n-grams. num_buckets: as in the paper, 10,000.

    `result()` holds:

    - `num_ngrams`: n-grams, of all lengths
    - `num_used_buckets`: buckets that are not empty
    - `top_share`: share of the n-grams in the fullest 1 % of the buckets
    """

    name: ClassVar[str] = "ngrams"
    needs: ClassVar[Needs] = "text"

    def __init__(self, n: int = 2, num_buckets: int = NUM_BUCKETS) -> None:
        n = checked_integer("n", n, 1)
        num_buckets = checked_integer("num_buckets", num_buckets, 1)
        if num_buckets > MOST_BUCKETS:
            raise ConfigError(f"num_buckets={num_buckets} must be at most {MOST_BUCKETS}")
        super().__init__(n=n, num_buckets=num_buckets)
        self.counts_D = np.zeros(num_buckets, dtype=np.int64)

    def _count(self, batch: Batch) -> None:
        for n in range(1, self.settings["n"] + 1):
            buckets_G = modulo(batch.digests(n), self.settings["num_buckets"])
            np.add.at(self.counts_D, buckets_G, values_of(batch.counts(n)))

    def _merge(self, other: NGrams) -> None:
        self.counts_D += other.counts_D

    def distribution(self) -> FloatArray:
        """The share of each bucket; NaN if there are no n-grams. Shape [D]."""
        total = int(self.counts_D.sum())
        return self.counts_D / total if total else np.full(len(self.counts_D), np.nan)

    def top_share(self) -> float:
        """The share of the n-grams in the fullest 1 % of the buckets (at least one bucket)."""
        num_top = max(1, round(TOP_SHARE * len(self.counts_D)))
        return ratio(int(np.sort(self.counts_D)[-num_top:].sum()), int(self.counts_D.sum()))

    def shift(self, other: NGrams) -> dict[str, float]:
        """How far the distribution is from this one to another with the same settings. NaN if either is empty.

        - `js_divergence`: Jensen-Shannon divergence in bits, from 0 (equal) to 1 (nothing in common)
        - `total_variation`: half the sum of absolute differences, from 0 to 1
        - `over_concentration`: how much more the other holds in its own fullest 1 % of buckets than this one in its
          own: the difference between their `top_share`
        """
        if not isinstance(other, NGrams):
            raise ConfigError(f"shift takes other NGrams, not {type(other).__name__}: pass NGrams().update(data)")
        if self.settings != other.settings:
            raise ConfigError(f"can't compare {self!r} with {other!r}: measure both with the same settings")
        p_D, q_D = self.distribution(), other.distribution()
        return {
            "js_divergence": js_divergence(p_D, q_D),
            "total_variation": 0.5 * math.fsum(np.abs(p_D - q_D).tolist()),
            "over_concentration": other.top_share() - self.top_share(),
        }

    def _figures(self) -> dict[str, Any]:
        return {
            "num_ngrams": int(self.counts_D.sum()),
            "num_used_buckets": int(np.count_nonzero(self.counts_D)),
            "top_share": self.top_share(),
        }


def js_divergence(p_D: FloatArray, q_D: FloatArray) -> float:
    """The Jensen-Shannon divergence of two distributions in bits; the square of scipy's `jensenshannon(p, q, 2)`."""
    if np.isnan(p_D).any() or np.isnan(q_D).any():
        return math.nan
    middle_D = (p_D + q_D) / 2
    terms = [part_D[used] * np.log2(part_D[used] / middle_D[used]) for part_D in (p_D, q_D) for used in [part_D > 0]]
    return max(0.0, 0.5 * math.fsum(np.concatenate(terms).tolist()))
