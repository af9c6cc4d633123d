"""Closed forms for linear regression whose labels come from earlier models, and for ToEdit's editing matrix.

Labels are `y = x·w* + e`, with x ~ N(0, I_D) and e ~ N(0, sigma^2). T rows keep their x; each generation's model is
fitted to them by least squares, and labels rows for later generations. An *inflation* is the expected test error
E||w - w*||^2 in units of `least_squares_error`, which is that of generation 1, trained on real labels. All arrays
start with generation 1.

G generations, D dimensions, T rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.polynomial import Polynomial

from ..types import FloatArray

ACCUMULATE_LIMIT = math.pi**2 / 6  # Gerstgrasser et al., arXiv 2404.01413
SUBSAMPLE_LIMIT = math.pi**2 / 2 - 2  # ours; see `workflow_inflation`
BOUND_AS_PRINTED = 2.0  # Zhu et al., arXiv 2412.14689, Theorem 2: false, see `disjoint_inflation`
BOUND_FAILS_AT = math.log(1.5)  # total share of many small disjoint edits at which the inflation passes 2


def least_squares_error(num_rows: int, dimensions: int, noise_variance: float = 1.0) -> float:
    """E||w - w*||^2 that the noise causes: sigma^2 d/(T-d-1) for T >= d+2 (Zhu et al., Lemma 3, from Dohmatob et al.).

    For T <= d-2, the least-norm solution's sigma^2 T/(d-T-1); in between, the expectation is infinite.
    """
    excess = abs(num_rows - dimensions) - 1
    return noise_variance * min(num_rows, dimensions) / excess if excess > 0 else math.inf


def replace_inflation(generations: int) -> FloatArray:
    """1, 2, 3, ...: linear growth (Dohmatob et al., arXiv 2402.07712; Zhu et al., section 4.2). Exact for all T."""
    return np.arange(1.0, generations + 1)


def growing_replace_inflation(generations: int) -> FloatArray:
    """Harmonic numbers, so O(log n), if generation i is trained on T·i rows of model i-1 alone (Gerstgrasser et al.,
    appendix E). Exact for all T.
    """
    harmonic_G: FloatArray = np.cumsum(1 / replace_inflation(generations))
    return harmonic_G


def accumulate_inflation(generations: int) -> FloatArray:
    """sum 1/i^2 <= pi^2/6 (Gerstgrasser et al., Theorem 2). Not only a bound: the error equals the sum, for all T."""
    sum_G: FloatArray = np.cumsum(replace_inflation(generations) ** -2)
    return sum_G


def subsample_inflation(generations: int) -> FloatArray:
    """1 + 2 (H_g - 1)/g + sum_{2..g} 1/i^2 + 2 sum_{1..g-1} (H_i - 1)/(i (i+1)), with harmonic numbers H, if each
    generation is trained on T rows of all so far. It tends to pi^2/2 - 2 = 2.93. For T >> d; the derivation is ours.
    """
    number = replace_inflation(generations)
    excess = growing_replace_inflation(generations) - 1
    reused = np.concatenate([[0], np.cumsum(excess / (number * (number + 1)))[:-1]])
    inflation_G: FloatArray = 2 * excess / number + accumulate_inflation(generations) + 2 * reused
    return inflation_G


def mixture_inflation(synthetic_share: float, generations: int) -> FloatArray:
    """1 + p (2-p) (1 + p^2 + p^4 + ...), with g-1 terms, if a share p of T rows comes from the latest model, and the
    rest from the T real ones. For T >> d; the derivation is ours.
    """
    p = synthetic_share
    powers = p ** (2 * np.arange(generations - 1.0))
    return 1 + p * (2 - p) * np.concatenate([np.zeros(1), np.cumsum(powers)])


def workflow_inflation(fractions_GG: FloatArray, sizes_G: FloatArray | None = None) -> FloatArray:
    """The inflation of any workflow that trains generation g on a fraction [g, j] of each batch of T rows: batch 0 is
    real, batch j is from model j, and nothing is above the diagonal.

    A model's error is the mean of the errors of the models that labelled its rows, plus the noise of the rows
    themselves, which is shared with other models that saw the same rows. Exact for all T if fractions are 0 or 1; a
    fraction in between is chosen at random for each model, and T >> d. The derivation is ours. sizes_G: the rows that
    each batch has to choose from, as a fraction of T; by default all have T.
    """
    num_rows_G = fractions_GG.sum(axis=1)
    weights_GG = fractions_GG / num_rows_G[:, None]
    noise_GG = (weights_GG if sizes_G is None else weights_GG / sizes_G) @ weights_GG.T
    np.fill_diagonal(noise_GG, 1 / num_rows_G)
    inherited_GG = np.zeros_like(weights_GG)
    inherited_GG[:, :-1] = weights_GG[:, 1:]
    root_GG = np.linalg.solve(np.eye(len(weights_GG)) - inherited_GG, np.eye(len(weights_GG)))
    inflation_G: FloatArray = np.einsum("gi,ij,gj->g", root_GG, noise_GG, root_GG)
    return inflation_G


def toedit_inflation_as_printed(shares: Sequence[float]) -> FloatArray:
    """1 + f_1 + f_2 + ...: what Theorem 1 of Zhu et al. gives, if edit i resamples a share f_i of the rows.

    Theorem 1 drops M_1 X (X'X)^-1 X' E_1 - M_1 E_1, as if the hat matrix were the identity. It is that only for
    T <= d, where the theorem's own T >= d+2 does not hold. `disjoint_inflation` and `overlapping_inflation` are right.
    """
    return 1 + np.concatenate([[0], np.cumsum(shares)])


def decay_bound_as_printed(num_rows: int, dimensions: int, share: float, eta: float) -> float:
    """The bound of Theorem 2 of Zhu et al. if ||M_i|| = eta ||M_{i-1}||, as an inflation; the first edit resamples
    `share`. It needs T >= d+4.

    sigma^2 d/(T-d-1) + sigma^2 sqrt(E tr (X'X)^-2) sqrt(E tr M_1)/(1 - eta). The norm is Frobenius', sqrt(tr M), so
    that shares shrink by eta^2. It rests on Theorem 1 and so is not proven, and it says little: it grows with
    sqrt(T/d), which the error does not.
    """
    t, d = num_rows, dimensions
    if eta == 1:
        return math.inf
    second_moment = d * (t - 1) / ((t - d) * (t - d - 1) * (t - d - 3))  # E tr (X'X)^-2
    return 1 + math.sqrt(second_moment * share * t) / (1 - eta) / least_squares_error(t, d)


def disjoint_inflation(shares: Sequence[float], num_rows: float = math.inf, dimensions: int = 1) -> FloatArray:
    """The inflation if edit n resamples a share f_n of the rows, none of which was edited before; corrects Theorem 1
    and 2 of Zhu et al. The default is the limit T >> d:

        V_{n+1} = (1+f_n)^2 V_n + 2 f_n - 2 (1+f_n) f_n G_n,  G_n = (1+f_1)...(1+f_{n-1}),  V_1 = 1

    With num_rows, the shares' counterparts U'M_iU (U: orthonormal columns of X), whose mean is f_i, vary as a
    Dirichlet distribution with the same first two moments does. That is exact for one edit, for d = 1 and for T <= d;
    it is 0.04% off at T=400, d=10 (where T >> d is 2.5% off) and 0.5% at T=100, d=10, after ten edits.
    """
    spread = _spread(num_rows, dimensions)
    if spread == math.inf:
        return toedit_inflation_as_printed(shares)
    s = Polynomial([0, 1])  # the power of s counts factors that are shares: E of m of them is over (1+0)(1+spread)...
    inflation, growth, found = Polynomial([1]), Polynomial([1]), [1.0]
    for share in shares:
        square = share * (share + spread) * s**2
        inflation = (1 + 2 * share * s + square) * inflation + 2 * share * s - 2 * (share * s + square) * growth
        growth = (1 + share * s) * growth
        factors = 1 + spread * np.arange(len(inflation.coef) - 1)
        found.append(float(np.sum(inflation.coef / np.concatenate([[1], np.cumprod(factors)]))))
    return np.array(found)


def _spread(num_rows: float, dimensions: int) -> float:
    """1/alpha of the Dirichlet distribution with the variances of U'M_iU: 0 for T >> d, infinite for T <= d."""
    if num_rows == math.inf:
        return 0
    t, d = num_rows, dimensions
    if t <= d:
        return math.inf
    variance = (t * (d + 1) - 2) / ((t + 2) * (t - 1))  # of a share f, over f (1-f)
    return variance / (1 - variance)


def one_edit_inflation(share: float) -> float:
    """1 + 2f - f^2, for T >> d, however the rows are chosen. Theorem 1 of Zhu et al. gives 1 + f."""
    return 1 + 2 * share - share**2


def many_small_edits_inflation(total_share: float) -> float:
    """2 e^F - 1: many small disjoint edits of a share F in all, for T >> d. More than 2 from F = ln 1.5 = 0.405 on."""
    return 2 * math.exp(total_share) - 1


def overlapping_inflation(shares: Sequence[float], num_rows: float = math.inf, dimensions: int = 1) -> FloatArray:
    """The inflation if edit n resamples a share f_n of the rows at random, edited before or not. Ours; the paper's
    theorems leave it out (M_i M_j = 0), though a text that is edited repeatedly needs it. The default is for T >> d:

        V_{n+1} = V_n + 2 f_n - f_n^2

    With num_rows, h = (d+2)/(T+2) and p_n the probability that of two given rows one is edited and the other is not:

        V_{n+1} = V_n + f_n + p_n/2 (N_n - h V_n),  N_{n+1} = (1-f_n) N_n + f_n (1 + h V_n),  N_1 = 1

    N: the labels' own noise. Exact for one edit and for T <= d; at T=100, d=10, 0.1% off after twenty edits.
    """
    leverage = 0.0 if num_rows == math.inf else (min(num_rows, dimensions) + 2) / (num_rows + 2)
    inflation = noise = 1.0
    found = [inflation]
    for share in shares:
        both = share**2 if num_rows == math.inf else share * (share * num_rows - 1) / (num_rows - 1)
        edited = 1 + leverage * inflation
        inflation += share + (share - both) * (noise - leverage * inflation)
        noise = (1 - share) * noise + share * edited
        found.append(inflation)
    return np.array(found)


def slope_in_order(share: float) -> float:
    """4f/(1+f)^2: what each edit adds in the long run, if edits of f T rows each go through all rows in order, pass
    after pass, for T >> d. At random, an edit adds 2f - f^2. Ours; 1/f is a whole number.
    """
    return 4 * share / (1 + share) ** 2


def overlapping_limit(share: float, decay: float) -> float:
    """1 + 2f/(1-r) - f^2/(1-r^2): where `overlapping_inflation` ends if each share is r times the one before.

    Infinite if shares do not shrink (r = 1).
    """
    if decay == 1:
        return math.inf if share else 1.0
    return 1 + 2 * share / (1 - decay) - share**2 / (1 - decay**2)


def disjoint_limit(share: float, decay: float) -> float:
    """Where `disjoint_inflation` ends, for T >> d, if each share is r times the one before. NaN if more than all rows
    would be edited.
    """
    if share > 1 - decay + 1e-9:
        return math.nan
    enough = math.ceil(math.log(1e-12) / math.log(decay)) if 0 < decay < 1 else 1
    shares = share * decay ** np.arange(enough)
    growth = np.cumprod(1 + shares)
    return float(growth[-1] ** 2 * (1 - 2 * np.sum(shares * (1 - 1 / growth) / growth)))
