"""Everything that is counted of one dataset, for its figures and their intervals.

Shape suffixes: N rows, C columns, G groups, D buckets.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ..types import FloatArray
from .batches import Batch
from .compression import CompressionRatio
from .distinct import DistinctN
from .documents import Document
from .edits import EditProfile
from .frequencies import WordFrequencies
from .measurement import Measurement
from .ngrams import NGrams
from .perplexity import Perplexity
from .probability import LOW_BINS, TokenProbability

NUM_GROUPS = 32
CHARACTERS = 2**22  # of a batch, which is divided among the groups
MOST_RESAMPLED = 10_000  # rows
# The columns of `sums_NC`.
SUMS = ("bytes", "compressed", "tokens", "eligible", "low", "logprob", "edited_tokens", "changed")


class DocumentFrequencies(WordFrequencies):
    """In how many documents each word occurs."""

    def _count(self, batch: Batch) -> None:
        self._add(Counter(word for words in batch.words for word in set(words)))


@dataclasses.dataclass
class Group:
    """The words and n-grams of some rows."""

    ngrams: NGrams = dataclasses.field(default_factory=NGrams)
    distinct: DistinctN = dataclasses.field(default_factory=DistinctN)
    words: WordFrequencies = dataclasses.field(default_factory=WordFrequencies)
    documents: DocumentFrequencies = dataclasses.field(default_factory=DocumentFrequencies)

    def parts(self) -> tuple[Measurement, ...]:
        return self.ngrams, self.distinct, self.words, self.documents


def merged(*groups: Group) -> Group:
    """One group of the rows of all."""
    whole = Group()
    for group in groups:
        for own, other in zip(whole.parts(), group.parts(), strict=True):
            own.merge(other)
    return whole


def each_left_out(groups: Sequence[Group], rest: Group | None = None) -> Iterator[Group]:
    """For each group, in order, a group of all other rows. rest: more groups, merged, that are never left out."""
    rest = Group() if rest is None else rest
    if len(groups) == 1:
        yield rest
        return
    half = len(groups) // 2
    yield from each_left_out(groups[:half], merged(rest, *groups[half:]))
    yield from each_left_out(groups[half:], merged(rest, *groups[:half]))


class Tally:
    """The measurements of a dataset, row by row.

    groups: the words and n-grams of random groups of rows: the jackknife leaves out one at a time.
    whole: the other measurements, of all rows. sums_NC: their SUMS for each row in `sampled`, an even sample, for the
        bootstrap.
    total_C: the same sums, of all rows.
    nats_N: the log-perplexity of each row; NaN for a row without one.
    compared_GD: the n-grams, by group, of `num_compared` rows at random.

    num_rows: how many rows there will be. num_compared: how many the smaller one of two datasets has. with_prior,
    with_edits: whether the rows have scores, and a `toedit` struct.
    """

    def __init__(
        self,
        num_rows: int,
        num_compared: int,
        *,
        with_prior: bool,
        with_edits: bool,
        threshold: float = 0.99,
        seed: int = 0,
    ) -> None:
        self.with_prior, self.with_edits = with_prior, with_edits
        self.rank_N = np.random.default_rng(seed).permutation(num_rows)
        self.num_compared = num_compared
        self.groups = [Group() for _ in range(min(NUM_GROUPS, num_rows))]
        self.whole: list[Measurement] = [CompressionRatio()]
        self.whole += [TokenProbability(threshold), Perplexity()] if with_prior else []
        self.whole += [EditProfile()] if with_edits else []
        even = np.linspace(0, num_rows - 1, min(num_rows, MOST_RESAMPLED)).round().astype(int)
        self.sampled = {int(row): place for place, row in enumerate(even)}
        self.sums_NC = np.zeros((len(even), len(SUMS)))
        self.total_C = np.zeros(len(SUMS))
        self.nats_N = np.full(num_rows, math.nan)
        self.compared_GD = np.zeros((len(self.groups), len(self.groups[0].ngrams.counts_D)))
        self.num_rows = 0

    def add(self, batch: Batch) -> None:
        """Count the next rows."""
        parts: dict[tuple[int, bool], list[Document]] = defaultdict(list)
        for rank, document in zip(self.rank_N[self.num_rows :].tolist(), batch.documents, strict=False):
            parts[rank % len(self.groups), rank < self.num_compared].append(document)
        for (number, is_compared), documents in parts.items():
            self._add_to_group(number, Batch(documents), is_compared=is_compared)
        for document in batch.documents:
            self._add_row(document)

    def _add_to_group(self, number: int, batch: Batch, *, is_compared: bool) -> None:
        ngrams, *others = self.groups[number].parts()
        own = NGrams()
        own.add_batch(batch)
        ngrams.merge(own)
        if is_compared:
            self.compared_GD[number] += own.counts_D
        for measurement in others:
            measurement.add_batch(batch)

    def _add_row(self, document: Document) -> None:
        row = self.num_rows
        of_row = [type(measurement)(**measurement.settings) for measurement in self.whole]
        for measurement, single in zip(self.whole, of_row, strict=True):
            single.add(document)
            measurement.merge(single)
        sums = _sums(of_row)
        self.nats_N[row] = sums.pop("nats", math.nan)
        sums_C = np.array([sums.get(name, 0.0) for name in SUMS])
        self.total_C += sums_C
        if row in self.sampled:
            self.sums_NC[self.sampled[row]] = sums_C
        self.num_rows += 1

    @property
    def sampled_nats(self) -> FloatArray:
        """The log-perplexity of each sampled row."""
        return self.nats_N[list(self.sampled)]

    def results(self, whole: Group) -> dict[str, dict[str, Any]]:
        """What `hf_toedit.measure.measure` returns for the same rows. whole: all groups, merged."""
        measurements = (whole.ngrams, whole.distinct, whole.words, *self.whole)
        return {measurement.name: measurement.result() for measurement in measurements}


def _sums(of_row: Sequence[Measurement]) -> dict[str, float]:
    """The sums of one row, by name, and its log-perplexity, `nats`, if it has one."""
    sums: dict[str, float] = {}
    for measurement in of_row:
        if isinstance(measurement, CompressionRatio):
            sums |= {"bytes": measurement.num_bytes, "compressed": measurement.num_compressed_bytes}
        elif isinstance(measurement, TokenProbability):
            sums |= {"tokens": sum(measurement.histogram), "eligible": measurement.num_eligible}
            sums |= {"low": sum(measurement.histogram[:LOW_BINS]), "logprob": float(measurement.logprob_sum)}
        elif isinstance(measurement, Perplexity) and measurement.bins:
            sums["nats"] = float(measurement.log_sum)
        elif isinstance(measurement, EditProfile):
            counts: Mapping[str, int] = measurement.sums
            sums |= {"edited_tokens": counts["num_tokens"], "changed": counts["num_changed"]}
    return sums
