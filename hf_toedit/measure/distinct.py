"""Distinct n-grams, counted in flat memory."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ..editing.checks import checked_integer
from ..editing.stats import ratio
from .batches import Batch
from .measurement import Measurement, Needs

MOST_KEPT = 2**18  # hashes of each n: 2 MB; the estimate is within 0.2 % (one standard deviation)
BUFFER = 2**16
HASH_BITS = 64


class DistinctValues:
    """How many distinct values there are: exact up to `most`, then estimated from the `most` smallest hashes.

    If the k smallest of all distinct hashes in [0, 1) reach up to u, there are about (k - 1) / u of them (Beyer et al.
    2007, an unbiased estimate; relative standard deviation 1 / sqrt(k - 2)). Which hashes are kept depends on nothing
    but the values, so the order of updates and merges does not matter.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._kept: NDArray[np.uint64] = np.empty(0, dtype=np.uint64)
        self._more: list[NDArray[np.uint64]] = []
        self._num_more = 0

    def add(self, hashes: NDArray[np.uint64]) -> None:
        """Add 64-bit hashes."""
        if len(self._kept) == self.most:
            hashes = hashes[hashes < self._kept[-1]]
        if len(hashes):
            self._more.append(hashes)
            self._num_more += len(hashes)
        if self._num_more > BUFFER:
            self._settle()

    def merge(self, other: DistinctValues) -> None:
        self._keep(self.kept, other.kept)

    @property
    def kept(self) -> NDArray[np.uint64]:
        """The smallest hashes, ascending."""
        self._settle()
        return self._kept

    @property
    def is_exact(self) -> bool:
        return len(self.kept) < self.most

    def count(self) -> float:
        """The number of distinct values."""
        kept = self.kept
        return len(kept) if self.is_exact else (self.most - 1) / ((int(kept[-1]) + 1) / 2**HASH_BITS)

    def _settle(self) -> None:
        if self._more:
            self._keep(self._kept, np.sort(np.concatenate(self._more)))
            self._more, self._num_more = [], 0

    def _keep(self, *of_two: NDArray[np.uint64]) -> None:
        """Keep the smallest of two ascending arrays. `numpy.unique` would take ten times as long."""
        merged = np.sort(np.concatenate(of_two), kind="stable")  # fast on two sorted runs
        self._kept = merged[np.diff(merged, prepend=merged[:1] + np.uint64(1)) != 0][: self.most]


class DistinctN(Measurement):
    """The share of n-grams of words that are distinct (distinct-n, Li et al. 2016), over all documents together.

    It falls as a dataset grows: compare datasets of about the same size. Words: see `words_of`.

    n: the longest n-grams.

    `result()` holds, for each n from 1 on:

    - `num_ngrams`: all n-grams; `num_distinct`: distinct ones, exact up to 262,144, then estimated: see
      `relative_error`
    - `distinct`: `num_distinct` / `num_ngrams`
    - `relative_error`: one standard deviation of `num_distinct`; 0.0 where it is exact
    """

    name: ClassVar[str] = "distinct_n"
    needs: ClassVar[Needs] = "text"

    def __init__(self, n: int = 3) -> None:
        n = checked_integer("n", n, 1)
        super().__init__(n=n)
        self.num_ngrams = [0] * n
        self.values = [DistinctValues(MOST_KEPT) for _ in range(n)]

    def _count(self, batch: Batch) -> None:
        for i, values in enumerate(self.values):
            hashes = batch.hashes(i + 1)
            self.num_ngrams[i] += len(hashes)
            values.add(hashes)

    def _merge(self, other: DistinctN) -> None:
        self.num_ngrams = [a + b for a, b in zip(self.num_ngrams, other.num_ngrams, strict=True)]
        for values, others in zip(self.values, other.values, strict=True):
            values.merge(others)

    def _figures(self) -> dict[str, Any]:
        distinct = [values.count() for values in self.values]
        numbers = [str(i + 1) for i in range(len(distinct))]
        errors = [0.0 if values.is_exact else (values.most - 2) ** -0.5 for values in self.values]
        return {
            "num_ngrams": dict(zip(numbers, self.num_ngrams, strict=True)),
            "num_distinct": dict(zip(numbers, distinct, strict=True)),
            "distinct": {n: ratio(d, total) for n, d, total in zip(numbers, distinct, self.num_ngrams, strict=True)},
            "relative_error": dict(zip(numbers, errors, strict=True)),
        }
