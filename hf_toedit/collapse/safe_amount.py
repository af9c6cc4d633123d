"""How many synthetic rows can be mixed with the real ones: what Seddik et al. (arXiv 2404.05090) and simulation say.

Shapes: R runs, K outcomes seen among a run's real rows, V outcomes.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..errors import ConfigError
from ..types import FloatArray, IntArray
from .categorical import Categorical
from .categorical_theory import (
    deviation_limit,
    first_deviation,
    guaranteed_amount,
    largest_safe_amount,
    real_rows_for_rule,
    sum_squares_partly_synthetic_limit,
)
from .generations import rng_of
from .simulation import mean_interval

MOST_TIMES_REAL = 100  # the search ends at this many synthetic rows per real one
PRECISION = 0.01  # of the number of rows, relative
SETTLED = 0.001  # how much of the deviation may still be missing in the last generation, relative
MOST_VALUES = 200_000  # probabilities simulated at a time: with many outcomes, a few runs are enough
FEWEST_RUNS = 10
MOST_REAL, MOST_OUTCOMES = 10**15, 10**7


@dataclass(frozen=True)
class Budget:
    """How many synthetic rows per context each generation may add to the real ones, and why.

    Deviations are E||p^(m) - p^(1)||_1, from the model trained on the real rows alone, after enough generations that
    they no longer grow. They are between 0 and 2.

    synthetic: the largest number found; None if any number stays within the tolerance.
    searched_up_to: where the search ended; if `synthetic` is as large, more rows may be safe, too.
    deviation, deviation_low, deviation_high: simulated at `synthetic`, with its 99% interval.
    deviation_limit: with unlimited synthetic rows.
    first_deviation: of the model trained on the real rows alone, from the truth.
    guaranteed: rows that are safe whatever the distribution; infinite if any number is.
    printed: rows that equation 11 of the paper allows; 0 if it says nothing. printed_needs: the real rows with which
        it allows one.
    sum_squares: of the true probabilities, of the first model, and in the limit of many generations (Theorem 2).
    """

    real: int
    vocabulary: int
    tolerance: float
    zipf: float
    synthetic: int | None
    searched_up_to: int
    deviation: float
    deviation_low: float
    deviation_high: float
    deviation_limit: float
    first_deviation: float
    guaranteed: float
    printed: float
    printed_needs: float
    sum_squares: tuple[float, float, float]
    runs: int
    seed: int

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        return "\n".join(textwrap.fill(line, 100, subsequent_indent="  ") for line in self._lines())

    def _lines(self) -> Iterator[str]:
        guess = f"probabilities ~ 1/rank^{self.zipf:g}" if self.zipf else "equally likely, the cautious guess"
        yield f"{self.real:,} real rows per context, {self.vocabulary:,} tokens ({guess}), tolerance {self.tolerance}."
        if self.synthetic is None:
            yield "You can add any number of synthetic rows, as long as each generation also trains on the real ones."
        elif self.synthetic == 0:
            yield "You can't add any synthetic rows: a single one per context may move the model further."
        else:
            at_least = "at least " if self.synthetic == self.searched_up_to else ""
            rows = f"{self.synthetic:,} synthetic row{'s' * (self.synthetic > 1)}"
            yield f"You can add {at_least}{rows} per context to each generation's real ones."
            yield (
                f"That moves the model by {self.deviation:.3g} (simulated, 99% interval {self.deviation_low:.3g} to "
                f"{self.deviation_high:.3g}), however many generations follow."
            )
        yield (
            f"Unlimited synthetic rows would move it by {self.deviation_limit:.3g}. For scale: the model trained on "
            f"the real rows alone is {self.first_deviation:.3g} from the truth, because they are a sample."
        )
        yield from self._rules()
        yield (
            "A context is what the next token depends on: rare contexts have few real rows and allow the fewest. Moves "
            "are from the model trained on the real rows alone, as the sum of |p - q| over the tokens (0 to 2)."
        )

    def _rules(self) -> Iterator[str]:
        guaranteed = "any number" if math.isinf(self.guaranteed) else f"{math.floor(self.guaranteed):,}"
        yield f"Safe whatever the probabilities (proven): {guaranteed}."
        if self.printed >= 1:
            yield f"Safe by equation 11 of Seddik et al.: {math.floor(self.printed):,}."
        else:
            yield (
                "Equation 11 of Seddik et al. says nothing here: to allow one row it needs "
                f"{self.printed_needs:,.0f} real rows per context."
            )
        truth, first, limit = self.sum_squares
        yield (
            f"Sum of squared probabilities: truth {truth:.4g}, real rows alone {first:.4g}, after many generations "
            f"{limit:.4g}; it would be 1 after total collapse."
        )


def budget(
    real: int, vocabulary: int, tolerance: float, *, zipf: float = 0.0, runs: int = 1000, seed: int = 0
) -> Budget:
    """How many synthetic rows per context each generation may add to `real` real ones.

    real: rows per context: how often each context occurs in the real data. vocabulary: outcomes, such as tokens.
    tolerance: on the mean L1 distance from the model trained on the real rows alone, between 0 and 2. zipf: the
    exponent of the probabilities ~ 1/rank^zipf that are assumed; 0, equally likely, is the most cautious. runs: at
    most; with many outcomes, fewer tell as much.
    """
    _check(real, vocabulary, tolerance, runs)
    probability_V = Categorical(vocabulary, zipf=zipf).probabilities()
    count_RK = _real_counts(probability_V, real, runs, seed)
    limit, limit_low, limit_high = interval(deviation_limit(count_RK))
    guaranteed = float(guaranteed_amount(real, vocabulary, tolerance))
    most = MOST_TIMES_REAL * real
    if limit_high <= tolerance or math.isinf(guaranteed):
        synthetic, n, found = None, math.inf, (limit, limit_low, limit_high)
    else:
        synthetic = n = _search(count_RK, real, tolerance, min(guaranteed, most), seed)
        found = _deviation(count_RK, real, synthetic, seed)
    needs = float(real_rows_for_rule(vocabulary, tolerance))
    S_0 = float((probability_V**2).sum())
    S_limit = sum_squares_partly_synthetic_limit(real, min(n, 1e18), S_0)
    return Budget(
        real,
        vocabulary,
        tolerance,
        zipf,
        synthetic,
        most,
        *found,
        deviation_limit=limit,
        first_deviation=first_deviation(real, probability_V),
        guaranteed=guaranteed,
        printed=float(largest_safe_amount(real, vocabulary, tolerance)) if real > needs else 0.0,
        printed_needs=float(real_rows_for_rule(vocabulary, tolerance) * math.exp(math.e**2 / (2 * math.pi))),
        sum_squares=(S_0, 1 / real + (1 - 1 / real) * S_0, float(S_limit)),
        runs=len(count_RK),
        seed=seed,
    )


def _check(real: int, vocabulary: int, tolerance: float, runs: int) -> None:
    for name, value, least in (("real", real, 1), ("vocabulary", vocabulary, 2), ("runs", runs, 2)):
        if value < least:
            raise ConfigError(f"{name}={value} must be {least} or more")
    for name, value, most in (("real", real, MOST_REAL), ("vocabulary", vocabulary, MOST_OUTCOMES)):
        if value > most:
            raise ConfigError(f"{name}={value} must be {most:,} or less")
    if not 0 < tolerance < 2:
        raise ConfigError(f"tolerance={tolerance} must be between 0 and 2, the largest L1 distance there is")


def _real_counts(probability_V: FloatArray, real: int, runs: int, seed: int) -> IntArray:
    """The counts of the real rows, [R, K]: largest first, without outcomes that no run has. They can't come back."""
    runs = max(min(runs, MOST_VALUES // min(len(probability_V), real)), FEWEST_RUNS)
    rng = rng_of(seed, 0)
    if real < len(probability_V):  # draw the rows: the counts of all outcomes might not fit in memory
        cumulative_V = np.cumsum(probability_V)
        row_RN = cumulative_V.searchsorted(rng.random((runs, real)) * cumulative_V[-1], side="right")
        count_RV = np.zeros((runs, real), np.int64)
        for run, row_N in enumerate(row_RN):
            seen = np.unique(row_N, return_counts=True)[1]
            count_RV[run, : len(seen)] = seen
    else:
        count_RV = rng.multinomial(real, probability_V, runs)
    count_RV.sort(axis=1)
    return count_RV[:, ::-1][:, : int((count_RV > 0).sum(axis=1).max())].copy()


def _search(count_RK: IntArray, real: int, tolerance: float, safe: float, seed: int) -> int:
    """The largest number of synthetic rows whose deviation, with its interval, is within the tolerance: bisection."""
    low, high = math.floor(safe), MOST_TIMES_REAL * real + 1
    while high - low > max(1, PRECISION * low):
        middle = round(math.sqrt(low * high)) if low > 10 else (low + high) // 2
        if _deviation(count_RK, real, middle, seed)[2] <= tolerance:
            low = middle
        else:
            high = middle
    return low


def _deviation(count_RK: IntArray, real: int, n: int, seed: int) -> tuple[float, float, float]:
    """Simulated E||p^(m) - p^(1)||_1 once it has stopped growing: the mean over runs and its 99% interval."""
    if n == 0:
        return 0.0, 0.0, 0.0
    rng = rng_of(seed, 1)
    p_RK = first_RK = count_RK / real
    for _ in range(settled_after(real, n)):
        p_RK = (count_RK + rng.multinomial(n, p_RK)) / (real + n)
    return interval(np.abs(p_RK - first_RK).sum(axis=1))


def interval(values_R: FloatArray) -> tuple[float, float, float]:
    """The mean over runs and its 99% interval."""
    mean, low, high = mean_interval(values_R)
    return float(mean), float(low), float(high)


def settled_after(real: int, n: int) -> int:
    """Generations on mixed rows after which the deviation has 99.9% of its final size (`added_variance`)."""
    gamma = (n / (real + n)) ** 2 * (1 - 1 / n)
    return 1 if gamma == 0 else math.ceil(math.log(1 - (1 - SETTLED) ** 2) / math.log(gamma)) + 1
