"""Discrete distributions, estimated by relative frequencies (Seddik et al., arXiv 2404.05090; Kazdan et al., arXiv
2410.16713).

Shapes: R runs, C contexts, V outcomes, G generations.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.random import Generator
from typer import Option

from ..errors import ConfigError
from ..types import FloatArray, IntArray
from .generations import rng_of
from .setting import CountSetting
from .sum_squares import expected_sum_squares
from .workflows import Workflow

STEEPEST = 60.0  # Zipf exponent: the second outcome is then as rare as 1e-18


@dataclass(frozen=True)
class Frequencies:
    """The probabilities of each run, shape [R, V] or [R, C, V], and the number of rows they were estimated from."""

    probability: FloatArray
    num_rows: int = 0


class FrequencySetting(CountSetting[Frequencies]):
    """A setting whose model is the share of each outcome, overall or in each of several contexts."""

    def sample(self, model: Frequencies, n: int, rng: Generator) -> IntArray:
        return rng.multinomial(n, model.probability)

    def fit(self, rows: IntArray, truth: Frequencies) -> Frequencies:
        num_rows = int(rows.sum(axis=-1).flat[0])
        return Frequencies(rows / num_rows, num_rows)

    def merge(self, one: Frequencies, other: Frequencies) -> Frequencies:
        total = one.num_rows + other.num_rows
        merged = (one.num_rows * one.probability + other.num_rows * other.probability) / total
        return Frequencies(merged, total)

    def distance(self, model: Frequencies, truth: Frequencies, first: Frequencies) -> dict[str, FloatArray]:
        probability, true = model.probability, truth.probability
        possible = probability > 0
        logprob = np.log(probability, out=np.zeros_like(probability), where=possible)
        found = {
            "sum_squares": (probability**2).sum(axis=-1),
            "l1_truth": np.abs(probability - true).sum(axis=-1),
            "l1_first": np.abs(probability - first.probability).sum(axis=-1),
            "collapsed": (possible.sum(axis=-1) == 1).astype(float),
            "entropy": -(probability * logprob).sum(axis=-1) + 0.0,
            "missing": ((true > 0) & ~possible).sum(axis=-1).astype(float),
        }
        return {measure: value.reshape(len(value), -1).mean(axis=1) for measure, value in found.items()}


@dataclass(frozen=True)
class Categorical(FrequencySetting):
    """A discrete distribution: uniform, or with probabilities proportional to 1/rank^a (Seddik et al.; Kazdan et al.).

    Measures: sum_squares, of the probabilities (S in Seddik et al.; 1 after total collapse); l1_truth and l1_first,
    the sums of absolute differences from the true probabilities and from those of generation 1 (between 0 and 2);
    collapsed, 1 if a single outcome is left; entropy, in nats; missing, the number of lost outcomes.
    """

    outcomes: Annotated[int, Option(help="How many outcomes there are.")] = 10
    support: Annotated[int | None, Option(help="How many outcomes have a probability above 0. Default: all.")] = None
    sum_squares: Annotated[
        float | None,
        Option(help="Sum of the squared probabilities (S_0 in Seddik et al.). Default: uniform."),
    ] = None
    zipf: Annotated[float | None, Option(help="Probabilities ~ 1/rank^ZIPF; not with a sum of squares.")] = None

    def __post_init__(self) -> None:
        if self.outcomes < 1:
            raise ConfigError(f"outcomes={self.outcomes} must be 1 or more")
        if not 1 <= self.support_size <= self.outcomes:
            raise ConfigError(f"support={self.support} must be between 1 and outcomes={self.outcomes}")
        if self.sum_squares is not None and self.zipf is not None:
            raise ConfigError("sum_squares and zipf both set the shape of the distribution: leave one out")
        if self.sum_squares is not None and not 1 / self.support_size <= self.sum_squares < 1:
            raise ConfigError(
                f"sum_squares={self.sum_squares} must be below 1 and at least {1 / self.support_size:.6g}, "
                f"the value of {self.support_size:,} equally likely outcomes"
            )
        if self.zipf is not None and not 0 <= self.zipf <= STEEPEST:
            raise ConfigError(f"zipf={self.zipf} must be between 0 and {STEEPEST:g}")

    @property
    def support_size(self) -> int:
        return self.outcomes if self.support is None else self.support

    def probabilities(self) -> FloatArray:
        """The probabilities of the outcomes, likeliest first, shape [V]."""
        probability_V = np.zeros(self.outcomes)
        probability_V[: self.support_size] = zipf_probabilities(self.support_size, self.exponent())
        return probability_V

    def exponent(self) -> float:
        """The exponent a of the probabilities ~ 1/rank^a, solved for `sum_squares` if that was given."""
        if self.zipf is not None:
            return self.zipf
        target = self.sum_squares
        if target is None or target <= 1 / self.support_size:
            return 0.0
        from scipy.optimize import brentq

        def excess(exponent: float) -> float:
            return float((zipf_probabilities(self.support_size, exponent) ** 2).sum()) - target

        return float(brentq(excess, 0.0, STEEPEST))

    def truth(self, runs: int, num_real: int, rng: Generator) -> Frequencies:
        return Frequencies(np.tile(self.probabilities(), (runs, 1)))

    def expected(self, workflow: Workflow, n: int, num_real: int, generations: int) -> dict[str, FloatArray]:
        S_0 = float((self.probabilities() ** 2).sum())
        expected_G = expected_sum_squares(workflow, n, num_real, generations, S_0)
        return {} if expected_G is None else {"sum_squares": expected_G}


def zipf_probabilities(outcomes: int, exponent: float) -> FloatArray:
    """Probabilities proportional to 1/rank^exponent, shape [V]. Exponent 0: uniform."""
    weight_V = np.arange(1, outcomes + 1, dtype=float) ** -exponent
    probability_V: FloatArray = weight_V / weight_V.sum()
    return probability_V


def collapse_time(
    setting: Categorical, n: int, *, runs: int = 100, seed: int = 0, num_real: int | None = None
) -> IntArray:
    """The generation of each run at which a single outcome is left under replace, shape [R].

    T in Seddik et al.: the first t with max p^(t) = 1. num_real: rows that generation 1 is trained on, by default n.
    Collapsed runs, and outcomes that no run has any more, are left out of the computation.
    """
    for name, value in {"n": n, "num_real": 1 if num_real is None else num_real, "runs": runs}.items():
        if value < 1:
            raise ConfigError(f"{name}={value} must be 1 or more")
    rng = rng_of(seed)
    num_rows = n if num_real is None else num_real
    probability_RV = np.tile(setting.probabilities(), (runs, 1))
    running_R, time_R = np.arange(runs), np.zeros(runs, np.int64)
    generation = 0
    while len(running_R):
        generation += 1
        count_RV = rng.multinomial(num_rows, probability_RV)
        collapsed_R = (count_RV == num_rows).any(axis=1)
        if collapsed_R.any():
            time_R[running_R[collapsed_R]] = generation
            running_R, count_RV = running_R[~collapsed_R], count_RV[~collapsed_R]
            count_RV = count_RV[:, count_RV.any(axis=0)]
        probability_RV = count_RV / num_rows
        num_rows = n
    return time_R
