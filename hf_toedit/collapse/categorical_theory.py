"""Closed forms for discrete distributions: Seddik et al., "How Bad is Training on Synthetic Data?" (arXiv 2404.05090).

Generation m = 1 is trained on N real rows. Under `Replace` ("fully synthetic") generation m > 1 is trained on n rows of
the model before it, under `Mixture` ("partially synthetic") on these and the N real rows. All of it is for the rows of
one context. S_m = E sum p^2 of generation m, which is 1 after total collapse; S_0: of the true probabilities.
"""

from __future__ import annotations

import math
import warnings
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ..errors import ConfigError, ToEditWarning
from ..types import FloatArray, IntArray

C_0 = math.e**3 / (2 * math.pi)
C_1 = 6 * math.e / math.pi**1.5
MOST_COMPOSITIONS = 200_000
MOST_TRANSITIONS = 2 * 10**7


def sum_squares_replace(generation: ArrayLike, n: int, S_0: float, num_real: int | None = None) -> FloatArray:
    """S_m = 1 - (1 - 1/N)(1 - 1/n)^(m-1) (1 - S_0) under replace (Theorem 1.1, where N = n).

    generation: m = 1, 2, ...; any shape. num_real: N, by default n.
    """
    N = n if num_real is None else num_real
    exponent = np.asarray(generation, dtype=float) - 1
    expected: FloatArray = 1 - (1 - 1 / N) * (1 - 1 / n) ** exponent * (1 - S_0)
    return expected


def collapse_probability_bounds(
    generation: ArrayLike, n: int, S_0: float, support: int
) -> tuple[FloatArray, FloatArray]:
    """Bounds on the probability rho_m of total collapse by generation m under replace (Theorem 1.2, where N = n).

        1 - n (1 - S_0)(1 - 1/n)^m  <=  rho_m  <=  1 - (1 - S_0)/(1 - 1/support) (1 - 1/n)^m

    generation: m = 1, 2, ...; any shape. support: outcomes with a probability above 0, 2 or more. A lower bound below
    0 is given as 0.
    """
    left = (1 - 1 / n) ** np.asarray(generation, dtype=float) * (1 - S_0)
    return np.maximum(1 - n * left, 0), 1 - left / (1 - 1 / support)


def collapse_time_bounds(n: ArrayLike, S_0: float, support: int) -> tuple[FloatArray, FloatArray]:
    """Bounds on E[T], the expected generation of total collapse under replace (Theorem 1.3, equation 8, where N = n).

        1 + (1 - S_0)/(1 - 1/support) (n - 1)  <=  E[T]  <=  1 + (1 - S_0) n (n - 1)

    n: any shape. support: outcomes with a probability above 0, 2 or more. The upper bound is of the wrong order:
    `collapse_time_limit` has the right one.
    """
    n = np.asarray(n, dtype=float)
    return 1 + (1 - S_0) / (1 - 1 / support) * (n - 1), 1 + (1 - S_0) * n * (n - 1)


def collapse_time_limit(n: ArrayLike, probabilities: FloatArray) -> FloatArray:
    """E[T] = -2 n sum_i (1 - p_i) log(1 - p_i) in the limit of large n: total collapse takes linear time.

    Seddik et al. show an order between n and n^2 and suppose O(n); Kazdan et al. (arXiv 2410.16713) find it by
    simulation. Replace is the Wright-Fisher model of population genetics: going back, two rows share their parent with
    the probability 1/n, so that k ancestors remain for 2n/(k(k-1)) generations, and all are of one outcome with the
    probability sum_i p_i^k. n: any shape. probabilities: of the outcomes, shape [V].
    """
    rest_V = 1 - np.asarray(probabilities, dtype=float)
    log_V = np.log(rest_V, out=np.zeros_like(rest_V), where=rest_V > 0)
    limit: FloatArray = -2 * np.asarray(n, dtype=float) * (rest_V * log_V).sum()
    return limit


