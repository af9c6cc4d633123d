"""The expected sum of squared probabilities of a discrete distribution, exactly, for each workflow.

It is the probability that two rows from the model are equal. A generation's training rows come from earlier models, so
this probability follows from those of the generations before: a recursion that depends on the distribution only
through S_0. Where Seddik et al. (arXiv 2404.05090) have a closed form, `categorical_theory` has it.

Shapes: G generations, B batches of rows (0: the real rows; t: those that the model of generation t wrote).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import numpy as np
from numpy.typing import ArrayLike

from ..types import FloatArray
from .categorical_theory import sum_squares_partly_synthetic, sum_squares_replace
from .workflows import Accumulate, AccumulateSubsample, Mixture, RecentModels, Replace, ToEdit, Workflow, as_mixture


def expected_sum_squares(workflow: Workflow, n: int, num_real: int, generations: int, S_0: float) -> FloatArray | None:
    """E sum p^2 of generations 1, 2, ..., shape [G]; None if the workflow is not one of ours.

    n: synthetic rows from each model. num_real: rows of real data. S_0: sum p^2 of the true probabilities.
    """
    generation_G = np.arange(1, generations + 1)
    workflow, n = as_mixture(workflow, n, num_real)
    match workflow:
        case Replace():
            return sum_squares_replace(generation_G, n, S_0, num_real)
        case Accumulate():
            return sum_squares_accumulate(generation_G, n, S_0, num_real)
        case Mixture(synthetic_share=None):
            return sum_squares_partly_synthetic(generation_G, num_real, n, S_0)
        case Mixture():
            values = _mixture(workflow, n, num_real, S_0)
        case AccumulateSubsample():
            values = _accumulate_subsample(n, num_real, S_0)
        case RecentModels():
            values = _recent_models(workflow, n, num_real, S_0)
        case ToEdit(overlapping=True) if workflow.share is not None:
            values = _toedit(workflow, num_real, S_0)
        case _:
            return None
    return np.array(list(islice(values, generations)))


def of_frequencies(num_rows: float, equal_pair: float) -> float:
    """The expected sum of squared relative frequencies, if two rows are equal with probability `equal_pair`."""
    return 1 / num_rows + (1 - 1 / num_rows) * equal_pair


def sum_squares_accumulate(generation: ArrayLike, n: int, S_0: float, num_real: int | None = None) -> FloatArray:
    """1 - (1 - 1/N)(1 - S_0) prod_{i=1..m-1} (1 - n/(N + i n)^2): E sum p^2 of generation m if data accumulates.

    generation: m = 1, 2, ...; any shape. num_real: N, by default n; the product is then that of 1 - 1/(n i^2), as for
    the variance of Gaussians (Kazdan et al., arXiv 2410.16713, Theorem 1).
    """
    N = n if num_real is None else num_real
    m = np.asarray(generation)
    total_G = N + n * np.arange(1, m.max(initial=1))
    left_G = np.concatenate([[1.0], np.cumprod(1 - n / total_G**2)])
    remaining: FloatArray = 1 - (1 - 1 / N) * (1 - S_0) * left_G[m - 1]
    return remaining


def _mixture(workflow: Mixture, n: int, num_real: int, S_0: float) -> Iterator[float]:
    """n rows each time: k synthetic ones, and a new sample of n - k real ones."""
    share = round((workflow.synthetic_share or 0.0) * n) / n
    k, rest = share * n, n - share * n
    first = S = of_frequencies(num_real, S_0)
    while True:
        yield S
        real = (1 - share) ** 2 * of_frequencies(rest, S_0) if rest else 0.0
        synthetic = share**2 * of_frequencies(k, S) if k else 0.0
        S = real + synthetic + 2 * share * (1 - share) * first


def _accumulate_subsample(n: int, num_real: int, S_0: float) -> Iterator[float]:
    """n of all rows so far. pair: the probability that two of these rows are equal."""
    S, pair, total = of_frequencies(num_real, S_0), S_0, num_real
    while True:
        yield S
        among_all = of_frequencies(total, pair)
        equal = total * (total - 1) * pair + 2 * total * n * among_all + n * (n - 1) * S
        total += n
        pair = equal / (total * (total - 1))
        S = of_frequencies(n, pair)


def _recent_models(workflow: RecentModels, n: int, num_real: int, S_0: float) -> Iterator[float]:
    """Equal parts of the latest batches. pair_BB: the probability that a row from one and a row from another are equal
    (two rows of the same batch on the diagonal).
    """
    sizes, pair_BB = [num_real], np.array([[S_0]])
    S = of_frequencies(num_real, S_0)
    for number in range(1, 10**9):
        yield S
        before_B = _rows_of_latest_model(sizes, pair_BB, workflow.window) if number > 1 else np.array([S])
        sizes.append(n // min(number + 1, workflow.window))
        pair_BB = np.block([[pair_BB, before_B[:, None]], [before_B[None], np.array([[S]])]])
        sizes, pair_BB = sizes[-workflow.window :], pair_BB[-workflow.window :, -workflow.window :]
        part = n // len(sizes)
        inside = sum(of_frequencies(part, pair) - pair for pair in np.diag(pair_BB))
        S = float(pair_BB.sum() + inside) / len(sizes) ** 2


def _rows_of_latest_model(sizes: list[int], pair_BB: FloatArray, window: int) -> FloatArray:
    """The probability that a row of a model, trained on equal parts of these batches, equals a row of each."""
    same_B = [of_frequencies(size, pair) - pair for size, pair in zip(sizes, np.diag(pair_BB), strict=True)]
    latest_B: FloatArray = (pair_BB.sum(axis=0) + same_B) / len(sizes)
    return latest_B


def _toedit(workflow: ToEdit, num_real: int, S_0: float) -> Iterator[float]:
    """The real rows, k of which the model resamples, at random. pair: as in `_accumulate_subsample`."""
    pair, N = S_0, num_real
    for number in range(1, 10**9):
        S = of_frequencies(N, pair)
        yield S
        k = round((workflow.share_of(number) or 0.0) * N)
        pair = ((N - k) * (N - k - 1) * pair + k * (2 * N - k - 1) * S) / max(N * (N - 1), 1)
