"""Closed forms for Gaussians, fitted by mean and covariance in each generation.

The truth is standard normal. Functions without a number of dimensions are about one coordinate: these don't mix.
Generation 1 is fitted to num_real real rows; each model then writes n rows. "Ours" means that no paper has it.

B batches of rows: the real ones, and then those of each generation. G generations, N rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..types import FloatArray, IntArray
from .extra import extra
from .workflows import (
    Accumulate,
    AccumulateSubsample,
    GrowingReplace,
    Mixture,
    RecentModels,
    Replace,
    ToEdit,
    Workflow,
    as_mixture,
)

Numbers = FloatArray | float


def replace_variance(n: Numbers, generation: Numbers, unbiased: bool = False) -> FloatArray:
    """Expected variance under replace, (1 - 1/n)^generation, where the real rows are n too; 1 if it is unbiased.

    Shapes: those of n and generation, broadcast. Kazdan et al., arXiv 2410.16713, whose code takes the biased estimate.
    """
    n, generation = np.asarray(n, dtype=float), np.asarray(generation)
    return (1 - 0 * n / n if unbiased else 1 - 1 / n) ** generation


def accumulate_variance(n: Numbers, generation: Numbers) -> FloatArray:
    """Expected variance under accumulate, the product of 1 - 1/(n i^2) over i = 1, ..., generation.

    For the biased estimate and as many real rows as synthetic ones. It equals
    gamma(g + 1 - a) gamma(g + 1 + a) / gamma(g + 1)^2 sin(pi a)/(pi a) with a = 1/sqrt(n). Shapes: those of n and
    generation, broadcast. Kazdan et al., arXiv 2410.16713, Theorem 1.
    """
    gammaln = extra("scipy.special").gammaln
    n, generation = np.asarray(n, dtype=float), np.asarray(generation, dtype=float)
    a, g = 1 / np.sqrt(n), generation + 1
    product: FloatArray = np.exp(gammaln(g - a) + gammaln(g + a) - 2 * gammaln(g)) * np.sinc(a)
    return product


def accumulate_variance_limit(n: Numbers) -> FloatArray:
    """What `accumulate_variance` tends to: sin(pi/sqrt(n)) / (pi/sqrt(n)), about 1 - pi^2/(6 n)."""
    limit: FloatArray = np.sinc(1 / np.sqrt(np.asarray(n, dtype=float)))
    return limit


def subsample_variance(n: Numbers, generation: Numbers) -> FloatArray:
    """Expected variance under accumulate-subsample, with the biased estimate and as many real rows as synthetic ones:

    (1 - 1/n) times the product of 1 - (3n - 1)/(n i (n i - 1)) over i = 2, ..., generation.

    Ours: the papers have no closed form for this workflow. Two distinct rows out of all N = g n so far have the
    covariance 1 - D. With the next n, (N + n)(N + n - 1) D' = (N(N - 1) + 2n(N - 1) + (n - 1)^2) D: pairs of old rows,
    of an old and a new one, and of new ones. A sample of n rows has the variance (1 - 1/n) D. The product is a ratio of
    gamma functions at the roots of x^2 - x/n - (3n - 1)/n^2. Shapes: those of n and generation, broadcast.
    """
    gammaln = extra("scipy.special").gammaln
    n, generation = np.asarray(n, dtype=float), np.asarray(generation, dtype=float)
    several = np.where(n > 1, n, 2.0)  # a single row has no variance, and n = 1 is a pole
    above, below = _subsample_roots(several)
    g = generation + 1
    ratio = gammaln(g - above) + gammaln(g - below) - gammaln(g) - gammaln(g - 1 / several)
    product: FloatArray = np.where(n > 1, np.exp(ratio) * subsample_variance_limit(several), 0.0)
    return product


def subsample_variance_limit(n: Numbers) -> FloatArray:
    """What `subsample_variance` tends to, about 1 - (pi^2/2 - 2)/n: positive, so that the variance survives. Ours."""
    gammaln = extra("scipy.special").gammaln
    n = np.asarray(n, dtype=float)
    above, below = _subsample_roots(n)
    limit: FloatArray = (1 - 1 / n) * np.exp(gammaln(2 - 1 / n) - gammaln(2 - above) - gammaln(2 - below))
    return limit


def _subsample_roots(n: FloatArray) -> tuple[FloatArray, FloatArray]:
    half = np.sqrt(1 / (4 * n**2) + (3 * n - 1) / n**2)
    return 1 / (2 * n) + half, 1 / (2 * n) - half


def toedit_variance(num_rows: int, shares: Sequence[float]) -> FloatArray:
    """Expected variance of generation 1 and of those after each edit, under ToEdit with overlapping edits: [G].

    (1 - 1/N) times the product of 1 - (1 - u)/N over the edits. An edit of k rows leaves both rows of a pair alone with
    probability u = (N - k)(N - k - 1)/(N(N - 1)). For the biased estimate. It stays above zero if the shares
    have a finite sum. Ours: the paper (arXiv 2412.14689) treats regression only.
    """
    left = num_rows - np.round(np.asarray(shares) * num_rows)
    untouched = left * (left - 1) / (num_rows * max(num_rows - 1, 1))
    kept: FloatArray = np.cumprod(np.concatenate([[1.0], 1 - (1 - untouched) / num_rows]))
    return (1 - 1 / num_rows) * kept


def replace_determinant(n: int, num_real: int, dimensions: int, generations: int, unbiased: bool = False) -> FloatArray:
    """Expected determinant of the covariance under replace, of generations 1, 2, ...: [G].

    A generation of m rows in d dimensions multiplies it by (m - 1)(m - 2)...(m - d) / m^d, as the determinant of a
    Wishart matrix; by (m - 1)^d below if unbiased. Zero if m <= d. Ours.
    """
    steps = np.arange(1, dimensions + 1)
    first, later = (np.prod(np.maximum(rows - steps, 0) / max(rows - unbiased, 1)) for rows in (num_real, n))
    determinant: FloatArray = first * later ** np.arange(generations)
    return determinant


def accumulate_determinant(
    n: int, num_real: int, dimensions: int, generations: int, unbiased: bool = False
) -> FloatArray:
    """Expected determinant of the covariance under accumulate, of generations 1, 2, ...: [G].

    Let N rows have the covariance L L', with N - c as divisor: c = 1 if unbiased, else 0. With n new rows it becomes
    L ((N - c) I + W + q z z') L' / (N + n - c), where W is a Wishart matrix of n - 1 degrees of freedom, z is standard
    normal and q = N/(N + n). The determinant of the part in brackets has the expectation of the sum over k of
    (d choose k) (N - c)^(d - k) (m_k + q k m_(k-1)), where m_k = (n - 1)(n - 2)...(n - k). Ours.
    """
    factors = [replace_determinant(n, num_real, dimensions, 1, unbiased)[0]]
    for number in range(generations - 1):
        old = num_real + number * n
        q, new = old / (old + n), old + n - unbiased
        term = ((old - unbiased) / new) ** dimensions  # of k = 0, and then each from the one before
        total = term
        for k in range(1, dimensions + 1):
            per_row = term * (dimensions - k + 1) / k / max(old - unbiased, 1)
            term = per_row * max(n - k, 0)
            total += term + per_row * q * k
        factors.append(total)
    return np.cumprod(factors)


@dataclass(frozen=True)
class Moments:
    """The expected fitted variance and squared fitted mean of a coordinate, in generations 1, 2, ..."""

    variance_G: FloatArray
    square_G: FloatArray


def moments(workflow: Workflow, n: int, num_real: int, generations: int, unbiased: bool = False) -> Moments | None:
    """The exact moments under one of our workflows; None for others."""
    workflow, n = as_mixture(workflow, n, num_real)
    if isinstance(workflow, ToEdit):
        if workflow.share is None:
            return None
        counts = [round((workflow.share_of(i) or 0) * num_real) for i in range(1, generations)]
        if workflow.overlapping:
            return overlapping_moments(num_real, counts, unbiased)
        starts = [workflow.start_of(i, num_real) or 0 for i in range(1, generations)]
        return disjoint_moments(num_real, list(zip(starts, counts, strict=True)), unbiased)
    chosen = chosen_rows(workflow, n, num_real, generations)
    return None if chosen is None else pooled_moments(*chosen, unbiased)


def chosen_rows(
    workflow: Workflow, n: int, num_real: int, generations: int
) -> tuple[list[IntArray], list[int], IntArray] | None:
    """The pools, used rows and sizes that `pooled_moments` takes; None for workflows that are not ours."""
    sizes = np.array([num_real, *(_num_synthetic(workflow, n, number) for number in range(1, generations))])
    pools = [sizes[:1], *(_pool(workflow, sizes[:g], n) for g in range(2, generations + 1))]
    if any(not len(pool) for pool in pools):
        return None
    used = [int(pool.sum()) for pool in pools]
    if isinstance(workflow, AccumulateSubsample):
        used[1:] = [n] * (generations - 1)
    return pools, used, sizes


def _num_synthetic(workflow: Workflow, n: int, number: int) -> int:
    """How many rows the model of generation `number` writes."""
    if isinstance(workflow, GrowingReplace):
        return n * (number + 1)
    return n // min(number + 1, workflow.window) if isinstance(workflow, RecentModels) else n


def _pool(workflow: Workflow, sizes: IntArray, n: int) -> IntArray:
    """How many rows of each batch the next generation chooses from; empty if that is not known."""
    pool = np.zeros_like(sizes)
    if isinstance(workflow, (Accumulate, AccumulateSubsample)):
        return sizes
    if isinstance(workflow, (Replace, GrowingReplace)):
        pool[-1] = sizes[-1]
    elif isinstance(workflow, RecentModels):
        pool[-workflow.window :] = n // len(sizes[-workflow.window :])
    elif isinstance(workflow, Mixture):
        share = workflow.synthetic_share
        pool[-1] = sizes[-1] if share is None else round(share * n)
        pool[0] = sizes[0] if share is None else n - pool[-1]
    else:
        return sizes[:0]
    return pool


def pooled_moments(
    pools: Sequence[IntArray],
    used: Sequence[int],
    sizes: IntArray,
    unbiased: bool = False,
    gap: float = 1.0,
    added: float = 0.0,
) -> Moments:
    """The exact moments under any workflow that chooses rows without looking at them. Ours.

    sizes: rows of the real data, and then of each generation's synthetic data. pools[g]: how many rows of each of these
    generation g + 1 chooses from, at random. used[g]: how many rows of the pool it is fitted to, at random.

    gap: half the expected squared difference of two real rows. added: what sampling adds to a variance, as kernels do.

    Half the expected squared difference of two distinct rows, one of batch b and one of batch c, is gap_BB. Averaged
    over all pairs of m rows, each row with itself included, it is their variance (with 1/m). Two new rows differ by the
    fitted variance; a new row and an old one x differ by what x and the rows of the pool do, on average.
    """
    row_B = np.ones(len(sizes) + 1)  # the second moment of a row
    gap_BB = np.full((len(row_B), len(row_B)), gap)
    variances, squares = np.empty(len(pools)), np.empty(len(pools))
    for g, (pool_B, m) in enumerate(zip(pools, used, strict=True)):
        b, num_rows = len(pool_B), int(pool_B.sum())
        to_pool_B, own_B = gap_BB[:b, :b] @ pool_B, np.diagonal(gap_BB)[:b]
        old_B = (to_pool_B - pool_B / sizes[:b] * own_B) / num_rows  # the pool has the row itself with that probability
        biased = (1 - 1 / m) * (pool_B @ (to_pool_B - own_B)) / (num_rows * max(num_rows - 1, 1))
        variances[g] = (biased * m / max(m - 1, 1) if unbiased else biased) + added
        squares[g] = pool_B @ row_B[:b] / num_rows - biased
        row_B[b] = squares[g] + variances[g]
        gap_BB[b, :b] = gap_BB[:b, b] = old_B + (variances[g] - biased) / 2
        gap_BB[b, b] = variances[g]
    return Moments(variances, squares)


def overlapping_moments(num_rows: int, counts: Sequence[int], unbiased: bool = False) -> Moments:
    """The exact moments under ToEdit if each edit resamples rows chosen at random. Ours.

    counts: how many rows each edit resamples. As in `pooled_moments`; all rows are alike, so that two numbers suffice.
    """
    row, gap = 1.0, float(num_rows > 1)
    variances, squares = [], []
    for count in [*counts, 0]:
        biased = (1 - 1 / num_rows) * gap
        variance = gap if unbiased else biased
        variances.append(variance)
        squares.append(row - biased)
        both = count * (count - 1) / (num_rows * max(num_rows - 1, 1))
        one = 2 * count * (num_rows - count) / (num_rows * max(num_rows - 1, 1))
        gap = (1 - both - one) * gap + both * variance + one * (biased + variance) / 2
        row += count / num_rows * (variance - biased)
    return Moments(np.array(variances), np.array(squares))


def disjoint_moments(num_rows: int, edits: Sequence[tuple[int, int]], unbiased: bool = False) -> Moments:
    """The exact moments under ToEdit if each edit resamples the rows that come after those of the last edit. Ours.

    edits: the first row of each and how many it resamples; after the last row comes the first. As in `pooled_moments`,
    with a gap for each pair of rows: O(N^2) for each edit.
    """
    row_N = np.ones(num_rows)
    gap_NN = 1 - np.eye(num_rows)
    variances, squares = [], []
    for start, count in [*edits, (0, 0)]:
        old_N = gap_NN.mean(axis=1)
        biased = float(old_N.mean())
        variance = biased * num_rows / max(num_rows - 1, 1) if unbiased else biased
        variances.append(variance)
        squares.append(float(row_N.mean()) - biased)
        edited_N = (np.arange(num_rows) - start) % num_rows < count
        gap_NN[edited_N] = old_N + (variance - biased) / 2
        gap_NN[:, edited_N] = gap_NN[edited_N].T
        gap_NN[np.ix_(edited_N, edited_N)] = variance
        np.fill_diagonal(gap_NN, 0)
        row_N[edited_N] = squares[-1] + variance
    return Moments(np.array(variances), np.array(squares))