def collapse_time_exact(n: int, probabilities: FloatArray) -> float:
    """E[T] under replace from the Markov chain of the counts, for n rows and outcomes few enough to list all counts.

    States are counts up to their order, which decides nothing; the collapsed one is absorbing. probabilities: of the
    outcomes, shape [V].
    """
    from scipy.special import gammaln, xlogy

    p_V = np.asarray(probabilities, dtype=float)
    p_V = p_V[p_V > 0]
    count_SV = compositions(n, len(p_V))
    log_ways_S = gammaln(n + 1) - gammaln(count_SV + 1).sum(axis=1)
    state_KV, state_S = np.unique(np.sort(count_SV, axis=1), axis=0, return_inverse=True)
    if len(state_KV) * len(count_SV) > MOST_TRANSITIONS:
        raise ConfigError(f"n={n:,} and {len(p_V):,} outcomes have too many counts to list: simulate instead")

    def to_states(weight_V: FloatArray) -> FloatArray:
        """The probability of each state after n draws with these weights."""
        possible_S = ~(count_SV[:, weight_V == 0].any(axis=1))
        log_S = log_ways_S[possible_S] + xlogy(count_SV[possible_S], weight_V).sum(axis=1)
        reached: Any = np.bincount(state_S.ravel()[possible_S], np.exp(log_S), minlength=len(state_KV))
        return np.asarray(reached, dtype=float)

    running_K = state_KV[:, -1] < n
    step_KK = np.array([to_states(state_V / n)[running_K] for state_V in state_KV[running_K]])
    more_K = np.linalg.solve(np.eye(len(step_KK)) - step_KK, np.ones(len(step_KK))) if len(step_KK) else np.zeros(0)
    return float(1 + to_states(p_V)[running_K] @ more_K)


def compositions(total: int, parts: int) -> IntArray:
    """All ways to write `total` as an ordered sum of `parts` counts, shape [ways, parts]."""
    ways = math.comb(total + parts - 1, parts - 1)
    if ways > MOST_COMPOSITIONS:
        raise ConfigError(f"n={total:,} and {parts:,} outcomes have too many counts to list: simulate instead")
    bars = np.array(list(combinations(range(total + parts - 1), parts - 1)), dtype=np.int64).reshape(ways, parts - 1)
    edges = np.pad(bars, ((0, 0), (1, 1)), constant_values=((0, 0), (-1, total + parts - 1)))
    counts: IntArray = np.diff(edges, axis=1) - 1
    return counts


def _alpha_beta(num_real: ArrayLike, n: ArrayLike) -> tuple[FloatArray, FloatArray, FloatArray]:
    """N, alpha = n/(N + n) and beta = alpha ((1 + 1/N) alpha - 1/N), as in Theorem 2."""
    N, n = np.asarray(num_real, dtype=float), np.asarray(n, dtype=float)
    alpha = n / (N + n)
    return N, alpha, alpha * ((1 + 1 / N) * alpha - 1 / N)


def _theorem_2(generation: ArrayLike, num_real: ArrayLike, n: ArrayLike, S_0: ArrayLike, sign: int) -> FloatArray:
    N, alpha, beta = _alpha_beta(num_real, n)
    power = beta ** (np.asarray(generation, dtype=float) - 1)
    real = (1 + 2 * alpha - (1 - 1 / N) * alpha * power) / N
    true = (1 - 1 / N) * np.asarray(S_0, dtype=float) * (1 + alpha + sign * alpha / N * power)
    expected: FloatArray = (real + true) / (1 + (1 + 1 / N) * alpha)
    return expected


