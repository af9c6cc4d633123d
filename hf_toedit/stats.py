"""Statistics that add up: of a cell, a row, a shard, a dataset."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from .types import FloatArray

NUM_BINS = 10


@dataclasses.dataclass(frozen=True)
class TokenStats:
    """Counts over tokens. "Visited" tokens were asked of the prior; of sampled statistics they are a uniform sample.

    num_tokens: tokens of the texts, special ones included.
    num_visited: positions whose probability was computed.
    num_visited_eligible: of these, editable ones with p >= threshold.
    num_changed: tokens that were replaced or deleted.
    num_near_ties: visited positions so close to a decision that another batch shape or dtype may decide otherwise.
    logprob_sum: sum of log P(x_t | x_<t) over the visited positions, in nats.
    histogram: visited positions by probability, in ten bins of width 0.1; the last includes 1.
    """

    num_tokens: int = 0
    num_visited: int = 0
    num_visited_eligible: int = 0
    num_changed: int = 0
    num_near_ties: int = 0
    logprob_sum: float = 0.0
    histogram: tuple[int, ...] = (0,) * NUM_BINS

    def __add__(self, other: TokenStats) -> TokenStats:
        names = [field.name for field in dataclasses.fields(self) if field.name != "histogram"]
        sums = {name: getattr(self, name) + getattr(other, name) for name in names}
        bins = tuple(a + b for a, b in zip(self.histogram, other.histogram, strict=True))
        return TokenStats(**sums, histogram=bins)


def probability_histogram(logprob_E: FloatArray) -> tuple[int, ...]:
    """How many probabilities fall into [0, .1), [.1, .2), ... [.9, 1]."""
    bins = np.minimum((np.exp(logprob_E) * NUM_BINS).astype(np.int64), NUM_BINS - 1)
    return tuple(np.bincount(bins, minlength=NUM_BINS).tolist())


@dataclasses.dataclass(frozen=True)
class DatasetStats:
    """What an editing run did to a dataset: `summarize` builds it from the rows' `toedit` structs.

    statuses: number of rows by status (`edited`, `unchanged`, `skipped:<reason>`).
    num_drifted: edited rows whose text encodes to other ids than the prior chose.
    """

    num_rows: int
    statuses: dict[str, int]
    num_drifted: int
    tokens: TokenStats

    @property
    def eligible_rate(self) -> float:
        """Share of visited positions that were eligible, in [0, 1]; NaN where none was visited."""
        return _ratio(self.tokens.num_visited_eligible, self.tokens.num_visited)

    @property
    def changed_rate(self) -> float:
        """Share of all tokens that were changed, in [0, 1]."""
        return _ratio(self.tokens.num_changed, self.tokens.num_tokens)

    @property
    def drift_rate(self) -> float:
        """Share of edited rows whose text encodes to other ids than the prior chose."""
        return _ratio(self.num_drifted, self.statuses.get("edited", 0))

    @property
    def perplexity(self) -> float:
        """exp of the mean negative log-probability of the visited tokens; infinite beyond 709 nats."""
        try:
            return math.exp(-_ratio(self.tokens.logprob_sum, self.tokens.num_visited))
        except OverflowError:
            return math.inf

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: the counts and the rates (null where nothing was visited, or where one is infinite)."""
        rates = {name: getattr(self, name) for name in ("eligible_rate", "changed_rate", "drift_rate", "perplexity")}
        return {
            "num_rows": self.num_rows,
            "statuses": dict(sorted(self.statuses.items())),
            "num_drifted": self.num_drifted,
            **dataclasses.asdict(self.tokens),
            "histogram": list(self.tokens.histogram),
            **{name: rate if math.isfinite(rate) else None for name, rate in rates.items()},
        }


def summarize(structs: Iterable[Mapping[str, Any] | None]) -> DatasetStats:
    """Add up the `toedit` structs of rows: `summarize(ds["toedit"])`. Null, of a row not edited, is left out."""
    statuses: Counter[str] = Counter()
    tokens, num_drifted = TokenStats(), 0
    for struct in structs:
        if struct is None:
            continue
        statuses[struct["status"]] += 1
        num_drifted += bool(struct["drifted"])
        fields = {field.name: struct[field.name] for field in dataclasses.fields(TokenStats)}
        tokens += TokenStats(**{**fields, "histogram": tuple(fields["histogram"])})
    return DatasetStats(sum(statuses.values()), dict(statuses), num_drifted, tokens)


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan
