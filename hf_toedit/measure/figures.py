"""The figures of one dataset or two, with intervals.

Shape suffixes: N rows, R resamples, C columns, G groups, W distinct words.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np

from ..types import FloatArray, IntArray
from .intervals import (
    FEWEST_BEYOND,
    Interval,
    jackknife_error,
    percentile_interval,
    resamples,
    scaled,
    t_interval,
    weighted_quantile,
)
from .quantiles import MOST_NATS
from .tally import SUMS, Group, Tally, each_left_out

NUM_RESAMPLES = 4000
TAIL = 0.95  # the quantile of A's perplexities above which the tail begins
EDGE = "perplexity_95"
TAIL_MASS = "tail_mass"
OF_DOCUMENTS = ("geometric_mean_perplexity", "median_perplexity", EDGE, TAIL_MASS)
Values = dict[str, float]


@dataclasses.dataclass(frozen=True)
class Figure:
    """A figure, and its interval at any level. level: the probability that the interval covers the true value."""

    value: float
    interval: Callable[[float], Interval]


Figures = dict[str, Figure]


# words and n-grams: the jackknife


def word_values(group: Group) -> Values:
    """The figures of words and n-grams."""
    distinct, words = group.distinct.result()["distinct"], group.words.result()
    num_measured = words["num_measured"]
    return {
        "words_per_document": words["num_words"] / num_measured if num_measured else math.nan,
        **{f"distinct_{n}": share for n, share in distinct.items()},
        "entropy": words["entropy"],
        "zipf_slope": words["zipf_slope"],
        "top_share": group.ngrams.top_share(),
    }


def vocabulary(group: Group, num_words: int) -> float:
    """The expected share of distinct words in a random subset of the documents that has `num_words` words.

    A word is missing from a share s of the documents with the probability (1 - s)^d, if d of all have it. Drawing words
    instead of documents would give too many, since documents repeat their words.
    """
    if not num_words:
        return math.nan
    share = min(1.0, num_words / int(group.words.counts().sum()))
    with np.errstate(divide="ignore"):  # of all documents: log 0
        missing_W = group.documents.counts() * np.log1p(-share)
    return float(-np.expm1(missing_W).sum()) / num_words


def pair_values(a: Group, b: Group) -> tuple[Values, Values]:
    """The figures of both, and the share of distinct words among equally many: it falls as a dataset grows."""
    num_words = min(int(group.words.counts().sum()) for group in (a, b))
    of_a, of_b = (word_values(group) | {"vocabulary": vocabulary(group, num_words)} for group in (a, b))
    return of_a, of_b


def _by_jackknife(whole: Values, left_out: Sequence[Values]) -> Figures:
    return {
        name: _figure_of_jackknife(value, [np.array([values[name] for values in left_out])])
        for name, value in whole.items()
    }


def _figure_of_jackknife(value: float, parts: Sequence[FloatArray]) -> Figure:
    """A figure from its values with groups left out. parts: one for each dataset whose groups are left out in turn."""
    error = math.sqrt(sum(jackknife_error(values_G) ** 2 for values_G in parts))
    num_groups = min(map(len, parts))
    return Figure(value, lambda level: t_interval(value, error, level, num_groups))


def _minus(b: Values, a: Values) -> Values:
    return {name: b[name] - a[name] for name in a}


def word_figures(tally: Tally, whole: Group) -> Figures:
    """The figures of words and n-grams of one dataset."""
    return _by_jackknife(word_values(whole), [word_values(group) for group in each_left_out(tally.groups)])


def pair_figures(a: Tally, b: Tally, wholes: tuple[Group, Group], *, paired: bool) -> tuple[Figures, Figures, Figures]:
    """The figures of words and n-grams of A and B, and their differences, B - A."""
    whole_a, whole_b = wholes
    values_a, values_b = pair_values(whole_a, whole_b)
    if paired:
        both = zip(each_left_out(a.groups), each_left_out(b.groups), strict=True)
        turns = [[pair_values(*groups) for groups in both]]
    else:
        turns = [
            [pair_values(group, whole_b) for group in each_left_out(a.groups)],
            [pair_values(whole_a, group) for group in each_left_out(b.groups)],
        ]
    differences = {
        name: _figure_of_jackknife(value, [np.array([b[name] - a[name] for a, b in turn]) for turn in turns])
        for name, value in _minus(values_b, values_a).items()
    }
    return (
        _by_jackknife(values_a, [a for a, _ in turns[0]]),
        _by_jackknife(values_b, [b for _, b in turns[-1]]),
        differences,
    )


# sums over rows, and perplexities: the bootstrap


@dataclasses.dataclass(frozen=True)
class Bootstrap:
    """The figures of all rows (whole), of the sampled ones, and of each resample of these.

    num_rows: how many are sampled. share: of all rows.
    """

    whole: Values
    sample: Values
    values: Mapping[str, FloatArray]
    num_rows: int
    share: float

    def figures(self) -> Figures:
        return {name: Figure(value, partial(self._interval, name)) for name, value in self.whole.items()}

    def _interval(self, name: str, level: float) -> Interval:
        if name in (EDGE, TAIL_MASS) and self.num_rows * (1 - TAIL) < FEWEST_BEYOND:
            return math.nan, math.nan
        found = percentile_interval(self.values[name], level, self.num_rows)
        return scaled(found, self.sample[name], self.whole[name], self.share)

    def minus(self, other: Bootstrap) -> Bootstrap:
        """The differences to another one. They are paired if both have as many rows and the same seed."""
        names = [name for name in self.whole if name in other.whole]
        return Bootstrap(
            {name: self.whole[name] - other.whole[name] for name in names},
            {name: self.sample[name] - other.sample[name] for name in names},
            {name: self.values[name] - other.values[name] for name in names},
            min(self.num_rows, other.num_rows),
            max(self.share, other.share),
        )


def bootstrap(tally: Tally, seed: Sequence[int], edges: Bootstrap | None = None) -> Bootstrap:
    """Resample the rows of a dataset.

    edges: the bootstrap of the dataset whose 95th percentile bounds the tail, in each resample its own; by default
        this one.
    """
    num_rows = len(tally.sums_NC)
    if edges is not None and EDGE not in edges.whole:  # no prior
        edges = None
    all_edges_R = None if edges is None else np.array([edges.sample[EDGE], *edges.values[EDGE]])
    everything_1N = np.ones((1, num_rows), dtype=np.int64)
    rest = resamples(num_rows, NUM_RESAMPLES, np.random.default_rng(seed))
    parts: list[dict[str, FloatArray]] = []
    for weights_RN in itertools.chain([everything_1N], rest):
        done = sum(len(part["compression_ratio"]) for part in parts)
        edge_R = None if all_edges_R is None else all_edges_R[done : done + len(weights_RN)]
        parts.append(_figures_of(tally, weights_RN @ tally.sums_NC, tally.sampled_nats, weights_RN, edge_R))
    values = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    all_1N = np.ones((1, len(tally.nats_N)), dtype=np.int64)
    edge_1 = None if edges is None else np.array([edges.whole[EDGE]])
    whole = _figures_of(tally, tally.total_C[None], tally.nats_N, all_1N, edge_1)
    return Bootstrap(
        {name: float(value) for name, [value] in whole.items()},
        {name: float(value_R[0]) for name, value_R in values.items()},
        {name: value_R[1:] for name, value_R in values.items()},
        num_rows,
        num_rows / len(tally.nats_N),
    )


def _figures_of(
    tally: Tally, sums_RC: FloatArray, nats_N: FloatArray, weights_RN: IntArray, edge_R: FloatArray | None
) -> dict[str, FloatArray]:
    """The figures of resamples, from their sums, and from the rows' log-perplexities and how often each row occurs."""
    of = dict(zip(SUMS, sums_RC.T, strict=True))
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        found = {"compression_ratio": of["bytes"] / of["compressed"]}
        if tally.with_prior:
            found |= {
                "eligible_rate": of["eligible"] / of["tokens"],
                "share_below_0.6": of["low"] / of["tokens"],
                "token_perplexity": np.exp(-of["logprob"] / of["tokens"]),
                **_of_documents(nats_N, weights_RN, edge_R),
            }
        if tally.with_edits:
            found["changed_rate"] = of["changed"] / of["edited_tokens"]
    return found


def _of_documents(nats_N: FloatArray, weights_RN: IntArray, edge_R: FloatArray | None) -> dict[str, FloatArray]:
    """The figures of the documents' perplexities."""
    order_N = np.argsort(nats_N)[: int((~np.isnan(nats_N)).sum())]  # NaN is last
    if not len(order_N):
        return dict.fromkeys(OF_DOCUMENTS, np.full(len(weights_RN), np.nan))
    weights_RN, nats_N = weights_RN[:, order_N], nats_N[order_N]
    cumulated_RN = weights_RN.cumsum(axis=1)
    total_R = cumulated_RN[:, -1]
    perplexity_N = np.exp(np.minimum(nats_N, MOST_NATS))
    quantiles = [weighted_quantile(perplexity_N, cumulated_RN, level) for level in (0.5, TAIL)]
    at_most_R = np.searchsorted(perplexity_N, quantiles[1] if edge_R is None else edge_R, side="right")
    padded_RN = np.concatenate([np.zeros((len(weights_RN), 1), dtype=np.int64), cumulated_RN], axis=1)
    below_R = np.take_along_axis(padded_RN, at_most_R[:, None], axis=1)[:, 0]
    mean_R = np.exp(np.minimum(weights_RN @ nats_N / total_R, MOST_NATS))
    return dict(zip(OF_DOCUMENTS, (mean_R, *quantiles, 1 - below_R / total_R), strict=True))