def sum_squares_partly_synthetic(
    generation: ArrayLike, num_real: ArrayLike, n: ArrayLike, S_0: ArrayLike
) -> FloatArray:
    """S_m where each generation m > 1 is trained on the N real rows and n synthetic ones (Theorem 2, corrected).

    With alpha = n/(N + n), beta = alpha ((1 + 1/N) alpha - 1/N) and D = 1 + (1 + 1/N) alpha:

        S_{m+1} = (1/D) { (1/N) [1 + 2 alpha - (1 - 1/N) alpha beta^m] + (1 - 1/N) S_0 [1 + alpha + (alpha/N) beta^m] }

    The paper prints a minus sign before the last term, with which S_1 is not 1/N + (1 - 1/N) S_0; see
    `sum_squares_partly_synthetic_as_printed`. Equals S_1 + `added_variance` (1 - S_1). generation: m = 1, 2, ...; the
    arguments broadcast.
    """
    return _theorem_2(generation, num_real, n, S_0, +1)


def sum_squares_partly_synthetic_as_printed(
    generation: ArrayLike, num_real: ArrayLike, n: ArrayLike, S_0: ArrayLike
) -> FloatArray:
    """Theorem 2 with the sign of the paper, which simulation contradicts."""
    return _theorem_2(generation, num_real, n, S_0, -1)


def sum_squares_partly_synthetic_limit(num_real: ArrayLike, n: ArrayLike, S_0: ArrayLike) -> FloatArray:
    """S_m for m to infinity: [ (1 + 2 alpha)/N + (1 - 1/N)(1 + alpha) S_0 ] / D, whichever the sign in Theorem 2."""
    N, alpha, _ = _alpha_beta(num_real, n)
    true = (1 - 1 / N) * (1 + alpha) * np.asarray(S_0, dtype=float)
    limit: FloatArray = ((1 + 2 * alpha) / N + true) / (1 + (1 + 1 / N) * alpha)
    return limit


def added_variance(generation: ArrayLike, num_real: ArrayLike, n: ArrayLike) -> FloatArray:
    """E (p_i^(m) - p_i^(1))^2 / (p_i^(1) (1 - p_i^(1))), the same for each outcome i, where real rows are kept.

    With alpha = n/(N + n) and gamma = alpha^2 (1 - 1/n): alpha^2/n (1 - gamma^(m-1))/(1 - gamma). It solves v_1 = 0,
    v_{m+1} = alpha^2 (1/n + (1 - 1/n) v_m). In the limit it is n/(N^2 + (2N + 1) n), which never exceeds 1/(2N + 1),
    however large n is. generation: m, np.inf for the limit; the arguments broadcast.
    """
    N, n = np.asarray(num_real, dtype=float), np.asarray(n, dtype=float)
    gamma = n * (n - 1) / (N + n) ** 2
    added: FloatArray = n / (N + n) ** 2 * (1 - gamma ** (np.asarray(generation, dtype=float) - 1)) / (1 - gamma)
    return added


def guaranteed_deviation(
    num_real: ArrayLike, n: ArrayLike, outcomes: ArrayLike, generation: ArrayLike = np.inf
) -> FloatArray:
    """min{ 2 alpha, sqrt(added_variance (min(V, N) - 1)) } >= E||p^(m) - p^(1)||_1 where real rows are kept.

    2 alpha, because p^(m) - p^(1) = alpha (phat^(m-1) - p^(1)). The other, because Jensen's inequality gives
    E|p_i^(m) - p_i^(1)| <= sqrt(added_variance p_i^(1) (1 - p_i^(1))), whose sum over the K <= min(V, N) outcomes
    among the real rows is at most sqrt(added_variance (K - 1)) by Cauchy's. Not from the paper, whose Theorem 3 is
    exponential in n. The arguments broadcast.
    """
    N, n = np.asarray(num_real, dtype=float), np.asarray(n, dtype=float)
    seen = np.minimum(np.asarray(outcomes, dtype=float), N)
    bound: FloatArray = np.minimum(2 * n / (N + n), np.sqrt(added_variance(generation, N, n) * (seen - 1)))
    return bound


def guaranteed_amount(num_real: ArrayLike, outcomes: ArrayLike, tolerance: ArrayLike) -> FloatArray:
    """The largest n, not rounded, for which `guaranteed_deviation` is at most the tolerance in each generation.

    With q = eps^2/(min(V, N) - 1): max{ eps N/(2 - eps), q N^2/(1 - q (2N + 1)) }; infinite, any n, where eps >= 2 or
    q (2N + 1) >= 1. The arguments broadcast.
    """
    N, eps = np.asarray(num_real, dtype=float), np.asarray(tolerance, dtype=float)
    with np.errstate(divide="ignore", invalid="ignore"):
        q = eps**2 / (np.minimum(np.asarray(outcomes, dtype=float), N) - 1)
        by_share = np.where(eps >= 2, np.inf, eps * N / (2 - eps))
        by_variance = np.where(q * (2 * N + 1) >= 1, np.inf, q * N**2 / (1 - q * (2 * N + 1)))
    amount: FloatArray = np.maximum(by_share, by_variance)
    return amount


def tail_constant(n: ArrayLike, outcomes: ArrayLike) -> FloatArray:
    """G_n(s) of Theorem 3, for n rows and s outcomes: P(||phat_n - p||_1 >= t) <= G_n(s) exp(-n t^2/2) in its proof.

    C_1 s exp(C_0 n/(2e)) if C_0 n/e + 2 <= s; C_1 s (C_0 n/s)^(s/2) if C_0 n/4 + 2 <= s < C_0 n/e + 2; else 2^s - 2.
    Infinity where it exceeds what a float can hold. The last is a bound; the first is not: for 10 rows of 600 equally
    likely outcomes and t = 1.96 it is 0.003, where the probability is above 0.9. The arguments broadcast.
    """
    n, s = np.broadcast_arrays(np.asarray(n, dtype=float), np.asarray(outcomes, dtype=float))
    with np.errstate(over="ignore", divide="ignore"):
        log_power = np.where(C_0 * n / math.e + 2 <= s, C_0 * n / (2 * math.e), s / 2 * np.log(C_0 * n / s))
        log_G = np.log(C_1 * s) + log_power
        G: FloatArray = np.where(C_0 * n / 4 + 2 <= s, np.exp(log_G), 2.0**s - 2)
    return G


def deviation_bound(
    num_real: ArrayLike,
    n: ArrayLike,
    outcomes: ArrayLike,
    *,
    generation: ArrayLike = np.inf,
    most_balanced_split: float = 0.25,
) -> FloatArray:
    """(1/N) sqrt(n pi/phi(zeta)) G_n(s), the paper's upper bound on E||p^(m) - p^(1)||_1 (Theorems 3 and 4).

    most_balanced_split: E max_A p^(1)(A) (1 - p^(1)(A)) over sets A of outcomes. At 1/4, its largest possible value,
    phi = 2 and this is Theorem 3: (1/N) sqrt(pi n/2) G_n(s). generation: m; the factor 1 - alpha^(m-1) is what the
    geometric series of the proof sums to after m generations, 1 in the limit. Unless G_n(s) = 2^s - 2, it says less
    than the triangle inequality: no p^(m) is further than 2 alpha < 2n/N, and this is always more (so that it holds,
    although the proof rests on a tail bound that does not). See `guaranteed_deviation`. The other arguments broadcast.
    """
    N, n = np.asarray(num_real, dtype=float), np.asarray(n, dtype=float)
    zeta = 0.5 - (0.5 - 2 * most_balanced_split) * (N / (N + n)) ** 2
    reached = 1 - (n / (N + n)) ** (np.asarray(generation, dtype=float) - 1)
    bound: FloatArray = np.sqrt(n * np.pi / phi(zeta)) / N * tail_constant(n, outcomes) * reached
    return bound


def phi(x: ArrayLike) -> FloatArray:
    """log((1 - x)/x)/(1 - 2x), and 2 at x = 1/2 (Theorem 4). x: in (0, 1/2], any shape."""
    x = np.asarray(x, dtype=float)
    gap = 1 - 2 * x
    small = np.abs(gap) < 1e-4  # where the quotient would lose digits: log((1 + d)/(1 - d))/d = 2 + 2 d^2/3 + ...
    safe = np.where(small, 0.25, x)
    value: FloatArray = np.where(small, 2 + 2 * gap**2 / 3, np.log((1 - safe) / safe) / (1 - 2 * safe))
    return value


