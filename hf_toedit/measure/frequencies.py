"""How often words occur: their entropy, and the slope of Zipf's law.

Shape suffixes: D buckets, W distinct words.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Any, ClassVar

import numpy as np

from ..editing.checks import checked_integer
from ..types import IntArray
from .batches import Batch, digests_of, modulo, values_of
from .measurement import Measurement, Needs

MOST_WORDS = 2**18  # counted by name: about 40 MB
NUM_BUCKETS = 2**22  # when there are more: 32 MB


class WordFrequencies(Measurement):
    """How often the words of a dataset occur. Words: see `words_of`.

    Up to 262,144 distinct words are counted individually. If there are more, all words are counted in 4,194,304
    buckets by hash: memory stays flat, and words that share a bucket count as one (`is_exact` is false).

    top: how many of the most frequent words the slope is fitted to.

    `result()` holds:

    - `num_words`; `num_distinct_words`; `is_exact`
    - `entropy`: of the words' distribution, in nats
    - `zipf_slope`: least-squares slope of log count on log rank, over the `top` most frequent words; about -1 in
      natural language, nearer to 0 the more even the counts are. NaN for fewer than two distinct words.
    """

    name: ClassVar[str] = "word_frequencies"
    needs: ClassVar[Needs] = "text"

    def __init__(self, top: int = 1000) -> None:
        top = checked_integer("top", top, 2)
        super().__init__(top=top)
        self.words: Counter[str] = Counter()
        self.buckets_D: IntArray | None = None

    def _count(self, batch: Batch) -> None:
        self._add(batch.counts(1))

    def _merge(self, other: WordFrequencies) -> None:
        if other.buckets_D is not None:
            self._to_buckets()
            assert self.buckets_D is not None
            self.buckets_D += other.buckets_D
        self._add(Counter(other.words))

    def _add(self, counts: Counter[str]) -> None:
        if self.buckets_D is None:
            self.words.update(counts)
            if len(self.words) > MOST_WORDS:
                self._to_buckets()
        elif counts:
            np.add.at(self.buckets_D, modulo(digests_of(counts), NUM_BUCKETS), values_of(counts))

    def _to_buckets(self) -> None:
        if self.buckets_D is None:
            self.buckets_D = np.zeros(NUM_BUCKETS, dtype=np.int64)
            words, self.words = self.words, Counter()
            self._add(words)

    def counts(self) -> IntArray:
        """How often each distinct word occurs, most frequent first. Shape [W]."""
        counts = np.fromiter(self.words.values(), np.int64) if self.buckets_D is None else self.buckets_D
        return np.sort(counts[counts > 0])[::-1]

    def _figures(self) -> dict[str, Any]:
        counts_W = self.counts()
        return {
            "num_words": int(counts_W.sum()),
            "num_distinct_words": len(counts_W),
            "is_exact": self.buckets_D is None,
            "entropy": entropy(counts_W),
            "zipf_slope": log_log_slope(counts_W[: self.settings["top"]]),
        }


def entropy(counts_W: IntArray) -> float:
    """The entropy of a distribution of counts above 0, in nats: log N - sum(c log c) / N."""
    total = int(counts_W.sum())
    if not total:
        return math.nan
    values, times = np.unique(counts_W, return_counts=True)
    return max(0.0, math.log(total) - math.fsum((times * values * np.log(values)).tolist()) / total)


def log_log_slope(counts_W: IntArray) -> float:
    """The least-squares slope of log count on log rank, counts in descending order; NaN for fewer than two."""
    if len(counts_W) < 2:
        return math.nan
    x_W, y_W = np.log(np.arange(1, len(counts_W) + 1)), np.log(counts_W)
    x_W -= x_W.mean()
    return float(x_W @ (y_W - y_W.mean()) / (x_W @ x_W)) + 0.0
