"""Intervals for figures of a sample of rows, by resampling the rows.

- Sums over rows and what follows from them (rates, perplexities), and quantiles: the bootstrap.
- What repeated rows would distort (distinct words, entropy, Zipf's slope, a share of the fullest buckets): a jackknife
  that leaves out one random group of rows at a time. A bootstrap sample repeats rows, and so has fewer distinct words.

Shape suffixes: N rows, R resamples, D dimensions, G groups.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ..errors import import_extra
from ..types import FloatArray, IntArray

FEWEST_ROWS = 20  # below, there is no interval: what resampling says of so few rows can't be trusted
FEWEST_BEYOND = 10  # the same for rows above a quantile
CHUNK = 2**21  # weights held at a time

Interval = tuple[float, float]


def resamples(num_rows: int, num_resamples: int, rng: np.random.Generator) -> Iterator[IntArray]:
    """How often each row is drawn in each bootstrap sample, a few samples at a time. Shape [R, N]; each sums to N."""
    at_a_time = max(1, CHUNK // max(1, num_rows))
    for start in range(0, num_resamples, at_a_time):
        num = min(at_a_time, num_resamples - start)
        drawn = rng.integers(num_rows, size=(num, num_rows)) + num_rows * np.arange(num)[:, None]
        yield np.bincount(drawn.ravel(), minlength=num * num_rows).reshape(num, num_rows)


def percentile_interval(values_R: FloatArray, level: float, num_rows: int) -> Interval:
    """The percentile interval of a bootstrap, widened for few rows (Hesterberg 2015, section 5.3).

    Its tails are those of Student's t with N - 1 degrees of freedom, and it allows for the bootstrap's variance, which
    is too small by (N - 1) / N. NaN for fewer than FEWEST_ROWS, or if all values are.
    """
    stats = import_extra("scipy.stats", "measure")
    values_R = values_R[~np.isnan(values_R)]
    if num_rows < FEWEST_ROWS or not len(values_R):
        return math.nan, math.nan
    quantile = stats.t.ppf((1 - level) / 2, num_rows - 1) * math.sqrt(num_rows / (num_rows - 1))
    tail = float(stats.norm.cdf(quantile))
    low, high = np.quantile(values_R, [tail, 1 - tail])
    return float(low), float(high)


def scaled(interval: Interval, sample: float, whole: float, share: float) -> Interval:
    """The interval of a sample's figure, rescaled to all rows: around their figure, and narrower by the square root of
    the share of the rows that were sampled."""
    low, high = ((end - sample) * math.sqrt(share) + whole for end in interval)
    return low, high


def exact_interval(num_hits: int, num_rows: int, level: float) -> Interval:
    """The interval of Clopper and Pearson for a share of the rows. It covers at any size of the share."""
    stats = import_extra("scipy.stats", "measure")
    found = stats.binomtest(num_hits, num_rows).proportion_ci(level)
    return float(found.low), float(found.high)


def weighted_quantile(sorted_N: FloatArray, cumulated_RN: IntArray, level: float) -> FloatArray:
    """`numpy.quantile` of each resample: values in ascending order, and how many of each sample are at most these."""
    total_R = cumulated_RN[:, -1]
    place_R = (total_R - 1) * level
    below_R, above_R = (
        sorted_N[(cumulated_RN > rank_R[:, None]).argmax(axis=1)] for rank_R in (np.floor(place_R), np.ceil(place_R))
    )
    quantile_R: FloatArray = np.where(
        total_R > 0, below_R + (above_R - below_R) * (place_R - np.floor(place_R)), np.nan
    )
    return quantile_R


def jackknife_error(values_G: FloatArray) -> float:
    """The standard error of a figure, from its values with one group left out; NaN for fewer than two groups."""
    num_groups = len(values_G)
    if num_groups < 2:
        return math.nan
    return math.sqrt((num_groups - 1) / num_groups * float(((values_G - values_G.mean()) ** 2).sum()))


def t_interval(value: float, error: float, level: float, num_groups: int) -> Interval:
    """The interval of a jackknife, with G - 1 degrees of freedom; NaN for fewer than FEWEST_ROWS groups."""
    stats = import_extra("scipy.stats", "measure")
    if num_groups < FEWEST_ROWS:
        return math.nan, math.nan
    half = float(stats.t.ppf((1 + level) / 2, num_groups - 1)) * error
    return value - half, value + half


def swaps(num_groups: int, num_permutations: int, rng: np.random.Generator, *, paired: bool) -> NDArray[np.int64]:
    """Which of the 2 G groups of two datasets are taken for the first one's, in each permutation. Shape [R, 2 G].

    paired: a group of one dataset changes places with its pair in the other alone.
    """
    if paired:
        first_RG = rng.integers(2, size=(num_permutations, num_groups))
        return np.concatenate([first_RG, 1 - first_RG], axis=1)
    is_first = np.repeat([1, 0], num_groups)
    return rng.permuted(np.tile(is_first, (num_permutations, 1)), axis=1)


def js_divergences(p_RD: FloatArray, q_RD: FloatArray) -> FloatArray:
    """The Jensen-Shannon divergence, in bits, of pairs of distributions given as counts. Shape [R]."""
    entr = import_extra("scipy.special", "measure").entr
    p_RD, q_RD = (counts_RD / counts_RD.sum(axis=1, keepdims=True) for counts_RD in (p_RD, q_RD))
    mean_entropy_RD = (entr(p_RD) + entr(q_RD)) / 2
    nats_R: FloatArray = (entr((p_RD + q_RD) / 2) - mean_entropy_RD).sum(axis=1)
    return np.maximum(nats_R, 0) / math.log(2)


def shift_test(
    a_GD: FloatArray, b_GD: FloatArray, rng: np.random.Generator, *, paired: bool, num_permutations: int = 999
) -> dict[str, float]:
    """Whether two datasets differ in a distribution by more than chance: a permutation test over groups of rows.

    a_GD, b_GD: the counts of equally many groups of equally many rows.

    Returns the Jensen-Shannon divergence of the two in bits, what chance alone gives on average, and the p-value.
    """
    both_2GD = np.concatenate([a_GD, b_GD])
    total_D = both_2GD.sum(axis=0)
    observed = float(js_divergences(a_GD.sum(axis=0)[None], b_GD.sum(axis=0)[None])[0])
    used = total_D > 0
    both_2GD, total_D = both_2GD[:, used].astype(float), total_D[used]
    by_chance = []
    for taken_R2G in np.array_split(
        swaps(len(a_GD), num_permutations, rng, paired=paired), 1 + num_permutations // 100
    ):
        first_RD = taken_R2G @ both_2GD
        by_chance.append(js_divergences(first_RD, total_D - first_RD))
    chance_R = np.concatenate(by_chance)
    as_far = int((chance_R >= observed * (1 - 1e-9)).sum())
    return {
        "js_divergence": observed,
        "expected_by_chance": float(chance_R.mean()),
        "p_value": (1 + as_far) / (1 + num_permutations),
    }