def most_balanced_split(probabilities: FloatArray) -> float:
    """max_A p(A) (1 - p(A)) over sets A of outcomes, for Theorem 4; its upper bound 1/4 if no outcome has half of p."""
    most = float(np.max(probabilities))
    return most * (1 - most) if most > 0.5 else 0.25


def real_rows_for_rule(outcomes: ArrayLike, tolerance: ArrayLike) -> FloatArray:
    """6 e s/(sqrt(2) pi eps) = 3.67 s/eps: the real rows above which equation 11 allows any synthetic row at all."""
    needed: FloatArray = 6 * math.e * np.asarray(outcomes, float) / (math.sqrt(2) * math.pi * np.asarray(tolerance))
    return needed


def largest_safe_amount(num_real: ArrayLike, outcomes: ArrayLike, tolerance: ArrayLike) -> FloatArray:
    """2 pi e^-2 min{ s - 2, log( sqrt(2) pi N eps/(6 e s) ) }: synthetic rows n that the paper allows (equation 11).

    So few that E||p^(m) - p^(1)||_1 < eps in each generation, for N real rows and s outcomes. 0, with a warning, where
    the formula is negative and so says nothing: it needs N > 3.67 s/eps real rows (`real_rows_for_rule`). It is
    logarithmic in N, but needlessly so: eps N/(2 - eps) rows are always safe (`guaranteed_amount`). The arguments
    broadcast.
    """
    s, needed = np.asarray(outcomes, dtype=float), real_rows_for_rule(outcomes, tolerance)
    N = np.asarray(num_real, dtype=float)
    if np.any(needed >= N):
        message = (
            f"equation 11 says nothing here: it needs more than {float(np.max(needed)):,.0f} real rows per context"
        )
        warnings.warn(message, ToEditWarning, stacklevel=2)
    allowed = 2 * np.pi * math.e**-2 * np.minimum(s - 2, np.log(N / needed))
    result: Any = np.maximum(allowed, 0.0)
    return np.asarray(result, dtype=float)


def deviation_limit(count: IntArray) -> FloatArray:
    """||p^(m) - p^(1)||_1 for m and then n to infinity, expected for these counts of the real rows, which are kept.

    No number of synthetic rows brings more. p^(m) then has the distribution Dirichlet(2 count), that of the
    Wright-Fisher model with mutation (Wright, 1949), as p^(1) comes back at the rate N/n; the mean absolute deviation
    of a Beta(a, b) variable is 2 a^a b^b/(B(a, b) (a + b)^(a + b + 1)). count: shape [..., V]; gives shape [...].
    """
    from scipy.special import betaln, xlogy

    N = int(count.sum(axis=-1).flat[0])
    values, place = np.unique(count, return_inverse=True)
    p = values / N
    changes = (values > 0) & (values < N)  # none or all of the rows: no change
    a, b = np.where(changes, 2.0 * values, 1.0), np.where(changes, 2.0 * (N - values), 1.0)
    log_deviation = xlogy(a, p) + xlogy(b, 1 - p) - betaln(a, b)
    deviation = np.where(changes, np.exp(log_deviation), 0.0) / N
    limit: FloatArray = deviation[place.reshape(count.shape)].sum(axis=-1)
    return limit


def first_deviation(num_real: int, probabilities: FloatArray) -> float:
    """E||p^(1) - p||_1 of the model trained on N real rows alone: sum_i 2 p_i (1 - p_i) P(X_i = floor(N p_i)).

    With X_i ~ Binomial(N - 1, p_i): de Moivre's mean absolute deviation. probabilities: of the outcomes, shape [V].
    """
    from scipy.stats import binom

    p_V = np.asarray(probabilities, dtype=float)
    at_mean_V = binom.pmf(np.floor(num_real * p_V), num_real - 1, p_V)
    return float((2 * p_V * (1 - p_V) * at_mean_V).sum())
